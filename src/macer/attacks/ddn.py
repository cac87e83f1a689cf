"""DDN: the gradient gives the direction, success or failure the norm."""

import math
from dataclasses import dataclass

import torch

from macer.attacks.base import Ascent, Attack, Images, keep_in_ball, keep_in_box, norms, unit
from macer.runs.settings import require


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm, Rony et al. 2019 (arXiv 1811.09600), Algorithm 1, against the smoothed network.

    Looks for the shortest perturbation that changes the class of most noisy copies. Each step turns the perturbation
    along the unit gradient, then makes it gamma shorter where it had fooled the network, gamma longer where not. As in
    the code of Salman et al. 2019 the norm may pass epsilon on the way: the shortest perturbation that fooled is cut to
    epsilon at the end, and an image that was never fooled, or already was before the first step, is left as it is.

    Their code also rounds to 256 grey levels, after the cut as well, by which it can leave the ball. Here it cannot.

    Attributes:
        init_norm: the first norm, in [0, 1] pixel units; None is epsilon, which their training code always takes.
        gamma: by which part the norm changes in a step.
    """

    name = "ddn"
    init_norm: float | None = None
    gamma: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.init_norm is None or 0 < self.init_norm < math.inf, "init_norm must be a positive number")
        require(0 < self.gamma < 1, f"gamma must lie strictly between 0 and 1, not {self.gamma:g}")

    def search(self, ascent: Ascent, images: Images, start: Images) -> Images:
        """The shortest perturbation that fooled the network, 0 where none did, cut to epsilon."""
        perturbation, best = start, torch.zeros_like(start)
        shortest = torch.full_like(norms(start), math.inf)
        norm = torch.full_like(shortest, self.epsilon if self.init_norm is None else self.init_norm)
        farthest = norms(torch.maximum(images, 1 - images))
        for step in range(1, self.steps + 1):
            direction, fooled = ascent(perturbation)
            fooled = fooled.view(-1, 1, 1, 1)
            length = norms(perturbation)
            better = fooled & (length < shortest)
            best, shortest = best.where(~better, perturbation), shortest.where(~better, length)
            # From 1 to 0.01 along a cosine; as in released code, the first step is the curve's second point.
            rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            norm = torch.where(fooled, norm * (1 - self.gamma), norm * (1 + self.gamma)).minimum(farthest)
            perturbation = keep_in_box(images, norm * unit(perturbation + rate * direction))
        return keep_in_ball(best, self.epsilon)
