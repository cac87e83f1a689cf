"""What training shows of itself on the way: the estimate of ACR, the first bad step, the rate of the network alone."""

import io
import math
import time
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from macer import data
from macer.compute.rate import training_rate
from macer.compute.seeding import derive_seed
from macer.objectives import Cohen
from macer.smoothing import SmoothedClassifier
from macer.smoothing.bounds import clopper_pearson_lower
from macer.smoothing.radius import certified_radius
from macer.training import Checkpoint, TrainingSettings, load_checkpoint, train
from macer.training.divergence import FirstBadStep
from macer.training.validation import ALPHA, N0, N, acr_estimate

pytest_plugins = ["command"]


def settings(**more) -> TrainingSettings:
    chosen = {"dataset": "digits", "network": "convnet", "device": "cpu", "epochs": 2, "batch_size": 64, "lr": 0.1}
    return TrainingSettings(objective=Cohen(gauss_num=1), **{**chosen, **more})


@pytest.mark.parametrize(("total", "held_out"), [(10, 3), (1297, 100), (7, 6), (5, 0)])
def test_validation_images_are_spread_and_never_trained_on(total, held_out):
    chosen = settings(validation_images=held_out, batch_size=1)
    validation, trained_on = chosen.validation_indices(total).tolist(), chosen.training_indices(total).tolist()
    assert len(validation) == held_out
    assert sorted(validation + trained_on) == list(range(total))
    gaps = [b - a for a, b in zip([-1, *validation], [*validation, total], strict=True)]
    assert max(gaps) <= math.ceil(total / max(held_out, 1)) + 1


def test_num_images_counts_those_that_are_trained_on():
    assert len(settings(validation_images=3, num_images=7).training_indices(10)) == 7


def test_the_estimate_is_the_average_radius_of_right_answers():
    """Against certificates made one by one, of the class that is each image's, at the same numbers of samples."""
    images = data.load("digits", None, "train")
    pixels, labels = images.images.float().div(255).flatten(1), images.labels
    means = torch.stack([pixels[labels == label].mean(0) for label in range(10)])
    linear = nn.Linear(64, 10)  # the nearest mean
    linear.load_state_dict({"weight": means, "bias": -means.square().sum(1) / 2})
    network = nn.Sequential(nn.Flatten(), linear).train()
    indices = torch.arange(0, 200, 10)
    found = acr_estimate(network, network.state_dict(), images, indices, sigma=0.25, seed=5)
    assert network.training
    classifier = SmoothedClassifier(network, 0.25, 10, seed=derive_seed(5, "validation"))
    radii = []
    for index in indices.tolist():
        image, label = images[index]
        certificate = classifier.certify(image, N0, N, ALPHA, image_index=index)
        p = clopper_pearson_lower(round(certificate.count), N, ALPHA)
        radii.append(certified_radius(p, 0.25) if certificate.predict == label else 0.0)
    assert found == pytest.approx(sum(radii) / len(radii), abs=1e-9)
    assert 0 < found < 2.47 * 0.25


def test_the_estimate_changes_nothing_but_the_log(tmp_path, monkeypatch):
    images = data.load("digits", None, "train")

    def run(name: str) -> Checkpoint:
        file = train(
            settings(validation_images=20, average=0.5), images, tmp_path / name, console=Console(file=io.StringIO())
        )
        return load_checkpoint(file)

    first = run("first")
    header, *lines = (tmp_path / "first" / "metrics.tsv").read_text().splitlines()
    assert header.endswith("\tacr_estimate")
    assert len(lines) == 2
    monkeypatch.setattr("macer.training.loop.acr_estimate", lambda *words, **more: 0.0)
    blind = run("blind")
    assert all(torch.equal(value, first.network[name]) for name, value in blind.network.items())
    assert torch.equal(blind.random["cpu"], first.random["cpu"])
    learned = float(lines[1].split("\t")[-1])
    assert 0 < learned < 2.47 * 0.25


def test_the_first_bad_step_is_remembered():
    bad = FirstBadStep()
    assert bad.find() is None
    values = [(1.0, 2.0), (1.0, math.inf), (math.nan, 3.0), (1.0, 1.0)]
    for step, (loss, robustness) in enumerate(values, start=1):
        bad.note(step, {"loss": torch.tensor(loss), "robustness": torch.tensor(robustness)})
        found = bad.find()
        assert (found is None) == (step < 2)
    assert found == (2, {"loss": 1.0, "robustness": math.inf})


def test_the_limit_is_the_bare_networks_rate_and_leaves_it_as_it_is():
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x):
            time.sleep(0.02)
            return self.norm(x)

    network, state = Slow(), torch.get_rng_state()
    fabric = SimpleNamespace(device=torch.device("cpu"), autocast=lambda: torch.autograd.set_grad_enabled(True))
    rate = training_rate(network, (1, 4, 4), 10, fabric, seconds=0.2)
    assert 50 < rate < 500  # 10 images in 20 ms and what comes on top of it
    assert int(network.norm.num_batches_tracked) == 0
    assert network.norm.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


TELLING = """
import torch
compile = torch.nn.Module.compile
torch.nn.Module.compile = lambda *words, **more: (print("compiling"), compile(*words, **more))[1]
"""


def test_a_compiled_network_trains_alike(macer, digits, tmp_path):
    """Compiling rounds otherwise; the checkpoint keeps its names."""
    words = ("train", *digits.options, "--epochs", 1, "--num-images", 256, "--method", "cohen", "--lr", 0.05)
    kept = {}
    for choice in ("no", "yes"):
        result = macer(*words, "--compile", choice, "--out", tmp_path / choice, before=TELLING)
        assert result.code == 0, result
        assert ("compiling\n" in result.out) == (choice == "yes")
        kept[choice] = load_checkpoint(tmp_path / choice / "checkpoints" / "last.pt").network
    assert kept["no"].keys() == kept["yes"].keys()
    for name, value in kept["no"].items():
        torch.testing.assert_close(kept["yes"][name], value, rtol=1e-3, atol=1e-4)
