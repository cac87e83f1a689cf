"""Attacks on a smoothed network: adversarial images within an L2 ball. One file per attack; this file is the list."""

from macer.attacks.base import Attack, ascent_direction, smoothed_loss
from macer.attacks.ddn import DDN
from macer.attacks.pgd import PGD

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (PGD, DDN)}
"""Every attack by its name on the command line."""

__all__ = ["ATTACKS", "DDN", "PGD", "Attack", "ascent_direction", "smoothed_loss"]
