"""A teacher's votes: counted, kept in a file, refused where they do not fit, and what CAT-RS makes of them."""

import dataclasses
import io
import signal

import pytest
import torch
from rich.console import Console
from test_training import assert_same, settings
from torch import nn

from macer import data
from macer.attacks import worst_noise
from macer.certification import teacher as counting
from macer.certification.teacher import count_teacher_votes
from macer.compute.engine import Engine
from macer.compute.interruption import Interrupted
from macer.data import InMemoryImages
from macer.data.images import digest_of_some
from macer.errors import CheckpointError, RecordsError, SettingsError
from macer.objectives import CatRs, Cohen
from macer.objectives.catrs import bottom_loss, worst_case_loss
from macer.runs.teacher import TeacherVotes, read_teacher_votes, write_teacher_votes
from macer.smoothing.noise import NoiseSource
from macer.smoothing.training_noise import training_noise, uniform_draws
from macer.smoothing.words import Stage
from macer.training import TrainingSettings, load_checkpoint, train

pytest_plugins = ["command"]
SIZE = 50
TEN = tuple("0123456789")
CAT_RS = CatRs(sigma=0.25, gauss_num=2, steps=1)


@pytest.fixture(scope="module")
def images() -> InMemoryImages:
    digits = data.load("digits", None, "train")
    assert isinstance(digits, InMemoryImages)
    return InMemoryImages("digits", "train", digits.images[:SIZE], digits.labels[:SIZE], digits.class_names)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def count(teacher, images, file, **changes) -> TeacherVotes:
    options = {"sigma": 0.25, "n": 150, "seed": 0, "console": Console(file=io.StringIO()), "engine": Engine("cpu")}
    return count_teacher_votes(teacher, images, file, **{**options, **changes})


def random_votes(**changes) -> TeacherVotes:
    counts = torch.zeros(SIZE, 10, dtype=torch.int32)
    counts[:, 3], counts[torch.arange(SIZE), torch.arange(SIZE) % 10] = 40, 60
    counts[3::10, 3] = 100
    made = {"dataset": "digits", "split": "train", "sigma": 0.25, "n": 100, "seed": 0, "network": "none"}
    digits = data.load("digits", None, "train")
    assert isinstance(digits, InMemoryImages)
    made["images"] = digest_of_some(InMemoryImages("a", "train", digits.images[:SIZE], digits.labels[:SIZE], TEN))
    return TeacherVotes(**{"counts": counts, **made, **changes})


def test_votes_are_those_of_the_network_on_each_images_noise(teacher, images, tmp_path):
    votes = count(teacher, images, tmp_path / "teacher.safetensors")
    read = read_teacher_votes(tmp_path / "teacher.safetensors")
    assert torch.equal(read.counts, votes.counts)
    assert read.made == votes.made
    assert read.digest == votes.digest
    source = NoiseSource(0.25, 0)
    for index in (0, 17, 49):
        noisy = source.blocks(images[index][0], index, Stage.PREDICTION, 0, 2)[:150]
        expected = teacher(noisy).argmax(1).bincount(minlength=10)
        assert torch.equal(read.counts[index], expected.int())
        torch.testing.assert_close(read.shares(torch.tensor([index]))[0], expected / 150)


def test_counting_that_was_stopped_goes_on_where_it_was(teacher, images, tmp_path, monkeypatch):
    whole = count(teacher, images, tmp_path / "whole.safetensors")
    file = tmp_path / "teacher.safetensors"
    done = []
    scores = counting.scores_of

    def stopping(kind):
        done.append(kind)
        if len(done) == 20:
            signal.raise_signal(signal.SIGTERM)
        return scores(kind)

    monkeypatch.setattr(counting, "scores_of", stopping)
    with pytest.raises(Interrupted, match=r"stopped after 20 of 50 images; the same command goes on from .*teacher"):
        count(teacher, images, file)
    assert int(read_teacher_votes(file).counted.sum()) == 20
    with pytest.raises(SettingsError, match="votes on 20 of 50 images: give the same `macer teacher` command again"):
        train_with(images, tmp_path / "run", file)
    with pytest.raises(SettingsError, match=r"holds other votes \(n: 150 there, 200 here\)"):
        count(teacher, images, file, n=200)
    assert torch.equal(count(teacher, images, file).counts, whole.counts)
    assert len(done) == 50
    assert file.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def train_with(images, directory, file, objective=CAT_RS, **chosen):
    console = Console(file=io.StringIO(), width=300)
    chosen = settings(objective, teacher=None if file is None else str(file), batch_size=25, **chosen)
    checkpoint = load_checkpoint(train(chosen, images, directory, console=console))
    assert isinstance(console.file, io.StringIO)
    return checkpoint, console.file.getvalue()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": "mnist"}, "votes on mnist train images, but the training is on digits train images"),
        ({"images": "0" * 64}, "votes on other images, though as many of them"),
        ({"split": "test"}, "votes on digits test images, but the training is on digits train images"),
        ({"counts": torch.full((49, 10), 10, dtype=torch.int32)}, "votes on 49 images, but there are 50"),
        ({"counts": torch.full((50, 5), 20, dtype=torch.int32)}, "votes for 5 classes, but there are 10"),
    ],
)
def test_votes_that_do_not_fit_are_refused(images, tmp_path, changes, says):
    write_teacher_votes(random_votes(**changes), tmp_path / "teacher.safetensors")
    with pytest.raises(SettingsError, match=says):
        train_with(images, tmp_path / "run", tmp_path / "teacher.safetensors")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b"PK"),
        lambda file: write_teacher_votes(random_votes(counts=torch.full((50, 10), 9, dtype=torch.int32)), file),
        lambda file: write_teacher_votes(random_votes(sigma=-0.25), file),
        lambda file: file.write_bytes(file.read_bytes().replace(b"0.25", b"null", 1)),
        lambda file: write_teacher_votes(random_votes(counts=-torch.ones(50, 10, dtype=torch.int32)), file),
    ],
)
def test_damaged_votes_are_one_line(images, tmp_path, damage):
    file = tmp_path / "teacher.safetensors"
    write_teacher_votes(random_votes(), file)
    damage(file)
    with pytest.raises(RecordsError, match=r"teacher.safetensors: (No such file|no votes|cannot be read)") as caught:
        read_teacher_votes(file)
    assert "\n" not in str(caught.value)


