"""Backward passes for a sample of the noisy images: the same gradient in expectation, for less work."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from macer.training.sampled_backward import SampledBackward, keep_probabilities


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def gradients(module: nn.Module, of: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    of.zero_grad()
    F.cross_entropy(module(inputs) * 4, labels).backward()
    return [value.grad.clone() for value in of.parameters() if value.grad is not None]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 1, 3, 4, dtype=torch.float64, generator=drawn)
    return inputs, torch.randint(3, (40,), generator=drawn)


def test_all_of_it_is_the_exact_gradient(batch):
    bare = network()
    sampled = SampledBackward(bare, 1.0, torch.Generator())
    assert torch.equal(sampled(batch[0]), bare(batch[0]))
    for ours, exact in zip(gradients(sampled, bare, *batch), gradients(bare, bare, *batch), strict=True):
        torch.testing.assert_close(ours, exact)


def test_its_mean_is_the_exact_gradient(batch):
    """Over 4,000 draws, each coordinate within 5 standard errors: one chance of failing in 10^4, at a fixed seed."""
    bare, generator = network(), torch.Generator().manual_seed(2)
    exact = torch.cat([each.flatten() for each in gradients(bare, bare, *batch)])
    sampled = SampledBackward(bare, 0.3, generator)
    draws = torch.stack([torch.cat([each.flatten() for each in gradients(sampled, bare, *batch)]) for _ in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert error.max() > 0
    assert ((draws.mean(0) - exact).abs() <= 5 * error + 1e-12).all()


def test_it_evaluates_the_share_of_the_rows_again(batch):
    bare, generator = network(), torch.Generator().manual_seed(3)
    rows: list[int] = []
    bare.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    sampled = SampledBackward(bare, 0.25, generator)
    for _ in range(400):
        gradients(sampled, bare, *batch)
    again = rows[1::2]
    assert rows[0::2] == [40] * 400
    assert abs(sum(again) / 400 - 10) < 0.7  # at most 5 standard deviations of a mean of 400 sums of 40 draws


def test_rows_that_are_not_finite_are_not_hidden():
    lengths = torch.tensor([1.0, float("nan"), 0.0, 1e-3])
    assert keep_probabilities(lengths, 0.25)[1] == 1
    assert keep_probabilities(torch.tensor([1.0, float("inf"), 0.0]), 0.25)[1] == 1


def test_it_has_no_parameters_of_its_own():
    assert not list(SampledBackward(network(), 0.5, torch.Generator()).parameters())


def test_a_gradient_of_zero_asks_for_nothing():
    bare = network()
    (SampledBackward(bare, 0.5, torch.Generator())(torch.ones(4, 1, 3, 4).double()) * 0).sum().backward()
    assert all(value.grad is None for value in bare.parameters())


@given(
    lengths=st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=30),
    share=st.floats(0.01, 1.0),
)
def test_probabilities_are_proportional_and_sum_to_the_share(lengths, share):
    given_lengths = torch.tensor(lengths, dtype=torch.float64)
    found = keep_probabilities(given_lengths, share)
    assert ((found >= 0) & (found <= 1)).all()
    positive = int((given_lengths > 0).sum())
    assert float(found.sum()) == pytest.approx(min(share * len(lengths), positive), rel=1e-6)
    below = (found < 1) & (given_lengths > 0)
    ratios = found[below] / given_lengths[below]
    if len(ratios):
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
        # Who is kept for sure is longer than those who are not.
        assert given_lengths[below].max() <= given_lengths[found == 1].min() if (found == 1).any() else True
