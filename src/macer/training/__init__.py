"""Training: one loop for every objective, its schedule, its moving average and its checkpoints."""

from macer.runs.checkpoint import Checkpoint, load_checkpoint
from macer.training.loop import fabric_for, train
from macer.training.settings import TrainingSettings, resolve

__all__ = ["Checkpoint", "TrainingSettings", "fabric_for", "load_checkpoint", "resolve", "train"]
