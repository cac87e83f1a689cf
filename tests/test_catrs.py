"""CAT-RS against its algorithm written out, what the attack on the noise keeps, and how many copies count."""

import math

import pytest
import torch
from torch import Tensor, nn

from macer.attacks import worst_noise
from macer.objectives import CatRs
from macer.objectives.catrs import bottom_loss, worst_case_loss
from macer.smoothing.training_noise import training_noise, uniform_draws


def literal_bottom(logits, labels, draws):
    """The loss of each image, in plain loops, and whether all of its copies count."""
    losses, complete = [], []
    for z, label, own in zip(logits, labels.tolist(), draws.tolist(), strict=True):
        each = sorted((-copy.log_softmax(0)[label] for copy in z), key=Tensor.item)
        share = sum(int(copy.argmax()) == label for copy in z) / len(z)
        kept = max(1, sum(draw < share for draw in own))
        losses.append(sum(each[:kept]) / len(z))
        complete.append(kept == len(z))
    return torch.stack(losses), torch.tensor(complete)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_the_bottom_loss_and_its_gradient_are_those_of_the_formula(dtype, tolerance):
    torch.manual_seed(0)
    logits = torch.randn(40, 4, 3, dtype=dtype)
    logits[:20, :, 0] += 3
    logits.requires_grad_()
    labels, draws = torch.zeros(40, dtype=torch.int64), torch.rand(40, 4)
    ours, complete = bottom_loss(logits, labels, draws)
    theirs, all_count = literal_bottom(logits, labels, draws)
    assert 0 < int(all_count.sum()) < 40
    assert torch.equal(complete, all_count)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


def test_at_least_one_copy_counts_even_where_all_are_wrong():
    logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0]]])
    loss, complete = bottom_loss(logits, torch.tensor([0]), torch.zeros(1, 2))
    assert loss.item() == pytest.approx(math.log(1 + math.e) / 2)
    assert not complete


def test_the_number_of_copies_that_count_is_binomial():
    """100,000 images of which 3 of 4 copies are right: chi-squared with 3 degrees of freedom, error rate 1e-4."""
    logits = torch.zeros(100_000, 4, 2)
    logits[:, :3, 0], logits[:, 3, 1] = 1.0, 1.0
    labels = torch.zeros(100_000, dtype=torch.int64)
    draws = torch.rand(100_000, 4, generator=torch.Generator().manual_seed(0))
    loss, _ = bottom_loss(logits, labels, draws)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.e)
    sums = torch.tensor([right / 4, right / 2, 3 * right / 4, (3 * right + wrong) / 4])
    observed = torch.isclose(loss.unsqueeze(1), sums).sum(0).double()
    p = [math.comb(4, k) * 0.75**k * 0.25 ** (4 - k) for k in range(5)]
    expected = 100_000 * torch.tensor([p[0] + p[1], *p[2:]]).double()
    assert observed.sum() == 100_000
    assert ((observed - expected) ** 2 / expected).sum() < 21.1


def test_the_worst_case_is_the_largest_divergence_and_0_where_all_copies_agree():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 4, 3).double(), torch.rand(5, 3).double()
    targets /= targets.sum(1, keepdim=True)
    divergences = (targets.unsqueeze(1) * (targets.unsqueeze(1) / logits.softmax(2)).log()).sum(2)
    torch.testing.assert_close(worst_case_loss(logits, targets), divergences.amax(1))
    agreeing = targets.log().unsqueeze(1).expand(-1, 4, -1)
    torch.testing.assert_close(worst_case_loss(agreeing, targets), torch.zeros(5).double(), rtol=0, atol=1e-12)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(), nn.Linear(16, 3)).double()


def test_the_attack_on_the_noise_raises_the_divergence_and_keeps_what_noise_looks_like(network):
    torch.manual_seed(1)
    images, noise = torch.rand(6, 1, 8, 8).double(), 0.5 * torch.randn(6, 4, 1, 8, 8).double()
    targets = torch.rand(6, 3).double().softmax(1)
    worst = worst_noise(network, images, targets, noise, epsilon=0.5, steps=4)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    network.eval()
    before, after = (
        worst_case_loss(network((images.unsqueeze(1) + each).flatten(0, 1)).unflatten(0, (6, 4)), targets)
        for each in (noise, worst)
    )
    assert (after > before).all()
    for moment in (lambda x: x.mean((2, 3, 4)), lambda x: x.square().mean((2, 3, 4)).sqrt()):
        torch.testing.assert_close(moment(worst), moment(noise))
    # Where the moments are restored by a factor near 1, the noise stays close to the ball that it was projected to.
    assert ((worst - noise).flatten(2).norm(dim=2) < 0.6).all()


def test_one_step_of_the_attack_is_the_literal_one(network):
    torch.manual_seed(1)
    network.eval()
    images, noise = torch.rand(3, 1, 8, 8).double(), 0.5 * torch.randn(3, 2, 1, 8, 8).double()
    targets = torch.rand(3, 3).double().softmax(1)
    worst = worst_noise(network, images, targets, noise, epsilon=0.3, steps=1)
    for i in range(3):
        for j in range(2):
            eta = noise[i, j].clone().requires_grad_()
            p = network((images[i] + eta).unsqueeze(0)).softmax(1)
            (gradient,) = torch.autograd.grad((targets[i] * (targets[i] / p).log()).sum(), eta)
            step = 0.6 * gradient / gradient.norm()
            moved = noise[i, j] + step * 0.3 / step.norm()
            moved = noise[i, j].mean() + (moved - moved.mean()) * noise[i, j].std() / moved.std()
            torch.testing.assert_close(worst[i, j], moved)


def test_the_loss_is_the_sum_of_its_parts(network):
    network.eval()  # without dropout, so that it can be evaluated again
    images, labels = torch.rand(8, 1, 8, 8).double(), torch.arange(8) % 3
    method = CatRs(sigma=0.1, gauss_num=4, steps=2, noise_epsilon=0.5, lbd=2.0)
    loss = method(network, images, labels, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise, draws = training_noise(images, 0.1, 4, generator), uniform_draws(images, 4, generator)
    logits = network((images.unsqueeze(1) + noise).flatten(0, 1)).unflatten(0, (8, 4))
    bottom, complete = literal_bottom(logits, labels, draws)
    assert 0 < int(complete.sum()) < 8
    targets = logits.softmax(2).mean(1).detach()
    worst = worst_noise(network, images, targets, noise, epsilon=0.5, steps=2)
    top = worst_case_loss(network((images.unsqueeze(1) + worst).flatten(0, 1)).unflatten(0, (8, 4)), targets)
    expected = bottom.mean() + 2 * (top * complete).mean()
    torch.testing.assert_close(loss.total, expected)
    gradients = [torch.autograd.grad(total, network[1].weight)[0] for total in (loss.total, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(loss.terms["bottom"] + 2 * loss.terms["worst_case"], expected.detach())
