"""Attacks on a smoothed network, by changing its images or its noise. One file per attack; this file lists them."""

from macer.attacks.base import Attack, ascent_direction, smoothed_loss
from macer.attacks.climb import climb
from macer.attacks.ddn import DDN
from macer.attacks.noise import misleading_noise, worst_noise
from macer.attacks.pgd import PGD

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (PGD, DDN)}
"""The attacks on images within a ball, by their names on the command line."""

__all__ = [
    "ATTACKS",
    "DDN",
    "PGD",
    "Attack",
    "ascent_direction",
    "climb",
    "misleading_noise",
    "smoothed_loss",
    "worst_noise",
]
