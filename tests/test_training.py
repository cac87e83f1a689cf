"""The loop: the same weights however often it is stopped, the same gradient however a batch is cut, any objective."""

import dataclasses
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from macer import data, models
from macer.compute.interruption import Interrupted
from macer.data import InMemoryImages
from macer.errors import CheckpointError, SettingsError
from macer.objectives import (
    CatRs,
    Cohen,
    Consistency,
    HardData,
    Loss,
    Macer,
    Objective,
    SmoothAdv,
    SmoothMix,
    Stability,
)
from macer.objectives.base import option
from macer.runs.metrics import read_metrics
from macer.training import TrainingSettings, load_checkpoint, train
from macer.training.divergence import TrainingDiverged

pytest_plugins = ["command"]

SIZE = 50


@pytest.fixture(scope="module")
def images() -> InMemoryImages:
    """So few digits that an epoch takes milliseconds."""
    digits = data.load("digits", None, "train")
    assert isinstance(digits, InMemoryImages)
    return InMemoryImages("digits", "train", digits.images[:SIZE], digits.labels[:SIZE], digits.class_names)


def settings(objective: Objective | None = None, **chosen) -> TrainingSettings:
    tiny = {"dataset": "digits", "network": "convnet", "device": "cpu", "epochs": 2, "batch_size": 20, "lr": 0.05}
    return TrainingSettings(objective=objective or Macer(gauss_num=2), **{**tiny, **chosen})


def run(chosen: TrainingSettings, images: InMemoryImages, directory: Path):
    return load_checkpoint(train(chosen, images, directory, console=Console(file=io.StringIO())))


def assert_same(one, other) -> None:
    """Two checkpoints hold the same state, bit for bit."""
    assert (one.epoch, one.step) == (other.epoch, other.step)
    pairs = [(one.network, other.network), (one.average or {}, other.average or {})]
    pairs += [
        (one.optimizer["state"][key], other.optimizer["state"][key])
        for key in one.optimizer["state"].keys() | other.optimizer["state"].keys()
    ]
    for left, right in pairs:
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), name
    assert torch.equal(one.random["cpu"], other.random["cpu"])


def metrics(directory: Path) -> list[dict[str, str]]:
    """The lines of metrics.tsv without what depends on the clock."""
    header, *lines = (directory / "metrics.tsv").read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


