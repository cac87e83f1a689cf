"""Networks that exist in memory alone: an `nn.Module` that somebody made in Python."""

import torch
from torch import nn

from macer.errors import SettingsError, first_line
from macer.smoothing.network import evaluating, logits_of


def module_name(network: nn.Module) -> str:
    """Return the import path package.module:Class of a module, which a run's settings record as its network's name."""
    return f"{type(network).__module__}:{type(network).__qualname__}"


@torch.no_grad()
def count_classes(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many logits a module gives for each image of this (channels, height, width).

    Raises:
        SettingsError: it cannot take such an image, or returns something else than logits.
    """
    first = next(network.parameters(), torch.zeros(0))
    images = torch.zeros(2, *shape, device=first.device, dtype=first.dtype)
    try:
        with evaluating(network):
            logits = logits_of(network(images))
    except SettingsError:
        raise
    except Exception as error:  # their code may raise anything
        raise SettingsError(f"the network fails on images of shape {shape}: {first_line(error)}") from error
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise SettingsError(f"the network returned shape {tuple(logits.shape)} for 2 images, not (2, classes)")
    return logits.shape[1]
