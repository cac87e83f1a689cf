"""The learning rate as a function of the epoch, so that a checkpoint need not hold it."""

import math

from macer.training.settings import TrainingSettings

_WARM_UP = 0.25  # fraction of a one-cycle schedule in which the rate rises


def learning_rate(settings: TrainingSettings, epoch: float) -> float:
    """Return the learning rate after `epoch` epochs, which may be a fraction.

    milestones: lr, times lr_decay after each milestone (whole epochs). one-cycle: a linear rise to lr over the first
    quarter, then half a cosine down to 0 (Smith and Topin, arXiv 1708.07120, with the cosine in common use).
    """
    if settings.schedule == "milestones":
        drops = sum(math.floor(epoch) >= milestone for milestone in settings.lr_milestones)
        return settings.lr * settings.lr_decay**drops
    done = epoch / settings.epochs
    if done < _WARM_UP:
        return settings.lr * done / _WARM_UP
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def has_dropped(settings: TrainingSettings, epoch: float) -> bool:
    """Return whether the learning rate has passed its first milestone, or the peak of its one cycle."""
    if settings.schedule == "milestones":
        return any(math.floor(epoch) >= milestone for milestone in settings.lr_milestones)
    return epoch / settings.epochs >= _WARM_UP
