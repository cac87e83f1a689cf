"""Train and certify from Python, in one call each; the command line calls the same functions."""

from macer.front.certify import certify
from macer.front.train import train

__all__ = ["certify", "train"]
