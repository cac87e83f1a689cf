"""Checkpoints that others published: recognise their network, its normalisation and its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macer.errors import CheckpointError
from macer.models import DENOISERS, NETWORKS
from macer.models.normalization import Normalisation, assumed, behind
from macer.models.weights import is_safetensors
from macer.models.wrappings import find_state_dict, without_wrappers

_SIZES = {"lenet": 28, "resnet18": 224, "resnet50": 224} | {
    f"resnet{depth}{shortcut}": 32 for depth in (20, 56, 110) for shortcut in ("", "-padded")
}
"""Height and width of the images that each network with published checkpoints was trained on."""


@dataclass(frozen=True)
class Published:
    """The content of a published file.

    Attributes:
        state_dict: the weights. For a known network, their names are those of the bare network, without the prefixes
            of wrappers such as DataParallel and of a normalisation layer.
        network: its name in NETWORKS or DENOISERS; None if it is not one of them.
        num_classes: number of logits; None for an unknown network, and for a denoiser.
        shape: (channels, height, width) of the images that it was trained on; None for the same ones.
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


def recognise(content: Any, file: Path, layer: Normalisation | None = None, key: str | None = None) -> Published:
    """Recognise a checkpoint of another project.

    Formats are those of the original MACER code ({"net", "epoch"}), of the code of Cohen, Salman and Jeong
    ({"arch", "state_dict", "epoch"}), plain state dicts, .safetensors, and any other that holds one state dict
    somewhere. The network is recognised by the names and shapes of its weights. The names show whether a normalisation
    is in front of the network, but most files do not contain its numbers. These are assumed to be those of the data set
    that fits the network, which can be wrong: most of Salman's networks were trained with images that were only centred
    ("cifar10-center", "imagenet-center").

    Args:
        content: the content of the file, as `read_weights_file` returns it.
        file: the file.
        layer: the layer in front of the network, in place of that of the file or of the assumption.
        key: which state dict is meant, if there are several: the last of the keys under which it lies, joined by dots.

    Raises:
        CheckpointError: the file contains no weights, or several and no key says which.
    """
    try:
        found_weights = find_state_dict(content, key)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    kind, epoch = _kind(content, found_weights.key, file)
    weights = without_wrappers(found_weights.weights)
    front = {name: value for name, value in weights.items() if name.startswith("0.")}
    rest = {name[2:]: value for name, value in weights.items() if name.startswith("1.")}
    layered = len(front) + len(rest) == len(weights)
    bare = without_wrappers(rest) if layered else weights
    trained = ("" if epoch is None else f", epoch {epoch}") + found_weights.choice
    found = _fit(bare)
    channels = 0 if found is None or found[2] is None else found[2][0]
    if found is None or (front and _shapes(front) != dict.fromkeys(("0.mean", "0.std"), (channels, 1, 1))):
        tensors = f"{len(weights)} tensors from {next(iter(weights))!r} on{_nearest(bare)}"
        description = f"{kind}: unknown network{behind(layer)}, {tensors}{trained}"
        return Published(weights, None, None, None, layer, epoch, description)
    network, num_classes, shape = found
    if layer is None and layered and num_classes is not None:
        layer = _normalisation(front, network, num_classes)
    classes = "" if num_classes is None else f", {num_classes} classes"
    description = f"{kind}: {network}{behind(layer)}{trained}{classes}"
    return Published(bare, network, num_classes, shape, layer, epoch, description)


def _kind(content: Any, key: str, file: Path) -> tuple[str, int | None]:
    """Return the kind of file, and the epoch that it states."""
    about = content if isinstance(content, dict) else {}
    epoch = about.get("epoch") if isinstance(about.get("epoch"), int) else None
    arch = about.get("arch")
    if not key:
        return "safetensors file" if is_safetensors(file) else "state dict", epoch
    if key == "net":
        return "checkpoint of the original MACER code", epoch
    if key == "state_dict" and isinstance(arch, str):
        return f"Cohen/Salman checkpoint {arch!r}", epoch
    return "checkpoint", epoch


Known = tuple[str, int | None, tuple[int, int, int] | None]
"""A network, its number of classes, and the shape of its images; None for what depends on the data set."""


def _fit(weights: dict[str, Tensor]) -> Known | None:
    """Return the network that weights belong to; None if there is none."""
    return _denoiser(weights) or next((known for known, differing in _compare(weights) if not differing), None)


def _denoiser(weights: dict[str, Tensor]) -> Known | None:
    first = weights.get("dncnn.0.weight")
    if first is None or first.dim() != 4 or 0 in first.shape:
        return None
    for name, builder in DENOISERS.items():
        with torch.device("meta"):
            expected = _shapes(builder(0, (first.shape[1], 1, 1)).state_dict())
        if _shapes(weights) == expected:
            return name, None, None
    return None


def _nearest(weights: dict[str, Tensor]) -> str:
    """Describe, as part of a line, the network from whose weights these differ in three tensors or fewer."""
    few = (f", those of {known[0]} but for {', '.join(names)}" for known, names in _compare(weights) if len(names) <= 3)
    return next(few, "")


def _compare(weights: dict[str, Tensor]) -> Iterator[tuple[Known, list[str]]]:
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
        return assumed("imagenet")
    # Salman's networks for ImageNet at 32 x 32 (1,000 classes) use the numbers of CIFAR-10.
    return assumed("cifar100" if num_classes == 100 else "cifar10")
