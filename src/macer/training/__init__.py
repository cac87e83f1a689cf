"""Training: one loop for every objective, its schedule, its moving average and its checkpoints."""

from macer.training.checkpoint import Checkpoint, load_checkpoint
from macer.training.loop import train
from macer.training.settings import TrainingSettings, resolve

__all__ = ["Checkpoint", "TrainingSettings", "load_checkpoint", "resolve", "train"]
