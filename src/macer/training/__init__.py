"""Training: one loop for every method, with its learning rate schedule, moving average and checkpoints."""

from macer.runs.checkpoint import Checkpoint, load_checkpoint
from macer.training.loop import train
from macer.training.processes import fabric_for
from macer.training.settings import TrainingSettings, resolve

__all__ = ["Checkpoint", "TrainingSettings", "fabric_for", "load_checkpoint", "resolve", "train"]
