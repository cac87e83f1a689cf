"""Learning-rate schedules and the moving average against literal formulas and loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from macer.objectives import Cohen
from macer.training import TrainingSettings
from macer.training.average import MovingAverage
from macer.training.schedule import has_dropped, learning_rate

fractions = st.floats(0, 1, exclude_max=True)


def settings(**chosen) -> TrainingSettings:
    return TrainingSettings(objective=Cohen(), **chosen)


def test_the_originals_milestones():
    """Zhai et al. 2020, section 5.1: 0.01 for CIFAR-10, divided by 10 after epochs 200 and 400 of 440."""
    original = settings()
    expected = {0.0: 0.01, 199.99: 0.01, 200.0: 0.001, 399.99: 0.001, 400.0: 0.0001, 439.99: 0.0001}
    for epoch, rate in expected.items():
        assert learning_rate(original, epoch) == pytest.approx(rate, rel=1e-12)
        assert has_dropped(original, epoch) == (epoch >= 200)


@given(st.lists(st.integers(0, 30), max_size=4), st.floats(0.01, 1), st.integers(0, 29), fractions)
def test_milestones_literally(milestones, decay, epoch, share):
    rate = 0.3
    for milestone in milestones:
        if epoch >= milestone:
            rate = rate * decay
    chosen = settings(epochs=30, lr=0.3, lr_milestones=tuple(milestones), lr_decay=decay)
    assert learning_rate(chosen, epoch + share) == pytest.approx(rate, rel=1e-12)
    assert has_dropped(chosen, epoch + share) == any(epoch >= milestone for milestone in milestones)


def test_one_cycle_at_its_corners():
    cycle = settings(epochs=60, lr=0.2, schedule="one-cycle")
    corners = {0.0: 0.0, 7.5: 0.1, 15.0: 0.2, 37.5: 0.1, 60.0: 0.0}  # rise to a quarter, half a cosine to the end
    for epoch, rate in corners.items():
        assert learning_rate(cycle, epoch) == pytest.approx(rate, abs=1e-15)
        assert has_dropped(cycle, epoch) == (epoch >= 15)


@given(st.integers(1, 300), fractions)
def test_one_cycle_literally(epochs, share):
    cycle = settings(epochs=epochs, lr=1.5, schedule="one-cycle")
    after_peak = (share - 0.25) / 0.75
    expected = 1.5 * share / 0.25 if share < 0.25 else 1.5 * (1 + math.cos(math.pi * after_peak)) / 2
    assert learning_rate(cycle, share * epochs) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.integers(1, 50), fractions, fractions, st.sampled_from(["milestones", "one-cycle"]))
def test_after_the_first_drop_the_rate_only_falls(epochs, one, other, schedule):
    chosen = settings(epochs=epochs, schedule=schedule, lr_milestones=(3, 20))
    early, late = sorted((one * epochs, other * epochs))
    if has_dropped(chosen, early):
        assert has_dropped(chosen, late)
        assert learning_rate(chosen, late) <= learning_rate(chosen, early)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.95, 0.9999])
def test_moving_average_literally(decay):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    average = MovingAverage(network, decay)
    names = {name for name, _ in network.named_parameters()}
    expected = {name: value.tolist() for name, value in network.state_dict().items()}

    def mix(old, new, keep):
        if isinstance(old, list):
            return [mix(a, b, keep) for a, b in zip(old, new, strict=True)]
        return keep * old + (1 - keep) * new

    for step in range(1, 40):
        network(torch.randn(5, 3, dtype=torch.float64))  # moves the statistics of batch norm
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value))
        average.update(network, step)
        keep = min(decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = mix(expected[name], value.tolist(), keep if name in names else 0.0)
    average.copy_buffers(network)
    for name, value in average.state.items():
        torch.testing.assert_close(value, torch.tensor(expected[name], dtype=value.dtype), rtol=1e-12, atol=1e-12)


def test_moving_average_does_not_share_memory_with_the_network():
    network = nn.Linear(2, 2)
    average = MovingAverage(network, 0.5)
    before = average.state["weight"].clone()
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(average.state["weight"], before)
