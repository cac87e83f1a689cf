"""Train from Python, in one call."""

from macer.front.train import train

__all__ = ["train"]
