"""Training methods: each turns (network, images, labels) into a loss. To add one, see docs/extending.md."""

from macer.objectives.base import Loss, Objective, Progress
from macer.objectives.cohen import Cohen
from macer.objectives.macer import Macer

OBJECTIVES: dict[str, type[Objective]] = {objective.name: objective for objective in (Macer, Cohen)}
"""Every training method by its name on the command line."""

__all__ = ["OBJECTIVES", "Cohen", "Loss", "Macer", "Objective", "Progress"]