VARIANTS = {
    "milestones, average, clip": {"lr_milestones": (1, 2), "average": 0.9, "clip": 0.5},
    "one-cycle, nesterov": {"schedule": "one-cycle", "nesterov": True, "micro_batch": 7},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopping(Macer):
    """MACER, stopped once, in the step of a given number."""

    calls: list = dataclasses.field(default_factory=list)
    at: int = 0
    how: str = "signal"

    def __call__(self, *arguments, **words) -> Loss:
        self.calls.append(words["progress"].epoch)
        if len(set(self.calls)) == self.at + 1 and self.calls.count(self.calls[-1]) == 1:
            if self.how == "signal":
                signal.raise_signal(signal.SIGTERM)
            else:
                raise ZeroDivisionError
        return super().__call__(*arguments, **words)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_in_any_step_and_resumed_it_gives_the_same_weights(images, tmp_path, variant):
    chosen = settings(epochs=3, **VARIANTS[variant])
    whole = run(chosen, images, tmp_path / "whole")
    steps = 3
    assert (whole.epoch, whole.step) == (3, 0)
    for how, at in [("signal", step) for step in range(3 * steps)] + [("error", steps), ("error", 2 * steps + 1)]:
        directory = tmp_path / f"{how}-{at}"
        stopping = Stopping(gauss_num=2, at=at, how=how)
        with pytest.raises((Interrupted, ZeroDivisionError)):
            train(_disguised(chosen, stopping), images, directory, console=Console(file=io.StringIO()))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        stopped = directory / "checkpoints" / "last.pt"
        kept = load_checkpoint(stopped)
        # A signal loses nothing; a crash loses what came after the last epoch's end.
        assert kept.epoch * steps + kept.step == (at + 1 if how == "signal" else at // steps * steps)
        shown = io.StringIO()
        train(chosen, images, directory, console=Console(file=shown, width=500))
        assert (
            f"continues in epoch {kept.epoch + 1}, after {kept.step} of 3 steps" in shown.getvalue() or kept.epoch == 3
        )
        assert_same(load_checkpoint(stopped), whole)
        assert metrics(directory) == metrics(tmp_path / "whole")
    assert [row["epoch"] for row in metrics(tmp_path / "whole")] == ["1", "2", "3"]


def _disguised(chosen: TrainingSettings, objective: Objective) -> TrainingSettings:
    """Settings with another objective that say in a run's directory that they are the old ones."""
    disguised = dataclasses.replace(chosen, objective=objective)
    object.__setattr__(disguised, "tables", chosen.tables)
    return disguised


COMMAND = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", "--epochs", 3)
COMMANDS = {
    "milestones": ("--lr-milestones", "1,2", "--average", 0.99, "--clip", 1),
    "one-cycle": ("--schedule", "one-cycle", "--average", 0.9, "--clip", 0.2, "--deferred"),
}


@pytest.fixture(scope="module", params=COMMANDS)
def undisturbed(request, macer, tmp_path_factory):
    """A command, and the run that it leaves when nobody disturbs it."""
    command = (*COMMAND, *COMMANDS[request.param], "--batch-size", 100, "--gauss-num", 4, "--lr", 0.05)
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    assert macer(*command, "--out", directory).code == 0
    return command, directory


def test_killed_at_random_moments_it_gives_the_same_weights(macer, undisturbed, tmp_path):
    """kill -9, with a checkpoint written after every step, so that many kills fall into the writing."""
    command, whole = undisturbed
    directory = tmp_path / "run"
    checkpoint = directory / "checkpoints" / "last.pt"
    chance = random.Random(1)
    kills = 0
    for _ in range(5):
        process = macer.start(*command, "--out", directory, "--checkpoint-every", 1e-9)
        before = checkpoint.stat().st_ino if checkpoint.exists() else None
        deadline = time.monotonic() + 60
        while (checkpoint.stat().st_ino if checkpoint.exists() else None) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.signal(signal.SIGKILL)
        kills += process.wait().code == -signal.SIGKILL
        torch.load(checkpoint, weights_only=True)
    assert kills >= 3
    assert macer(*command, "--out", directory).code == 0
    assert_same(load_checkpoint(checkpoint), load_checkpoint(whole / "checkpoints" / "last.pt"))
    assert metrics(directory) == metrics(whole)
    assert [row["epoch"] for row in metrics(directory)] == ["1", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_installed_command_stops_in_an_epoch_and_goes_on(macer, undisturbed, tmp_path, number):
    command, whole = undisturbed
    if (number == signal.SIGINT) == ("one-cycle" in command):
        pytest.skip("one signal for each of the commands is enough")
    directory = tmp_path / "run"
    words = [str(word) for word in (Path(sys.executable).with_name("macer"), *command, "--out", directory)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (directory / "tensorboard").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    checkpoint = directory / "checkpoints" / "last.pt"
    kept = load_checkpoint(checkpoint)
    where = f"epoch {kept.epoch + 1}, after {kept.step} of "
    assert error.splitlines()[-1].startswith(f"macer: training stopped in {where}")
    assert error.splitlines()[-1].endswith(f" steps; the same command goes on from {checkpoint}")
    assert kept.epoch < 3
    assert kept.step > 0
    assert macer(*command, "--out", directory).code == 0
    assert_same(load_checkpoint(checkpoint), load_checkpoint(whole / "checkpoints" / "last.pt"))
    assert metrics(directory) == metrics(whole)


def test_a_full_disk_stops_training_in_one_line_and_it_goes_on(macer, undisturbed, tmp_path):
    command, whole = undisturbed
    directory = tmp_path / "run"
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))"
    said = macer.refuses(*command, "--out", directory, before=full)
    assert "last.pt: could not be written" in said
    assert not list((directory / "checkpoints").iterdir())
    assert macer(*command, "--out", directory).code == 0
    assert_same(
        load_checkpoint(directory / "checkpoints" / "last.pt"), load_checkpoint(whole / "checkpoints" / "last.pt")
    )


def test_steps_on_parts_of_a_batch_are_steps_of_their_own(images, tmp_path):
    """Four parts of 20 are batches of 5: the same steps, bit for bit, also where the last batch is not whole."""
    parts = run(settings(batch_size=20, steps_per_batch=4, epochs=1), images, tmp_path / "parts")
    assert parts.step == 0
    assert_same(parts, run(settings(batch_size=5, epochs=1), images, tmp_path / "batches"))
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "batches")
    with pytest.raises(SettingsError, match="steps_per_batch 3 does not divide batch_size 20"):
        settings(batch_size=20, steps_per_batch=3)


def test_a_finished_training_is_left_as_it_is(images, tmp_path):
    first = run(settings(), images, tmp_path)
    assert_same(run(settings(), images, tmp_path), first)
    assert len(metrics(tmp_path)) == 2


def test_the_same_seed_gives_the_same_weights_and_another_one_others(images, tmp_path):
    first = run(settings(), images, tmp_path / "1")
    torch.manual_seed(123)
    assert_same(run(settings(), images, tmp_path / "2"), first)
    other = run(settings(seed=1), images, tmp_path / "3")
    assert not torch.equal(other.network["fc2.weight"], first.network["fc2.weight"])


def test_a_directory_with_other_settings_is_refused_by_name(images, tmp_path):
    run(settings(), images, tmp_path)
    with pytest.raises(SettingsError, match=r"\(lr: 0.05 there, 0.1 here\)"):
        run(settings(lr=0.1), images, tmp_path)
    with pytest.raises(SettingsError, match=r"lbd: 12.0 there, 3.0 here"):
        run(settings(Macer(gauss_num=2, lbd=3.0)), images, tmp_path)
    run(settings(root="elsewhere"), images, tmp_path)


def test_a_run_whose_checkpoint_is_another_networks_is_refused(images, tmp_path):
    run(settings(average=0.9), images, tmp_path / "1")
    for change in ({"network": {"weight": torch.zeros(1)}}, {"average": None}, {"optimizer": {}}, {"random": {}}):
        directory = tmp_path / "-".join(change)
        run(settings(average=0.9), images, directory)
        content = torch.load(tmp_path / "1" / "checkpoints" / "last.pt", weights_only=True)
        torch.save({**content, **change}, directory / "checkpoints" / "last.pt")
        with pytest.raises(CheckpointError) as caught:
            run(settings(average=0.9), images, directory)
        assert "\n" not in str(caught.value)


def test_one_step_is_the_formula_of_clipped_nesterov_sgd(images, tmp_path):
    """Gradient of the whole batch, clipped by its norm, weight decay, momentum: two steps by hand in float32."""
    objective = Cohen(sigma=0.1, gauss_num=1)
    rate, momentum, decay, clip = 0.3, 0.8, 0.01, 0.05
    chosen = settings(objective, lr=rate, momentum=momentum, weight_decay=decay, clip=clip, epochs=2, batch_size=SIZE)
    recorded: list[tuple[Tensor, Tensor]] = []

    class Recording(Cohen):
        def loss(self, network, images, labels, *, generator, progress) -> Loss:
            noisy = images + self.sigma * torch.empty_like(images).normal_(generator=generator)
            recorded.append((noisy, labels))
            loss = F.cross_entropy(network(noisy), labels)
            return Loss(loss, {})

    trained = run(_disguised(chosen, Recording(sigma=0.1)), images, tmp_path)
    first, second = recorded
    from macer.compute.seeding import derive_seed

    torch.manual_seed(derive_seed(0, "network"))
    network = models.build("convnet", 10, (1, 8, 8))
    buffers: list[Tensor] = []
    for noisy, labels in (first, second):
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(F.cross_entropy(network(noisy), labels), parameters)
        norm = torch.sqrt(sum((gradient.square().sum() for gradient in gradients), torch.zeros(())))
        assert norm > clip
        steps = [gradient * clip / norm + decay * value for gradient, value in zip(gradients, parameters, strict=True)]
        buffers = [momentum * old + step for old, step in zip(buffers, steps, strict=True)] if buffers else steps
        with torch.no_grad():
            for value, buffer in zip(parameters, buffers, strict=True):
                value.sub_(rate * buffer)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trained.network[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [Macer(gauss_num=3, gamma=100.0), Cohen(gauss_num=2)], ids=lambda each: each.name)
def test_parts_of_a_batch_give_the_gradient_of_the_whole(images, tmp_path, objective):
    """The noise of an 8 x 8 image fills whole blocks of torch's generator, so every cut sees the same noise."""
    chosen = {"epochs": 1, "batch_size": SIZE, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    whole = run(settings(objective, micro_batch=SIZE, **chosen), images, tmp_path / "whole")
    start = run(settings(objective, micro_batch=SIZE, **{**chosen, "lr": 1e-30}), images, tmp_path / "start")
    for size in (1, 7, 49):
        parts = run(settings(objective, micro_batch=size, **chosen), images, tmp_path / str(size))
        for name, value in whole.network.items():
            gradient = value - start.network[name]
            assert gradient.abs().max() > 0
            difference = (parts.network[name] - value).abs().max()
            assert difference < 1e-4 * gradient.abs().max() + 1e-6, name


class Counting(Cohen):
    """Cohen's objective, noting how many images it is given at once."""

    sizes: list[int] = []  # noqa: RUF012

    def __call__(self, network, images, labels, **words) -> Loss:
        self.sizes.append(len(images))
        return super().__call__(network, images, labels, **words)


@pytest.mark.parametrize(
    ("network", "micro_batch", "expected"),
    [("convnet", 0, [16, 16, 16, 2]), ("convnet", 30, [30, 20]), ("resnet20", 0, [50])],
)
def test_a_batch_is_cut_by_itself_unless_batch_norm_couples_its_images(
    images, tmp_path, network, micro_batch, expected
):
    Counting.sizes.clear()
    objective = Counting(gauss_num=16)
    run(settings(objective, network=network, micro_batch=micro_batch, epochs=1, batch_size=SIZE), images, tmp_path)
    assert Counting.sizes == expected


@pytest.mark.parametrize(
    ("schedule", "dropped_from"), [({"lr_milestones": (2, 3)}, 2.0), ({"schedule": "one-cycle"}, 1.0)]
)
def test_deferred_lambda_starts_with_the_first_drop(images, tmp_path, schedule, dropped_from):
    seen: dict[float, bool] = {}

    class Watching(Macer):
        def loss(self, network, images, labels, *, generator, progress) -> Loss:
            loss = super().loss(network, images, labels, generator=generator, progress=progress)
            seen[progress.epoch] = bool(loss.total != loss.terms["classification"])
            return loss

    chosen = settings(Watching(gauss_num=2, gamma=100.0, deferred=True), epochs=4, batch_size=10, **schedule)
    run(chosen, images, tmp_path)
    assert list(seen) == pytest.approx([step / 5 for step in range(20)])
    assert not any(robust for epoch, robust in seen.items() if epoch < dropped_from - 1e-9)
    assert any(robust for epoch, robust in seen.items() if dropped_from - 1e-9 <= epoch < dropped_from + 0.99)
    robustness = [float(row["robustness"]) for row in metrics(tmp_path)]
    assert [value > 0 for value in robustness] == [epoch >= dropped_from for epoch in range(4)]


def test_metrics_are_means_over_the_images(images, tmp_path):
    run(settings(Cohen(sigma=0.2, gauss_num=3), lr_milestones=(1,)), images, tmp_path)
    rows = metrics(tmp_path)
    assert list(rows[0]) == ["epoch", "learning_rate", "loss", "classification", "noisy_images"]
    assert [row["learning_rate"] for row in rows] == ["0.05", "0.005"]
    assert rows[0]["noisy_images"] == str(3 * SIZE)
    assert rows[0]["loss"] == rows[0]["classification"]
    assert 1.5 < float(rows[0]["loss"]) < 3.5  # ln 10 = 2.3 for a network that knows nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Objective):
    """An objective of a user's own: a squared error, with a number of its own and one that turns to NaN."""

    name = "toy"
    steep: float = option(2.0, "how steep")
    nan_from: float = option(1e9, "epoch from which the loss is not a number")

    @property
    def samples(self) -> int:
        return 1

    def loss(self, network: nn.Module, images, labels, *, generator, progress) -> Loss:
        target = F.one_hot(labels, 10).float()
        total = self.steep * (network(images) - target).square().mean()
        total = total * (float("nan") if progress.epoch >= self.nan_from else 1.0)
        return Loss(total, {"error": total.detach()})


OBJECTIVES = [
    Macer(gauss_num=2),
    Macer(gauss_num=1, deferred=True),
    Cohen(),
    Cohen(gauss_num=3, sigma=1.0),
    SmoothAdv(gauss_num=2, steps=2, warmup=1),
    Consistency(),
    Stability(),
    SmoothMix(gauss_num=2, steps=2),
    CatRs(gauss_num=2, steps=2),
    HardData(gauss_num=2, steps=2, hard_from=1, drop_below=0.0),
    Toy(steep=3.0),
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_every_objective_trains_in_the_same_loop(images, tmp_path, objective, precision):
    chosen = settings(objective, epochs=2, batch_size=SIZE, precision=precision)
    start = run(dataclasses.replace(chosen, lr=1e-30), images, tmp_path / "start")
    trained = run(chosen, images, tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in trained.network.values())
    assert any(not torch.equal(value, start.network[name]) for name, value in trained.network.items())
    row = metrics(tmp_path / "run")[-1]
    assert float(row["noisy_images"]) == SIZE * objective.samples
    assert trained.settings["objective"]["name"] == objective.name


@pytest.mark.parametrize(
    ("objective", "setting"),
    [
        (HardData(gauss_num=1, steps=1, hard_from=2), "hard_from"),
        (HardData(gauss_num=1, steps=1, hard_from=1, drop_below=0.0), None),
        (Macer(gauss_num=1, deferred=True), "deferred"),
        (SmoothAdv(gauss_num=1, steps=1, warmup=3), "warmup"),
        (SmoothAdv(gauss_num=1, steps=1, warmup=2), None),
        (SmoothMix(gauss_num=1, steps=1, warmup=3), "warmup"),
    ],
    ids=str,
)
def test_a_training_that_ends_before_its_method_begins_in_full_says_so(images, tmp_path, objective, setting):
    console = Console(file=io.StringIO(), width=300)
    train(settings(objective, epochs=2, batch_size=SIZE), images, tmp_path / "run", console=console)
    warned = [line for line in console.file.getvalue().splitlines() if line.startswith("warning: ")]
    says = f"warning: {setting} holds {objective.name} back in all 2 epochs, which are too few"
    assert warned == ([] if setting is None else [says])


def test_an_objectives_own_numbers_are_in_the_runs_record(images, tmp_path):
    assert run(settings(Toy(steep=3.0)), images, tmp_path).settings["objective"] == {
        "name": "toy",
        "class": f"{__name__}:Toy",
        "sigma": 0.25,
        "steep": 3.0,
        "nan_from": 1e9,
    }
    with pytest.raises(SettingsError, match=r"steep: 3\.0 there, 4.0 here"):
        run(settings(Toy(steep=4.0)), images, tmp_path)


def test_divergence_names_the_place_and_keeps_the_last_good_checkpoint(images, tmp_path):
    chosen = settings(Toy(nan_from=1.5), epochs=3, batch_size=13)
    with pytest.raises(TrainingDiverged) as caught:
        run(chosen, images, tmp_path)
    file = tmp_path / "checkpoints" / "last.pt"
    assert "in step 3 of epoch 2 (loss nan, error nan)" in str(caught.value)
    assert f"the last good checkpoint is {file}" in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = load_checkpoint(file)
    assert kept.epoch == 1
    assert all(torch.isfinite(value).all() for value in kept.network.values())
    assert len(metrics(tmp_path)) == 1


def test_the_last_line_shows_the_mean_losses_of_the_last_epoch(images, tmp_path):
    shown = io.StringIO()
    train(settings(Cohen(), epochs=3), images, tmp_path, console=Console(file=shown, width=500))
    loss = float(metrics(tmp_path)[-1]["loss"])
    assert shown.getvalue().rstrip().endswith(f"epoch 3, loss {loss:.3f}, classification {loss:.3f}")


def test_divergence_names_lambda(images, tmp_path):
    for clip, objective, says in (
        (0.0, Consistency(lbd=1e38), r"A smaller lr or lbd \(now 1e\+38\), or clip 1, may help"),
        (
            0.0,
            Macer(gauss_num=2, lbd=2.0, consistency=1e38),
            r"A smaller lr or lbd \(now 2\) or consistency \(now 1e\+38\)",
        ),
        (0.0, Cohen(sigma=1e38), r"A smaller lr, or clip 1, may help"),
        (1.0, SmoothMix(sigma=1e38, lbd=0.0), r"A smaller lr, or a smaller clip, may help"),
    ):
        with pytest.raises(TrainingDiverged, match=says):
            run(settings(objective, clip=clip), images, tmp_path / objective.name)


def test_divergence_of_the_weights_in_an_epochs_last_step_is_that_epochs(images, tmp_path):
    with pytest.raises(
        TrainingDiverged, match=r"after step 1 of epoch 1 \(weights (nan|inf|-inf); sums: .*\); there is no checkpoint"
    ):
        run(settings(Toy(steep=1e30), lr=1e30, batch_size=SIZE), images, tmp_path)
    assert not (tmp_path / "metrics.tsv").exists()


def test_a_huge_learning_rate_is_one_line(macer, tmp_path):
    """One step an epoch on one-cycle: the first is of rate 0 and good, the next ones are not."""
    options = ("--schedule", "one-cycle", "--batch-size", 1297, "--gauss-num", 1, "--lr", 1e6, "--epochs", 6)
    said = macer.refuses(*COMMAND[:-2], *options, "--out", tmp_path)
    assert "the loss is no longer finite " in said
    assert "step 1 of epoch " in said
    assert "classification" in said
    kept = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert kept.epoch >= 1
    assert all(torch.isfinite(value).all() for value in kept.network.values())


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"batch_size": 51}, "batch_size 51 is more than the 50 training images"),
        ({"num_images": 51}, "num_images 51 is more than the 50 training images"),
        ({"validation_images": 50}, "validation_images 50 leaves nothing of the 50 training images"),
        ({"validation_images": 3, "num_images": 48}, "the 47 training images that validation_images 3 leaves"),
        ({"network": "resnet20", "easy_fraction": 0.5}, "easy_fraction is for one process, and for networks without"),
        ({"network": "resnet20", "backward_fraction": 0.5}, "backward_fraction is for one process, and for networks"),
        ({"sync_batch_norm": True}, "sync_batch_norm is for GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(images, tmp_path, chosen, says):
    with pytest.raises(SettingsError, match=says):
        run(settings(**chosen), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_the_weights_of_an_epoch(images, tmp_path):
    """Without momentum nothing but weights is carried from epoch to epoch: the result is that of a whole training."""
    chosen = settings(epochs=3, momentum=0.0, lr_milestones=(2,))
    whole = run(chosen, images, tmp_path / "whole")
    first = run(dataclasses.replace(chosen, epochs=1), images, tmp_path / "first")
    later = dataclasses.replace(chosen, start_epoch=1)
    file = train(later, images, tmp_path / "later", console=Console(file=io.StringIO()), initial=first.network)
    assert_same(load_checkpoint(file), whole)
    assert metrics(tmp_path / "later") == metrics(tmp_path / "whole")[1:]
    assert len(read_metrics(tmp_path / "later" / "metrics.tsv")["epoch"]) == 2


def test_the_moving_average_is_that_of_the_weights_after_each_step(images, tmp_path):
    decay, steps = 0.6, 3
    runs = [run(settings(epochs=epochs, batch_size=SIZE), images, tmp_path / f"{epochs}") for epochs in (1, 2, 3)]
    start = run(settings(epochs=1, batch_size=SIZE, lr=1e-30), images, tmp_path / "start")
    averaged = run(settings(epochs=3, batch_size=SIZE, average=decay), images, tmp_path / "averaged")
    assert averaged.average is not None
    for name, value in averaged.network.items():
        assert torch.equal(value, runs[-1].network[name])  # it follows, it does not lead
        expected = start.network[name].double()
        for step in range(1, steps + 1):
            keep = min(decay, (1 + step) / (10 + step))
            expected = keep * expected + (1 - keep) * runs[step - 1].network[name].double()
        torch.testing.assert_close(averaged.average[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_the_first_images_of_a_split_are_a_data_set_of_their_own(images, tmp_path):
    fewer = InMemoryImages("digits", "train", images.images[:30], images.labels[:30], images.class_names)
    part = run(settings(num_images=30), images, tmp_path / "part")
    assert_same(part, run(settings(), fewer, tmp_path / "whole"))


def test_a_run_of_an_earlier_version_goes_on_where_new_settings_keep_their_defaults(images, tmp_path):
    """That version's settings.toml does not name what it did not know."""
    run(settings(), images, tmp_path)
    file = tmp_path / "settings.toml"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    known_since = ("validation_images", "noise_per")
    file.write_text("".join(line for line in lines if not line.startswith(known_since)), encoding="utf-8")
    run(settings(), images, tmp_path)
    with pytest.raises(SettingsError, match="noise_per: step there, image here"):
        run(settings(noise_per="image"), images, tmp_path)
