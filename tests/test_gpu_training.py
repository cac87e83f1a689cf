"""Training on a GPU: every method, compiled and not, stopped and gone on with."""

import io
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from on_gpu import CPU, DEVICE, MARKS, compiles, digits, method, tiny
from rich.console import Console

from macer import data, models
from macer.compute.device import exact_float32
from macer.compute.interruption import Interrupted
from macer.data import InMemoryImages
from macer.data.images import digest_of_some
from macer.objectives import OBJECTIVES, Cohen
from macer.runs.checkpoint import load_checkpoint
from macer.smoothing import noise
from macer.training import TrainingSettings, train

pytest_plugins = ["command"]
pytestmark = MARKS


def trained(chosen: TrainingSettings, directory: Path, **more: Any):
    """The checkpoint of a training, whose losses and weights are finite, and its log."""
    shown = io.StringIO()
    file = train(chosen, more.pop("images", None) or digits(), directory, console=Console(file=shown), **more)
    lines = [line.split("\t") for line in (directory / "metrics.tsv").read_text().splitlines()]
    log = [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:]]
    assert all(np.isfinite(list(row.values())).all() for row in log)
    checkpoint = load_checkpoint(file)
    assert all(value.isfinite().all() for value in checkpoint.network.values())
    return checkpoint, log


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_those_of_the_cpu(name, monkeypatch):
    """The same weights, images and random numbers on both devices."""
    made: list[int] = []

    def from_the_cpu(draw, empty, _generator):
        made.append(1)
        drawn = draw(torch.empty(empty.shape, dtype=empty.dtype), generator=torch.Generator().manual_seed(len(made)))
        return empty.copy_(drawn)

    monkeypatch.setattr(noise, "_filled", from_the_cpu)
    torch.manual_seed(0)
    objective = method(name)
    network = models.build("dncnn" if objective.denoises else "convnet", 10, (1, 8, 8))
    images, labels = digits().images[:16].float() / 255, digits().labels[:16]
    found = []
    for device in (CPU, DEVICE):
        made.clear()
        network = network.to(device).train()
        network.zero_grad()
        with exact_float32(device):
            loss = objective(network, images.to(device), labels.to(device))
            loss.total.backward()
        assert loss.total.device.type == device.type
        found.append((loss.total.detach().cpu(), [each.grad.cpu().clone() for each in network.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for there, here in zip(found[0][1], found[1][1], strict=True):
        assert (there - here).abs().max() <= 1e-3 * max(float(there.abs().max()), 1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_method_trains(name, precision, tmp_path):
    images = digits()
    checkpoint, log = trained(tiny(method(name), precision=precision, average=0.9), tmp_path, images=images)
    assert checkpoint.epoch == 2
    assert len(log) == 2
    assert images.images.device.type == DEVICE.type, "they move once"
    (group,) = checkpoint.optimizer["param_groups"]
    assert group["fused"] is True
    assert checkpoint.average is not None
    assert any(not torch.equal(value, checkpoint.network[key]) for key, value in checkpoint.average.items())
    assert all(value.dtype == torch.float32 for value in checkpoint.network.values() if value.is_floating_point())
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").network.keys() == checkpoint.network.keys()


@compiles
@pytest.mark.parametrize(("name", "precision"), [("macer", "32-true"), ("smoothadv", "bf16-mixed")])
def test_compiled_training_is_training(name, precision, tmp_path):
    """`auto` compiles on GPUs. In float32 the losses are those without, but for rounding."""
    chosen = tiny(method(name), precision=precision, compile="auto")
    _, compiled = trained(chosen, tmp_path / "compiled")
    _, plain = trained(replace(chosen, compile="no"), tmp_path / "plain")
    for one, other in zip(compiled, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3 if precision == "32-true" else 0.05)


class Disturbing(InMemoryImages):
    """Images with which a signal comes, in the step of that number over all epochs."""

    at: int

    def batches(self, *arguments: Any, **chosen: Any) -> Iterator[Any]:
        for batch in super().batches(*arguments, **chosen):
            self.at -= 1
            if self.at == 0:
                signal.raise_signal(signal.SIGINT)
            yield batch


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize(
    "chosen",
    [
        {"average": 0.9, "clip": 1.0},
        {"optimizer": "adam", "lr": 0.002, "noise_per": "image"},
        {"precision": "bf16-mixed", "nesterov": True},
        {"easy_fraction": 0.5, "backward_fraction": 0.5},
    ],
    ids=["average", "adam", "bfloat16", "fractions"],
)
def test_interrupted_training_goes_on(chosen, at, tmp_path, monkeypatch):
    """With deterministic kernels, to the same weights bit for bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = tiny(**chosen)
    whole, _ = trained(settings, tmp_path / "whole")
    images = digits(Disturbing)
    images.at = at
    with pytest.raises(Interrupted):
        trained(settings, tmp_path / "parts", images=images)
    kept = load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.pt")
    assert kept.epoch * 4 + kept.step == at
    resumed, _ = trained(settings, tmp_path / "parts")
    different = []
    for what in ("network", "average") if "average" in chosen else ("network",):
        for key, value in getattr(whole, what).items():
            other = getattr(resumed, what)[key]
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)
            different += [] if torch.equal(value, other) else [key]
    assert not different, f"close, but not equal: {different}"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("first", "then"), [("cpu", DEVICE.type), (DEVICE.type, "cpu")])
def test_training_goes_on_on_another_device(optimizer, first, then, tmp_path):
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    settings = tiny(optimizer=optimizer, lr=0.002, device=first)
    with pytest.raises(Stop):
        trained(settings, tmp_path, after_epoch=stop)
    checkpoint, log = trained(replace(settings, device=then), tmp_path)
    assert checkpoint.epoch == len(log) == 2


def test_batch_norm_validation_and_synchronised_statistics(tmp_path):
    chosen = {"network": "resnet20", "validation_images": 4, "num_images": 40, "sync_batch_norm": True}
    checkpoint, log = trained(tiny(**chosen), tmp_path)
    assert log[-1]["acr_estimate"] >= 0
    tracked = [key for key in checkpoint.network if key.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(checkpoint.network[key]) == 4 for key in tracked)


def test_images_have_the_same_digest_wherever_they_lie():
    images = digits()
    before = digest_of_some(images)
    next(images.batches(torch.arange(4), 2, device=DEVICE, seed=0, epoch=0))
    assert images.images.device.type == DEVICE.type
    assert digest_of_some(images) == before


def test_pictures_are_decoded_for_the_device(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    for split, label in ((split, label) for split in ("train", "test") for label in ("ant", "bee")):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8, 3), 40 * number + (100 if label == "bee" else 0), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    images = data.load("folder", str(tmp_path), "train")
    batches = list(images.batches(torch.arange(len(images)), 4, device=DEVICE, seed=0, epoch=0))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert all(each.device.type == DEVICE.type for batch in batches for each in batch)
    found = torch.cat([batch for batch, _ in batches]).mean((1, 2, 3)).cpu()
    expected = torch.stack([images[at][0].mean() for at in range(len(images))])
    torch.testing.assert_close(found, expected)


@compiles
def test_a_run_of_the_command(macer, tmp_path):
    """Training that certifies meanwhile, a teacher's votes, training with them, the report."""
    device = ("--device", "auto")
    common = ("--dataset", "digits", "--network", "convnet", *device, "--epochs", 2, "--num-images", 200)
    certified = ("--certify-num-img", 5, "--certify-n", 500, "--certify-from-epoch", 2)
    run = tmp_path / "run"
    first = macer("train", *common, "--method", "cohen", "--precision", "auto", *certified, "--out", run)
    assert (first.code, first.err) == (0, "")
    votes = tmp_path / "teacher.safetensors"
    assert macer("teacher", run, "--n", 10, *device, "--out", votes).code == 0
    second = ("--method", "cat-rs", "--steps", 1, "--gauss-num", 2, "--teacher", votes, "--compile", "no")
    assert macer("train", *common, *second, "--num-images", 0, "--out", tmp_path / "second").code == 0
    assert macer("certify", run, *device, "--n", 500, "--num-img", 3, "--out", tmp_path / "c").code == 0
    pytest.importorskip("plotly")
    report = macer("report", tmp_path / "c", *device, "--out", tmp_path / "report.html")
    assert report.code == 0, report


def test_a_plain_loop_of_the_person():
    """docs/your-own-loop.md: on a GPU, move network, images and labels, and give a generator of it."""
    torch.manual_seed(0)
    network = models.build("convnet", 10, (1, 8, 8)).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    images, labels = digits().images.to(DEVICE).float() / 255, digits().labels.to(DEVICE)
    losses = []
    for step in range(20):
        generator = torch.Generator(DEVICE).manual_seed(step)
        loss = Cohen(sigma=0.1)(network, images, labels, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
