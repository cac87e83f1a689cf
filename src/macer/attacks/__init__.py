"""Attacks on a smoothed network, by changing its images or its noise. One file per attack; this file lists them."""

from macer.attacks.base import Attack, ascent_direction, smoothed_loss
from macer.attacks.climb import climb
from macer.attacks.ddn import DDN
from macer.attacks.noise import misleading_noise, worst_noise
from macer.attacks.pgd import PGD

__all__ = [
    "DDN",
    "PGD",
    "Attack",
    "ascent_direction",
    "climb",
    "misleading_noise",
    "smoothed_loss",
    "worst_noise",
]
