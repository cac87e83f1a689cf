"""Networks that exist in memory alone: an `nn.Module` that somebody made in Python."""

import torch
from torch import nn

from macer.errors import SettingsError


def module_name(network: nn.Module) -> str:
    """Return the import path package.module:Class of a module, which a run's settings record as its network's name."""
    return f"{type(network).__module__}:{type(network).__qualname__}"


@torch.no_grad()
def count_classes(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return how many logits a module gives for an image of this (channels, height, width).

    Raises:
        SettingsError: it cannot take such an image, or returns something else than logits.
    """
    parameter = next(network.parameters(), torch.zeros(0))
    images = torch.zeros(1, *shape, device=parameter.device)
    training = network.training
    network.eval()  # batch normalisation needs more than one image in training, and would remember this one
    try:
        logits = network(images)
    except Exception as error:  # their code may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"the network cannot take images of shape {shape}: {reason}") from error
    finally:
        network.train(training)
    return logits.shape[1]
