"""Networks that exist in memory alone: an `nn.Module` that somebody made in Python."""

from torch import nn

from macer.models.digest import probe


def module_name(network: nn.Module) -> str:
    """Return the import path package.module:Class of a module, which a run's settings record as its network's name."""
    return f"{type(network).__module__}:{type(network).__qualname__}"


def count_classes(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many logits a module gives for each image of this (channels, height, width). Errors as of `probe`."""
    return probe(network, None, shape).shape[1]