def test_other_methods_take_no_votes():
    with pytest.raises(SettingsError, match="teacher is for cat-rs, not for cohen"):
        TrainingSettings(objective=Cohen(), teacher="teacher.safetensors")


def test_a_teacher_of_more_noise_is_unusual_and_so_is_none(images, tmp_path):
    for sigma, unusual in ((0.25, False), (0.12, False), (0.5, True)):
        write_teacher_votes(random_votes(sigma=sigma), tmp_path / "teacher.safetensors")
        _, said = train_with(images, tmp_path / f"{sigma}", tmp_path / "teacher.safetensors", epochs=1)
        assert ("its votes are of noise with sigma 0.5, more than the 0.25" in said) == unusual
        assert "without a teacher" not in said
    _, said = train_with(images, tmp_path / "without", None, epochs=1)
    assert "warning: cat-rs trains without a teacher: the mean of the noisy copies stands for its votes" in said


def test_training_with_votes_goes_on_with_the_same_votes_alone(images, tmp_path):
    file = tmp_path / "teacher.safetensors"
    write_teacher_votes(random_votes(), file)
    whole, _ = train_with(images, tmp_path / "whole", file)
    without, _ = train_with(images, tmp_path / "without", None)
    assert not torch.equal(without.network["fc2.weight"], whole.network["fc2.weight"])
    assert whole.teacher == random_votes().digest

    class Stopping(CatRs):
        def loss(self, *arguments, **words):
            if words["progress"].epoch == 0.5:
                signal.raise_signal(signal.SIGTERM)
            return super().loss(*arguments, **words)

    with pytest.raises(Interrupted):
        train_with(images, tmp_path / "run", file, Stopping(**dataclasses.asdict(CAT_RS)))
    write_teacher_votes(random_votes(counts=random_votes().counts.flip(0)), file)
    with pytest.raises(CheckpointError, match="its training had another teacher than"):
        train_with(images, tmp_path / "run", file)
    moved = tmp_path / "moved.safetensors"
    write_teacher_votes(random_votes(), moved)
    assert_same(train_with(images, tmp_path / "run", moved)[0], whole)


def test_the_target_is_the_teachers_and_each_image_has_its_own(teacher):
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
    votes = torch.rand(8, 10).softmax(1)
    method = CatRs(sigma=0.1, gauss_num=4, steps=2, noise_epsilon=0.5, lbd=2.0)
    loss = method(teacher, images, labels, generator=torch.Generator().manual_seed(3), teacher=votes)
    generator = torch.Generator().manual_seed(3)
    noise, draws = training_noise(images, 0.1, 4, generator), uniform_draws(images, 4, generator)
    logits = teacher((images.unsqueeze(1) + noise).flatten(0, 1)).unflatten(0, (8, 4))
    bottom, complete = bottom_loss(logits, labels, draws)
    worst = worst_noise(teacher, images, votes, noise, epsilon=0.5, steps=2)
    top = worst_case_loss(teacher((images.unsqueeze(1) + worst).flatten(0, 1)).unflatten(0, (8, 4)), votes)
    torch.testing.assert_close(loss.total, bottom.mean() + 2 * (top * complete).mean())


def test_the_loop_gives_each_image_its_own_votes(images, tmp_path):
    """The votes of image i are for class i % 10 and 3, and the labels of the images tell which is which."""
    seen = []

    class Watching(CatRs):
        def loss(self, network, images, labels, **words):
            seen.extend(zip(images, words["teacher"], strict=True))
            return super().loss(network, images, labels, **words)

    write_teacher_votes(random_votes(), tmp_path / "teacher.safetensors")
    watching = Watching(**dataclasses.asdict(CAT_RS))
    train_with(images, tmp_path / "run", tmp_path / "teacher.safetensors", watching, epochs=1)
    index_of = {images[index][0].numpy().tobytes(): index for index in range(SIZE)}
    assert len(seen) == SIZE
    for image, votes in seen:
        expected = random_votes().shares(torch.tensor([index_of[image.numpy().tobytes()]]))[0]
        assert torch.equal(votes, expected)


def test_the_command_counts_and_the_training_takes_them(macer, trained, images, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: images)  # the first 50
    file = tmp_path / "teacher.safetensors"
    said = macer("teacher", trained, "--out", file, "--n", 10, "--device", "cpu")
    assert said.code == 0, said.err
    assert f"next: macer train --method cat-rs --dataset digits --network convnet --teacher {file}\n" in said.out
    votes = read_teacher_votes(file)
    assert votes.counts.shape == (SIZE, 10)
    assert votes.counts.sum() == 10 * SIZE
    right = votes.counts.argmax(1) == torch.tensor([images[index][1] for index in range(SIZE)])
    assert right.float().mean() > 0.8
    words = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", "--epochs", 1)
    words = (*words, "--method", "cat-rs", "--gauss-num", 2, "--steps", 1, "--batch-size", 25, "--teacher", file)
    assert macer(*words, "--out", tmp_path / "run").code == 0
    assert macer.refuses("teacher", trained, "--out", tmp_path / "teacher.npy").endswith("ends in .safetensors")
