"""Training methods: each turns a network, images and labels into a loss. docs/extending.md says how to add one."""

from macer.objectives.base import Loss, Objective, Progress, method_of
from macer.objectives.catrs import CatRs
from macer.objectives.cohen import Cohen
from macer.objectives.consistency import Consistency
from macer.objectives.denoise import Denoise
from macer.objectives.hard_data import HardData
from macer.objectives.listing import by_name
from macer.objectives.macer import Macer
from macer.objectives.smoothadv import SmoothAdv
from macer.objectives.smoothmix import SmoothMix
from macer.objectives.stability import Stability

OBJECTIVES = by_name(Cohen, Macer, SmoothAdv, Consistency, Stability, SmoothMix, CatRs, HardData, Denoise)
"""Every training method by its name on the command line."""

__all__ = [
    "OBJECTIVES",
    "CatRs",
    "Cohen",
    "Consistency",
    "Denoise",
    "HardData",
    "Loss",
    "Macer",
    "Objective",
    "Progress",
    "SmoothAdv",
    "SmoothMix",
    "Stability",
    "method_of",
]
