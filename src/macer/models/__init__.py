"""Networks by name, with layers named as in the published checkpoints; and any other network by its import path."""

import inspect
from collections.abc import Callable

import torch
from torch import nn

from macer.compute.device import float32_by_default
from macer.errors import SettingsError, UnknownName
from macer.importing import imported
from macer.models.convnet import ConvNet
from macer.models.dncnn import DnCNN
from macer.models.lenet import LeNet
from macer.models.normalization import normalisation_named, with_normalisation
from macer.models.resnet import BasicBlock, Bottleneck, PaddedResNet, ResNet
from macer.models.resnet9 import ResNet9

Builder = Callable[[int, tuple[int, int, int]], nn.Module]
"""(num_classes, (channels, height, width) of an image) -> network."""


def _cifar(blocks: int) -> Builder:
    return lambda num_classes, shape: ResNet(num_classes, shape[0], stem=3, block=BasicBlock, depths=(blocks,) * 3)


def _padded(blocks: int) -> Builder:
    return lambda num_classes, shape: PaddedResNet(num_classes, shape[0], depths=(blocks,) * 3)


def _resnet9(width: int) -> Builder:
    return lambda num_classes, shape: ResNet9(num_classes, shape[0], width=width)


def _imagenet(block: type[BasicBlock | Bottleneck], depths: tuple[int, ...]) -> Builder:
    return lambda num_classes, shape: ResNet(num_classes, shape[0], stem=7, block=block, depths=depths)


def _lenet(num_classes: int, shape: tuple[int, int, int]) -> LeNet:
    if shape[1:] != (28, 28):
        raise SettingsError(f"network lenet takes images of 28 x 28, not {shape[1]} x {shape[2]}")
    return LeNet(num_classes, shape[0])


NETWORKS: dict[str, Builder] = {
    "convnet": lambda num_classes, shape: ConvNet(num_classes, shape[0], shape[1]),
    "lenet": _lenet,
    "resnet9": _resnet9(64),
    "resnet9-24": _resnet9(24),
    "resnet9-36": _resnet9(36),
    "resnet20": _cifar(3),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "resnet20-padded": _padded(3),
    "resnet56-padded": _padded(9),
    "resnet110-padded": _padded(18),
    "resnet18": _imagenet(BasicBlock, (2, 2, 2, 2)),
    "resnet50": _imagenet(Bottleneck, (3, 4, 6, 3)),
}
"""The networks by name.

resnet9 is Page's network for fast training on CIFAR-10; resnet9-24 and resnet9-36 have 24 and 36 in place of 64
channels in their first convolutions, a seventh and a third of the work. resnet20, resnet56 and resnet110 are the CIFAR
networks of the code of MACER, Cohen and Salman, with projection shortcuts. Those ending in -padded have the zero-padded
shortcuts of the paper. resnet18 and resnet50 are for ImageNet.
"""

DENOISERS: dict[str, Builder] = {
    "dncnn": lambda num_classes, shape: DnCNN(shape[0]),
    "dncnn-wide": lambda num_classes, shape: DnCNN(shape[0], width=128),
}
"""The networks by name that return images, not logits: they stand in front of a classifier (`macer.Denoised`)."""


def build(name: str, num_classes: int, shape: tuple[int, int, int], normalisation: str | None = None) -> nn.Module:
    """Return a newly initialised network.

    >>> build("lenet", num_classes=10, shape=(1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Args:
        name: one of NETWORKS or DENOISERS, or an import path `package.module:function`, which is also searched in the
            current directory. The function is called with num_classes if it has a parameter of that name, else without
            arguments.
        num_classes: number of logits; no matter for a denoiser.
        shape: (channels, height, width) of the images.
        normalisation: one of NORMALISATIONS, which becomes the first layer; None for no such layer.

    Returns:
        The network. Those of NETWORKS are in float32, and in the channels-last memory format, in which convolutions
        are fast.

    Raises:
        UnknownName: there is no network or normalisation of this name.
        SettingsError: the network is for other images, or the function fails or does not return an `nn.Module`.
    """
    if normalisation is not None:
        layer = normalisation_named(normalisation)
        layer.check_channels(shape[0])
        return with_normalisation(build(name, num_classes, shape), layer)
    if name in NETWORKS | DENOISERS:
        with float32_by_default():
            network = (NETWORKS | DENOISERS)[name](num_classes, shape)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if ":" not in name:
        raise UnknownName(
            f"no network is named {name!r}: choose one of {', '.join(sorted(NETWORKS))}, or package.module:function"
        )
    network = call(name, num_classes)
    if not isinstance(network, nn.Module):
        raise SettingsError(f"network {name} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def call(path: str, num_classes: int) -> object:
    """Return what `package.module:function` returns, which is called as `build` says.

    Raises:
        SettingsError: there is no such function, or it fails.
    """
    with imported(path, "network") as function:
        parameters = inspect.signature(function).parameters.values()
        takes_classes = any(
            parameter.name == "num_classes" or parameter.kind is inspect.Parameter.VAR_KEYWORD
            for parameter in parameters
        )
        return function(num_classes=num_classes) if takes_classes else function()
