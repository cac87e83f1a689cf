"""DDN: the gradient decides the direction, success or failure the norm."""

import math
from dataclasses import dataclass

import torch

from macer.attacks.base import Ascent, Attack, Images, keep_in_ball, keep_in_box, norms, unit

_CHANGE = 0.05
"""By how much a step changes the norm, relative to it: gamma of the paper."""


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm against the smoothed network: Rony et al. 2019 (arXiv 1811.09600), Algorithm 1.

    It looks for the shortest perturbation that changes the class of most noisy copies. Each step turns the perturbation
    along the unit gradient, then shortens it by 5% where it fooled the network, or lengthens it by 5% where it did not.
    As in the training code of Salman et al. 2019 the first norm is epsilon, and the norm may exceed that on the way:
    the shortest perturbation that fooled the network is cut to epsilon at the end. An image for which there was none,
    or that fooled the network before the first step, is left as it is.

    Their code also rounds to 256 grey levels, even after the cut, and can leave the ball by that. Here it cannot.
    """

    name = "ddn"

    def search(self, ascent: Ascent, images: Images) -> Images:
        perturbation, best = torch.zeros_like(images), torch.zeros_like(images)
        shortest = torch.full_like(norms(images), math.inf)
        norm = torch.full_like(shortest, self.epsilon)
        farthest = norms(torch.maximum(images, 1 - images))
        for step in range(1, self.steps + 1):
            direction, fooled = ascent(perturbation)
            fooled = fooled.view(-1, 1, 1, 1)
            length = norms(perturbation)
            better = fooled & (length < shortest)
            best, shortest = best.where(~better, perturbation), shortest.where(~better, length)
            # From 1 to 0.01 along a cosine; as in released code, the first step is the curve's second point.
            rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            norm = torch.where(fooled, norm * (1 - _CHANGE), norm * (1 + _CHANGE)).minimum(farthest)
            perturbation = keep_in_box(images, norm * unit(perturbation + rate * direction))
        return keep_in_ball(best, self.epsilon)
