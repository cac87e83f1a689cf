"""SmoothMix's loss against its formula written out, the label at both ends of the mixture, and the attack's path."""

import pytest
import torch
from torch import nn

from macer.attacks import climb
from macer.objectives import Progress, SmoothMix
from macer.objectives.smoothmix import mixture_loss
from macer.smoothing.training_noise import training_noise, uniform_draws


def literal(logits, mixed, labels, share):
    """The loss of each image in plain loops over probabilities, in double precision."""
    losses = []
    for z, mixture, label, s in zip(logits.double(), mixed.double(), labels.tolist(), share.double(), strict=True):
        mean = sum(copy.exp() / copy.exp().sum() for copy in z) / len(z)
        target = (1 - s) * mean + s / len(mean)
        each = [(target * (target.log() - (copy.exp() / copy.exp().sum()).log())).sum() for copy in mixture]
        losses.append(sum(each) / len(each) if int(mean.argmax()) == label else z.sum() * 0)
    return torch.stack(losses)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(("copies", "classes"), [(1, 3), (4, 10)])
def test_loss_and_gradient_are_those_of_the_formula(copies, classes, dtype, tolerance):
    torch.manual_seed(0)
    labels, share = torch.arange(6) % classes, torch.rand(6, dtype=dtype) / 2
    leaves = [(3 * torch.randn(6, copies, classes, dtype=dtype)).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        leaves[0][:4].scatter_add_(
            2, labels[:4].view(-1, 1, 1).expand(-1, copies, 1), torch.full((4, copies, 1), 9.0).to(dtype)
        )
    ours, theirs = mixture_loss(*leaves, labels, share), literal(*leaves, labels, share)
    assert (ours > 0).sum() >= 4
    torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
    for one, other in zip(*(torch.autograd.grad(each.sum(), leaves) for each in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def test_the_label_is_the_prediction_at_0_and_halfway_to_uniform_at_a_half():
    """KL(label || F) is 0 where F is the label, and the label is what it is 0 for."""
    logits = torch.tensor([[[3.0, 1.0, 0.0]]]).double()
    prediction = logits.softmax(2)
    for share, label in ((0.0, prediction), (0.5, prediction / 2 + 1 / 6)):
        loss = mixture_loss(logits, label.log(), torch.tensor([0]), torch.tensor([share]).double())
        torch.testing.assert_close(loss, torch.zeros(1).double(), rtol=0, atol=1e-12)
        other = mixture_loss(logits, (0.9 * label + 0.1 / 3).log(), torch.tensor([0]), torch.tensor([share]).double())
        assert other.item() > 1e-4


def test_it_is_finite_far_beyond_saturation():
    logits = torch.tensor([[[1e4, 0.0, -1e4]]], requires_grad=True)
    mixed = torch.tensor([[[0.0, 1e4, 0.0]]], requires_grad=True)
    for share in (0.0, 1e-30, 0.5):
        loss = mixture_loss(logits, mixed, torch.tensor([0]), torch.tensor([share])).sum()
        assert all(torch.isfinite(each).all() for each in (loss, *torch.autograd.grad(loss, (logits, mixed))))


class Quadratic(nn.Module):
    """Two classes of which the second becomes likelier with the sum of the pixels."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(total), total - 2], dim=1)


def test_the_attack_climbs_in_steps_of_one_length_until_the_box_ends():
    images, noise = torch.full((2, 1, 2, 2), 0.1), torch.zeros(2, 3, 1, 2, 2)
    path = climb(Quadratic(), images, torch.tensor([0, 1]), noise, step_size=0.5, steps=5)
    assert len(path) == 6
    assert torch.equal(path[0], images)
    # The gradient is the same for all four pixels: 0.25 each per step, up to 1 and down to 0.
    torch.testing.assert_close(torch.stack(path)[:, 0, 0, 0, 0], torch.tensor([0.1, 0.35, 0.6, 0.85, 1.0, 1.0]))
    torch.testing.assert_close(torch.stack(path)[:, 1, 0, 0, 0], torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize(("epoch", "grown"), [(0.5, 0.25), (2.0, 0.75), (9.0, 1.0)])
@pytest.mark.parametrize("first_step", [0, 1])
def test_one_step_is_the_literal_algorithm(first_step, epoch, grown):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    images, labels = torch.rand(5, 1, 4, 4).double(), torch.tensor([0, 1, 2, 0, 1])
    method = SmoothMix(sigma=0.5, gauss_num=3, steps=2, climb_size=0.7, lbd=2.0, first_step=first_step, warmup=4)
    loss = method(network, images, labels, generator=torch.Generator().manual_seed(5), progress=Progress(epoch=epoch))

    generator = torch.Generator().manual_seed(5)
    noise = training_noise(images, 0.5, 3, generator)
    point, path = images.clone(), [images]
    for _ in range(2):
        point = point.detach().requires_grad_()
        p = sum(network(point + noise[:, i]).softmax(1) for i in range(3)) / 3
        (gradient,) = torch.autograd.grad(-p.gather(1, labels.unsqueeze(1)).log().sum(), point)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        point = (point + 0.7 * gradient / length).clamp(0, 1)
        path.append(point.detach())
    moved = path[first_step] - images
    longest = grown * 0.7 * first_step
    moved = moved * (longest / moved.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
    start = (images + moved).clamp(0, 1)
    share = uniform_draws(images, 1, generator).squeeze(1).double() / 2
    s = share.view(-1, 1, 1, 1)
    logits, mixed = (
        torch.stack([network(each + noise[:, i]) for i in range(3)], dim=1)
        for each in (start, (1 - s) * start + s * path[-1])
    )
    classification = -logits.log_softmax(2).gather(2, labels.view(-1, 1, 1).expand(-1, 3, 1)).mean()
    mixture = literal(logits, mixed, labels, share).mean()
    assert loss.terms["classification"].item() == pytest.approx(classification.item(), rel=1e-6)
    assert loss.terms["mixture"].item() == pytest.approx(mixture.item(), rel=1e-6)
    expected = classification + 2 * grown * mixture
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(total, network[1].weight)[0] for total in (loss.total, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
