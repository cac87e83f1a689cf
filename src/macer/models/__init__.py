"""Networks by name, with the state-dict names of the published checkpoints, and any other by its import path."""

import importlib
from collections.abc import Callable

import torch
from torch import nn

from macer.errors import SettingsError
from macer.models.convnet import ConvNet
from macer.models.lenet import LeNet

Builder = Callable[[int, tuple[int, int, int]], nn.Module]
"""(num_classes, (channels, height, width) of an image) -> network."""

NETWORKS: dict[str, Builder] = {
    "convnet": lambda num_classes, shape: ConvNet(num_classes, shape[0], shape[1]),
    "lenet": lambda num_classes, shape: LeNet(num_classes, shape[0]),
}
"""Every network by its name on the command line."""


def build(name: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: one of NETWORKS, or an import path `package.module:function`; the function is called with num_classes.
        num_classes: how many logits.
        shape: (channels, height, width) of the images.

    Returns:
        The network, ours in channels-last memory format, which convolutions on every device prefer.

    Raises:
        SettingsError: no such network, or the imported function does not return one.
    """
    if name in NETWORKS:
        return NETWORKS[name](num_classes, shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if ":" not in name:
        raise SettingsError(
            f"no network is named {name!r}: choose one of {', '.join(sorted(NETWORKS))}, or package.module:function"
        )
    module_name, function_name = name.split(":", 1)
    try:
        network = getattr(importlib.import_module(module_name), function_name)(num_classes)
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(f"--network {name}: {error}") from error
    if not isinstance(network, nn.Module):
        raise SettingsError(f"--network {name} returned {type(network).__name__}, not a torch.nn.Module")
    return network
