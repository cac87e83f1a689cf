"""Training a denoiser: both objectives of denoised smoothing, its own settings, and what it is for afterwards."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import macer as package
from macer.errors import MacerError
from macer.models.dncnn import DnCNN
from macer.objectives import Cohen, Denoise
from macer.runs.checkpoint import load_checkpoint, save_checkpoint
from macer.training import TrainingSettings, loop

pytest_plugins = ["command"]

FEW = {"epochs": 2, "batch_size": 32, "num_images": 64, "optimizer": "adam", "lr": 1e-3, "progress": False}


def small() -> DnCNN:
    torch.manual_seed(0)
    return DnCNN(1, depth=4, width=8)


def test_the_losses_are_those_of_the_paper() -> None:
    """MSE and stability of arXiv 2003.01908, written out: the classifier's answer to the clean image is the label."""
    torch.manual_seed(0)
    images, labels = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    denoiser, classifier = nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    classifier.requires_grad_(False)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    clean = denoiser(images + 0.5 * noise)
    error = Denoise(sigma=0.5)(denoiser, images, labels, generator=torch.Generator().manual_seed(1)).total
    torch.testing.assert_close(error, (clean - images).square().sum() / images.numel())
    stable = Denoise(sigma=0.5)(
        denoiser, images, labels, generator=torch.Generator().manual_seed(1), classifier=classifier
    ).total
    answers = classifier(images).argmax(1)
    assert answers.unique().numel() > 1
    torch.testing.assert_close(stable, -classifier(clean).log_softmax(1)[range(6), answers].mean())
    (gradient,) = torch.autograd.grad(stable, denoiser.weight)
    (expected,) = torch.autograd.grad(F.cross_entropy(classifier(clean), answers), denoiser.weight)
    torch.testing.assert_close(gradient, expected)


def test_a_trained_denoiser_removes_noise_and_helps_a_classifier_that_saw_none(tmp_path: Path) -> None:
    """On the digits, a classifier trained on clean images alone is certified bare and behind a small DnCNN."""
    digits = package.data.load("digits", None, "train")
    pixels = torch.stack([digits[index][0] for index in range(len(digits))])
    labels = torch.tensor([digits[index][1] for index in range(len(digits))])
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(classifier(pixels), labels).backward()
        optimizer.step()
    torch.manual_seed(0)
    sigma, network = 0.5, DnCNN(1, depth=4, width=16)
    chosen = FEW | {"num_images": 0, "epochs": 6, "lr": 3e-3, "schedule": "one-cycle", "weight_decay": 0.0}
    run = package.train(
        images="digits", network=network, method="denoiser", sigma=sigma, out=tmp_path / "run", **chosen
    )
    assert run.metrics()["squared_error"][-1] < 0.25 * sigma**2  # the images as they are have sigma^2; here 0.18
    chosen = {"sigma": sigma, "n": 500, "skip": 10, "progress": False}
    bare = package.certify(classifier, "digits", **chosen)
    denoised = package.certify(classifier, "digits", denoiser=run.network, **chosen)
    acr = [float((each.frame()["radius"] * each.frame()["correct"]).mean()) for each in (bare, denoised)]
    assert acr[1] > 1.4 * acr[0]  # 0.185 and 0.098


