"""An attack that climbs the loss of the smoothed network without a ball."""

from jaxtyping import Int64
from torch import Tensor, nn

from macer.attacks.base import Images, Noise, ascent_direction, keep_in_box
from macer.smoothing.network import evaluating


def climb(
    network: nn.Module,
    images: Images,
    labels: Int64[Tensor, " batch"],
    noise: Noise,
    *,
    step_size: float,
    steps: int,
) -> list[Images]:
    """Return the images after 0, 1, ..., `steps` steps of `step_size` along the gradient of the smoothed loss.

    Each step is clipped to [0, 1] and to nothing else: SmoothMix, Jeong et al. 2021 (arXiv 2111.09277). The loss and
    its m noise samples are those of `ascent_direction`. The network runs in eval mode, its mode is restored, and its
    parameters get no gradients. The cost is steps * m forward and backward passes per image.

    Args:
        network: maps images in [0, 1] to logits.
        images: the starting points, in [0, 1].
        labels: their classes, which the attack tries to change.
        noise: the m noise samples of each image, already multiplied by sigma.
        step_size: length of a step, in units of [0, 1] pixels.
        steps: number of steps.
    """
    path = [images]
    with evaluating(network):
        for _ in range(steps):
            direction, _ = ascent_direction(network, path[-1], labels, noise)
            path.append(path[-1] + keep_in_box(path[-1], step_size * direction))
    return [point.detach() for point in path]
