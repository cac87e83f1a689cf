"""Leaving easy images out of steps: fewer noisy images, the same expected gradient."""

import io
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from macer import data
from macer.errors import SettingsError
from macer.objectives import Macer
from macer.training import TrainingSettings, fabric_for, load_checkpoint, train
from macer.training.loop import _Loop
from macer.training.processes import Processes
from macer.training.selection import EASY, select
from macer.training.state import TrainingState


@pytest.fixture
def batch() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Half of the images are easy: their one pixel is far on the right side."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network.load_state_dict({"1.weight": torch.tensor([[-10.0], [10.0]])})
    labels = torch.arange(40) % 2
    size = torch.where(torch.arange(40) < 20, 3.0, 0.05)
    return network, ((2 * labels - 1) * size).view(40, 1, 1, 1).double(), labels


def chosen(batch, share: float, seed: int) -> dict[int, float]:
    network, images, labels = batch
    generator = torch.Generator().manual_seed(seed)
    parts = select(network, images, labels, sigma=0.01, easy_fraction=share, generator=generator)
    return {position: part.weight for part in parts for position in part.positions.tolist()}


def test_every_hard_image_is_kept_and_easy_ones_by_chance(batch):
    seen = torch.zeros(20)
    for seed in range(2000):
        found = chosen(batch, 0.25, seed)
        assert {position: found.pop(position) for position in range(20, 40)} == dict.fromkeys(range(20, 40), 1.0)
        assert set(found.values()) <= {4.0}
        seen[list(found)] += 1
    # 20 binomials of 2,000 draws: beyond 5 standard deviations once in 80,000 times.
    assert ((seen / 2000 - 0.25).abs() < 5 * (0.25 * 0.75 / 2000) ** 0.5).all()


def test_the_expected_gradient_is_that_of_all_images(batch):
    """The same noise for all draws of the selection, so that only that is random: 5 standard errors of 4,000 draws."""
    network, images, labels = batch

    def gradient(weights: dict[int, float]) -> torch.Tensor:
        network.zero_grad()
        losses = F.cross_entropy(network(images[list(weights)]) / 20, labels[list(weights)], reduction="none")
        (losses * torch.tensor(list(weights.values()))).sum().backward()
        return network[1].weight.grad.flatten().clone()

    exact = gradient(dict.fromkeys(range(40), 1.0))
    draws = torch.stack([gradient(chosen(batch, 0.3, seed)) for seed in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert (error > 0).all()
    assert ((draws.mean(0) - exact).abs() < 5 * error).all()


def test_with_a_share_of_one_nothing_is_drawn(batch):
    assert chosen(batch, 1.0, 0) == dict.fromkeys(range(40), 1.0)


def test_a_batch_of_easy_images_keeps_one_that_counts_nothing(batch):
    network, images, labels = batch
    generator = torch.Generator().manual_seed(0)
    parts = select(network, images[:3], labels[:3], sigma=1e-6, easy_fraction=1e-9, generator=generator)
    assert [(part.positions.tolist(), part.weight) for part in parts] == [([0], 0.0)]


def test_easy_is_a_small_loss(batch):
    network, images, labels = batch
    with torch.no_grad():
        losses = F.cross_entropy(network(images), labels, reduction="none")
    assert (losses[:20] < EASY / 10).all()
    assert (losses[20:] > EASY * 10).all()


def settings(**more) -> TrainingSettings:
    objective = more.pop("objective", Macer(gauss_num=4, lbd=1.0))
    base = {"dataset": "digits", "network": "convnet", "device": "cpu", "epochs": 3, "batch_size": 64, "lr": 0.1}
    return TrainingSettings(objective=objective, **{**base, **more})


def run(chosen_settings: TrainingSettings, directory) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    images = data.load("digits", None, "train")
    file = train(chosen_settings, images, directory, console=Console(file=io.StringIO()))
    header, *lines = (directory / "metrics.tsv").read_text().splitlines()
    names = header.split("\t")
    rows = [dict(zip(names, map(float, line.split("\t")), strict=True)) for line in lines]
    return rows, load_checkpoint(file).network


@pytest.mark.parametrize(
    "more", [{"easy_fraction": 0.1}, {"backward_fraction": 0.3}, {"easy_fraction": 0.1, "clip": 1.0}]
)
def test_training_on_a_selection_learns_as_well(tmp_path, more):
    whole, _ = run(settings(), tmp_path / "whole")
    part, weights = run(settings(**more), tmp_path / "part")
    assert whole[-1]["noisy_images"] == 1297 * 4
    assert part[-1]["noisy_images"] < 1297 * 5 if "easy_fraction" in more else part[-1]["noisy_images"] == 1297 * 4
    assert part[-1]["classification"] < 1.5 * whole[-1]["classification"] + 0.1
    again, same = run(settings(**more), tmp_path / "again")
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    assert again[-1]["loss"] == part[-1]["loss"]


def test_the_loops_gradient_has_the_exact_expectation(tmp_path, monkeypatch):
    """Both options at once, in parts of 7 images, for one batch and fixed noise: 600 draws of the selection.

    Of 20 random directions, none beyond 4.5 standard errors: one chance in 7,000. Easy is here what has a loss below 1,
    so that a wrong weight of those would show.
    """
    monkeypatch.setattr("macer.training.selection.EASY", 1.0)
    images = data.load("digits", None, "train")
    x, y = images.images[:30].float() / 255, images.labels[:30]
    directions = torch.randn(20, 650, generator=torch.Generator().manual_seed(0))

    def network(*_: object) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def projections(share: float, draws: int) -> torch.Tensor:
        chosen = settings(easy_fraction=share, backward_fraction=share, micro_batch=7, noise_per="image", batch_size=30)
        fabric = fabric_for(chosen)
        state = TrainingState(chosen, images, fabric, tmp_path / "last.pt")
        state.start(Processes(fabric), None)
        with torch.no_grad():
            for value in state.module.parameters():
                value.mul_(8)  # so that some images are easy
        found: list[torch.Tensor] = []

        def collect() -> None:
            found.append(directions @ torch.cat([value.grad.flatten() for value in state.module.parameters()]))

        def clear(set_to_none: bool) -> None:
            state.module.zero_grad(set_to_none=False)

        state.optimizer = SimpleNamespace(param_groups=[], step=collect, zero_grad=clear)
        loop = _Loop(state, images)
        for draw in range(draws):
            state.epoch, state.step = draw, 0
            loop.train_step(x, y, torch.arange(30))
        return torch.stack(found)

    monkeypatch.setattr("macer.models.build", network)
    monkeypatch.setattr(
        "macer.training.loop.noise_generators",
        lambda _state, batch: [torch.Generator().manual_seed(each) for each in range(batch)],
    )
    (exact,) = projections(1.0, 1)
    draws = projections(0.3, 600)
    error = draws.std(0) / 600**0.5
    assert error.min() > 0
    assert ((draws.mean(0) - exact).abs() < 4.5 * error).all()


def test_networks_that_answer_otherwise_when_asked_again_are_refused(tmp_path, monkeypatch):
    def network(*_: object) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))

    monkeypatch.setattr("macer.models.build", network)
    with pytest.raises(SettingsError, match="networks without dropout"):
        run(settings(backward_fraction=0.5), tmp_path / "run")