def test_stability_starts_from_a_denoiser_and_leaves_the_classifier_alone(macer, trained, tmp_path) -> None:
    common = ("--dataset", "digits", "--method", "denoiser", "--num-images", 64, "--batch-size", 32, "--epochs", 1)
    common += ("--optimizer", "adam", "--lr", 0.001, "--device", "cpu", "--sigma", 0.5)
    first = macer("train", *common, "--out", tmp_path / "mse")
    assert first.code == 0, first
    assert f"next: macer certify CLASSIFIER --denoiser {tmp_path / 'mse'}" in first.out
    classifier = Path(shutil.copytree(trained, tmp_path / "classifier"))
    stability = (*common, "--classifier", classifier, "--out", tmp_path / "stability")
    second = macer("train", *stability, "--init", tmp_path / "mse")
    assert second.code == 0, second
    assert f"next: macer certify {classifier} --denoiser {tmp_path / 'stability'}" in second.out
    weights = [load_checkpoint(tmp_path / name / "checkpoints" / "last.pt").network for name in ("mse", "stability")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    file = classifier / "checkpoints" / "last.pt"
    other = load_checkpoint(file)
    next(iter(other.network.values())).add_(1)
    save_checkpoint(other, file)
    line = macer.refuses("train", *stability, "--init", tmp_path / "mse")
    assert "its training had another classifier than" in line
    few = ("--n0", 10, "--n", 100, "--num-img", 3, "--device", "cpu", "--compile", "no")
    out = ("--out", tmp_path / "c")
    assert macer("certify", trained, "--denoiser", tmp_path / "stability", *few, *out).code == 0
    assert package.load_results(tmp_path / "c").frame()["sigma"].unique() == [0.5]  # the denoiser's, not the network's
    assert "holds" in macer("verify", tmp_path / "c", "--images", 1, "--device", "cpu").out.splitlines()
    line = macer.refuses("certify", tmp_path / "mse", *few)
    assert line.endswith("is a denoiser, which has no classes: name a classifier, and this as its denoiser")


def test_a_denoiser_of_adam_goes_on_bit_for_bit(tmp_path: Path) -> None:
    digits = {"images": "digits", "method": "denoiser", **FEW}
    whole = package.train(network=small(), out=tmp_path / "whole", **digits)

    class Stop(Exception):
        pass

    steps = []
    step = loop._Loop.train_step

    def stopping(self: loop._Loop, *arguments: torch.Tensor) -> int:
        if len(steps) == 3:
            self.state.save(self.log.totals())
            raise Stop
        steps.append(1)
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "train_step", stopping)
        with pytest.raises(Stop):
            package.train(network=small(), out=tmp_path / "parts", **digits)
    parts = package.train(network=small(), out=tmp_path / "parts", **digits)
    ends = [each.checkpoint().network for each in (whole, parts)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"network": "lenet"}, "denoiser trains denoisers, and lenet is none: choose one of dncnn, dncnn-wide"),
        ({"network": "dncnn", "validation_images": 5}, "validation_images is for classifiers"),
        ({"network": "dncnn", "normalisation": "cifar10"}, "normalisation is for classifiers"),
    ],
)
def test_settings_of_classifiers_are_refused(chosen: dict, words: str) -> None:
    with pytest.raises(MacerError, match=words):
        TrainingSettings(objective=Denoise(), **chosen)


def test_a_denoiser_is_not_trained_as_a_classifier() -> None:
    with pytest.raises(MacerError, match="cohen trains classifiers, and dncnn is none"):
        TrainingSettings(objective=Cohen(), network="dncnn")
    with pytest.raises(MacerError, match="classifier is for denoiser, not for cohen"):
        TrainingSettings(objective=Cohen(), network="lenet", classifier="run")


def test_the_recipes_are_the_published_settings() -> None:
    """Of microsoft/denoised-smoothing, code/train_denoiser.py: its defaults."""
    for name in ("mnist/denoiser", "cifar10/denoiser"):
        table = package.recipes.read_recipe(name)["training"]
        assert (table["optimizer"], table["lr"], table["weight_decay"], table["lr_decay"]) == ("adam", 1e-3, 1e-4, 0.1)
        assert (table["epochs"], table["batch_size"], table["lr_milestones"]) == (90, 256, [30, 60])


UNFIT_CLASSIFIERS = {
    "of_colours": ("nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))", "fails on images of shape"),
    "of_a_size": ("nn.Sequential(nn.Flatten(), nn.Linear(256, 10))", "fails on images of shape"),
    "of_maps": ("nn.Conv2d(1, 4, 3)", r"returned shape (8, 4, 6, 6) for 8 images of 10 classes"),
    "of_five": ("nn.Sequential(nn.Flatten(), nn.Linear(64, 5))", r"returned shape (8, 5) for 8 images of 10 classes"),
}


@pytest.mark.parametrize("case", UNFIT_CLASSIFIERS)
def test_a_classifier_that_does_not_fit_is_one_line(macer, case, tmp_path, monkeypatch) -> None:
    built, says = UNFIT_CLASSIFIERS[case]
    (tmp_path / f"unfit_{case}.py").write_text(f"from torch import nn\n\n\ndef build():\n    return {built}\n")
    monkeypatch.chdir(tmp_path)
    name = f"unfit_{case}:build"
    options = ("--dataset", "digits", "--network", "dncnn", "--num-images", 60, "--batch-size", 60, "--epochs", 1)
    said = macer.refuses("train", "--method", "denoiser", *options, "--classifier", name, "--out", "x")
    assert said.startswith(f"macer: classifier {name}: the network ")
    assert says in said
    assert not Path("x").exists()
