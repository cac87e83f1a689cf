"""Training methods: each turns (network, images, labels) into a loss. To add one, see docs/extending.md."""

from macer.objectives.base import Loss, Objective, Progress
from macer.objectives.cohen import Cohen
from macer.objectives.macer import Macer
from macer.objectives.smoothadv import SmoothAdv

OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in (Cohen, Macer, SmoothAdv)}
"""Every training method by its name on the command line."""

__all__ = ["OBJECTIVES", "Cohen", "Loss", "Macer", "Objective", "Progress", "SmoothAdv"]
