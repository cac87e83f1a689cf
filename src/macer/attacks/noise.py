"""Attacks on the noise instead of the image: noise of the same size that misleads the network more."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from macer.attacks.base import Images, Noise, keep_in_ball, norms, unit
from macer.smoothing.loss import smoothed_loss
from macer.smoothing.network import evaluating, logits_of_copies

Rows = Float[Tensor, "rows classes"]
NoiseRows = Float[Tensor, "rows channels height width"]


def worst_noise(
    network: nn.Module,
    images: Images,
    targets: Float[Tensor, "batch classes"],
    noise: Noise,
    *,
    epsilon: float,
    steps: int,
) -> Noise:
    """Return noise within epsilon of `noise` for which the network's predictions are far from the targets.

    CAT-RS, Jeong, Kim and Shin 2023 (arXiv 2212.09000): each noise sample climbs KL(target || F(x + noise)) by
    itself, with steps of length 2 * epsilon / steps, and is projected into the ball around where it began. After each
    step it gets back the mean and the standard deviation that its pixels had, and so their root mean square. (Released
    code divides by the root mean square before it subtracts the mean, which changes the root mean square slightly.)

    The network runs in eval mode, its mode is restored, and its parameters get no gradients. The cost is steps * m
    forward and backward passes per image.

    Args:
        network: maps images to logits.
        images: in [0, 1].
        targets: the class probabilities of each image.
        noise: the m noise samples of each image, already multiplied by sigma.
        epsilon: radius of the L2 ball around each noise sample, in units of [0, 1] pixels.
        steps: number of steps.
    """
    start = moved = noise.flatten(0, 1)
    each_target = targets.repeat_interleave(noise.shape[1], 0)
    with evaluating(network):
        for _ in range(steps):
            # The entropy of the targets is a constant of the Kullback-Leibler divergence.
            direction, _ = _ascent(
                network, images, moved, lambda logits: F.cross_entropy(logits, each_target, reduction="sum")
            )
            step = keep_in_ball(moved + 2 * epsilon / steps * direction - start, epsilon)
            moved = _with_moments_of(start, start + step)
    return moved.view_as(noise)


def misleading_noise(
    network: nn.Module,
    images: Images,
    labels: Int64[Tensor, " batch"],
    noise: Noise,
    *,
    step_size: float,
    steps: int,
) -> Noise:
    """Return noise of the same length for which the network is wrong, as far as so many steps find it.

    Sun et al. 2025 (arXiv 2410.06895): each noise sample climbs the cross-entropy by itself. A sample for which the
    network is wrong stays as it is. The others go `step_size` along the gradient and are scaled to the length that they
    had at first. Network, images, noise and cost are as in `worst_noise`.

    Args:
        network: maps images to logits.
        images: in [0, 1].
        labels: their classes, which the attack tries to change.
        noise: the m noise samples of each image, already multiplied by sigma.
        step_size: length of a step, in units of [0, 1] pixels.
        steps: number of steps.
    """
    moved = noise.flatten(0, 1)
    length = norms(moved)
    each_label = labels.repeat_interleave(noise.shape[1])
    with evaluating(network):
        for _ in range(steps):
            direction, logits = _ascent(
                network, images, moved, lambda logits: smoothed_loss(logits.unsqueeze(1), each_label).sum()
            )
            stepped = moved + step_size * direction
            stepped = stepped * (length / norms(stepped).clamp_min(torch.finfo(length.dtype).tiny))
            wrong = (logits.argmax(1) != each_label).view(-1, 1, 1, 1)
            moved = moved.where(wrong, stepped)
    return moved.view_as(noise)


def _ascent(
    network: nn.Module, images: Images, noise: NoiseRows, loss: Callable[[Rows], Tensor]
) -> tuple[NoiseRows, Rows]:
    """Return the unit direction in which each noise sample raises its loss, and the logits.

    Args:
        network: in eval mode.
        images: in [0, 1].
        noise: one row per noise sample, those of an image one after the other.
        loss: from the logits of all samples to the sum, or the mean, of their losses.
    """
    with torch.enable_grad():
        point = noise.detach().requires_grad_()
        logits = logits_of_copies(network, images.unsqueeze(1) + point.unflatten(0, (len(images), -1)))
        logits = logits.flatten(0, 1)
        (gradient,) = torch.autograd.grad(loss(logits), point)
    return unit(gradient), logits.detach()


def _with_moments_of(start: NoiseRows, moved: NoiseRows) -> NoiseRows:
    """Return `moved` with the mean and the standard deviation over all pixels that each of `start` has."""
    (std, mean), (moved_std, moved_mean) = (
        torch.std_mean(each, (1, 2, 3), correction=0, keepdim=True) for each in (start, moved)
    )
    return mean + (moved - moved_mean) * (std / moved_std.clamp_min(torch.finfo(std.dtype).tiny))
