"""PGD: steps of fixed length along the gradient, each followed by a projection into the ball."""

import math
from dataclasses import dataclass

import torch

from macer.attacks.base import Ascent, Attack, Images, keep_in_ball, keep_in_box
from macer.runs.settings import require


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent in L2 against the smoothed network: Madry et al. 2018 (arXiv 1706.06083).

    Each step goes step_size along the unit gradient, clips the image to [0, 1] and then projects it into the ball:
    Salman et al. 2019 (arXiv 1906.04584), SmoothAdv_PGD, in their code's order. As theirs, it starts at the image.

    Attributes:
        step_size: in [0, 1] pixel units; None is 2 * epsilon / steps, as in their code.
    """

    name = "pgd"
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step_size is None or 0 < self.step_size < math.inf, "step_size must be a positive number")

    def search(self, ascent: Ascent, images: Images) -> Images:
        size = 2 * self.epsilon / self.steps if self.step_size is None else self.step_size
        perturbation = torch.zeros_like(images)
        for _ in range(self.steps):
            direction, _ = ascent(perturbation)
            perturbation = keep_in_ball(keep_in_box(images, perturbation + size * direction), self.epsilon)
        return perturbation
