"""Checkpoints that others published: recognise their network, its normalisation and its weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macer.errors import CheckpointError
from macer.models import NETWORKS
from macer.models.normalization import NORMALISATIONS, Normalisation, behind

_SIZES = {"lenet": 28, "resnet18": 224, "resnet50": 224} | {
    f"resnet{depth}{shortcut}": 32 for depth in (20, 56, 110) for shortcut in ("", "-padded")
}
"""Height and width of the images that each network with published checkpoints was trained on."""


@dataclass(frozen=True)
class Published:
    """The content of a published file.

    Attributes:
        state_dict: the weights. For a known network, their names are those of the bare network, without the prefixes
            of DataParallel and of a normalisation layer.
        network: its name in NETWORKS; None if it is not one of them.
        num_classes: number of logits; None for an unknown network.
        shape: (channels, height, width) of the images that it was trained on; None for an unknown network.
        normalisation: the layer in front of it; None if there is none.
        epoch: number of epochs of its training; None if the file does not say.
        description: all of this in one line.
    """

    state_dict: dict[str, Tensor]
    network: str | None
    num_classes: int | None
    shape: tuple[int, int, int] | None
    normalisation: Normalisation | None
    epoch: int | None
    description: str


def recognise(content: Any, file: Path, layer: Normalisation | None = None) -> Published:
    """Recognise a checkpoint of another project.

    Formats are those of the original MACER code ({"net", "epoch"}), of the code of Cohen, Salman and Jeong
    ({"arch", "state_dict", "epoch"}), plain state dicts, and .safetensors. The network is recognised by the names and
    shapes of its weights. The names show whether a normalisation is in front of the network, but most files do not
    contain its numbers. These are assumed to be those of the data set that fits the network, which can be wrong: most
    of Salman's networks were trained with images that were only centred ("cifar10-center", "imagenet-center").

    Args:
        content: the content of the file, as `read_weights_file` returns it.
        file: the file.
        layer: the layer in front of the network, in place of that of the file or of the assumption.

    Raises:
        CheckpointError: the file contains no weights.
    """
    state_dict, kind, epoch = _open(content, file)
    if (
        not isinstance(state_dict, Mapping)
        or not state_dict
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state_dict.items())
    ):
        raise CheckpointError(f"{file}: holds no state dict of tensors")
    weights = _without(dict(state_dict), "module.")
    front = {name: value for name, value in weights.items() if name.startswith("0.")}
    rest = {name[2:]: value for name, value in weights.items() if name.startswith("1.")}
    layered = len(front) + len(rest) == len(weights)
    bare = _without(rest, "module.") if layered else weights
    trained = "" if epoch is None else f", epoch {epoch}"
    found = _fit(bare)
    if found is None or (front and _shapes(front) != dict.fromkeys(("0.mean", "0.std"), (found[2][0], 1, 1))):
        tensors = f"{len(weights)} tensors from {next(iter(weights))!r} on{_nearest(bare)}"
        description = f"{kind}: unknown network{behind(layer)}, {tensors}{trained}"
        return Published(weights, None, None, None, layer, epoch, description)
    network, num_classes, shape = found
    if layer is None and layered:
        layer = _normalisation(front, network, num_classes)
    description = f"{kind}: {network}{behind(layer)}{trained}, {num_classes} classes"
    return Published(bare, network, num_classes, shape, layer, epoch, description)


def _open(content: Any, file: Path) -> tuple[Any, str, int | None]:
    """Return the state dict, if it is one, the kind of file, and the epoch."""
    if file.suffix == ".safetensors":
        return content, "safetensors file", None
    if not isinstance(content, dict):
        return content, "", None
    epoch = content.get("epoch")
    epoch = epoch if isinstance(epoch, int) else None
    if "net" in content:
        return content["net"], "checkpoint of the original MACER code", epoch
    if "state_dict" in content:
        arch = content.get("arch")
        kind = f"Cohen/Salman checkpoint {arch!r}" if isinstance(arch, str) else "checkpoint"
        return content["state_dict"], kind, epoch
    return content, "state dict", None


def _without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove a prefix that all names share."""
    while weights and all(name.startswith(prefix) for name in weights):
        weights = {name[len(prefix) :]: value for name, value in weights.items()}
    return weights


def _fit(weights: dict[str, Tensor]) -> tuple[str, int, tuple[int, int, int]] | None:
    """Return the network, number of classes and shape of the images that weights belong to; None if there is none."""
    return next((known for known, differing in _compare(weights) if not differing), None)


def _nearest(weights: dict[str, Tensor]) -> str:
    """Describe, as part of a line, the network from whose weights these differ in three tensors or fewer."""
    few = (f", those of {known[0]} but for {', '.join(names)}" for known, names in _compare(weights) if len(names) <= 3)
    return next(few, "")


def _compare(weights: dict[str, Tensor]) -> Iterator[tuple[tuple[str, int, tuple[int, int, int]], list[str]]]:
    """Yield each known network, with its number of classes, shape of images, and the tensors that differ."""
    first = weights.get("conv1.weight")
    last = next((weights[name] for name in ("fc.weight", "fc2.weight", "linear.weight") if name in weights), None)
    if first is None or last is None or first.dim() != 4 or last.dim() != 2 or 0 in (first.shape[1], last.shape[0]):
        return
    given = _shapes(weights)
    for network, size in _SIZES.items():
        shape = (first.shape[1], size, size)
        with torch.device("meta"):
            expected = _shapes(NETWORKS[network](last.shape[0], shape).state_dict())
        yield (network, last.shape[0], shape), sorted({name for name, _ in given.items() ^ expected.items()})


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes, without the batch counters, which old files lack."""
    return {name: tuple(value.shape) for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def _normalisation(front: dict[str, Tensor], network: str, num_classes: int) -> Normalisation | None:
    """Return the layer in front of a network, with the numbers in the file, else with those of its data set."""
    if front:
        mean, std = (tuple(front[name].flatten().tolist()) for name in ("0.mean", "0.std"))
        return Normalisation("the file's normalisation", mean, std)
    if network == "lenet":
        return None  # Jeong's MNIST networks have an empty layer there
    if _SIZES[network] == 224:
        return _assumed("imagenet")
    # Salman's networks for ImageNet at 32 x 32 (1,000 classes) use the numbers of CIFAR-10.
    return _assumed("cifar100" if num_classes == 100 else "cifar10")


def _assumed(name: str) -> Normalisation:
    layer = NORMALISATIONS[name]
    return replace(layer, description=f"{layer.description} (assumed)")
