"""An attack on the noise instead of the image: noise with the same moments that misleads the network most."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from macer.attacks.base import Images, Noise, keep_in_ball, unit
from macer.smoothing.network import evaluating, logits_of_copies


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
    shape = noise.shape
    start = noise.flatten(0, 1)
    moved = start
    with evaluating(network), torch.enable_grad():
        for _ in range(steps):
            point = moved.detach().requires_grad_()
            logits = logits_of_copies(network, images.unsqueeze(1) + point.view(shape))
            # The entropy of the targets is a constant of the Kullback-Leibler divergence.
            loss = F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(shape[1], 0), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
            step = keep_in_ball(point.detach() + 2 * epsilon / steps * unit(gradient) - start, epsilon)
            moved = _with_moments_of(start, start + step)
    return moved.detach().view(shape)


def _with_moments_of(start: Images, moved: Images) -> Images:
    """Return `moved` with the mean and the standard deviation over all pixels that each of `start` has."""
    (std, mean), (moved_std, moved_mean) = (
        torch.std_mean(each, (1, 2, 3), correction=0, keepdim=True) for each in (start, moved)
    )
    return mean + (moved - moved_mean) * (std / moved_std.clamp_min(torch.finfo(std.dtype).tiny))
