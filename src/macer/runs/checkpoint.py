"""Checkpoints: everything that training needs to resume exactly, in one file that holds no code."""

import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from macer.errors import CheckpointError
from macer.files.replacing import replacing
from macer.models.weights import read_torch_file

_FORMAT = "macer-checkpoint-1"
_KNOWN_SETTINGS = (("training", "network", str), ("objective", "name", str), ("objective", "sigma", float))


@dataclass(kw_only=True)
class Checkpoint:
    """The state of a training run between two steps.

    Attributes:
        settings: the run's settings, as `TrainingSettings.tables()` gives them.
        num_classes: of the network.
        shape: (channels, height, width) of an image.
        epoch: epochs finished, with those of the weights that training started from.
        step: steps of the running epoch finished.
        network: the network's weights.
        average: their moving average, or None where there is none.
        optimizer: the optimizer's state.
        random: states of torch's global generators: "cpu", and "cuda" with one tensor per device.
        sums: of the running epoch's losses, images and seconds, for its line in metrics.tsv.
        image_weights: how often each image is drawn in the running epoch, or None where each comes once.
        teacher: the digest of the teacher's votes, or None where there are none.
        classifier: the digest of the classifier behind a denoiser, or None where there is none.
        class_names: the classes of the training images, in the order of their labels.
        images: what tells the training images from others, see `macer.data.images.digest_of_some`.
        code: digests of code that is not the package's: "network" and "method". Older checkpoints lack them.
    """

    settings: dict[str, Any]
    num_classes: int
    shape: tuple[int, int, int]
    epoch: int
    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    random: dict[str, Any]
    sums: dict[str, float]
    image_weights: Tensor | None
    teacher: str | None
    classifier: str | None
    class_names: list[str]
    images: str
    code: dict[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is certified: the moving average where there is one, else the network."""
        return self.average if self.average is not None else self.network

    @property
    def sigma(self) -> float:
        """The noise level that the network was trained with."""
        return self.settings["objective"]["sigma"]


def save_checkpoint(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, and rename it: the file is always whole.

    Raises:
        OSError: the disk is full or read-only; an older file of this name is kept.
    """
    content = {"format": _FORMAT} | {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    write_torch_file(content, file)


def write_torch_file(content: Any, file: Path) -> None:
    """Write what `torch.save` makes of the content, as a whole, and flush it to the disk.

    Raises:
        OSError: the disk is full or read-only; an older file of this name is kept.
    """
    serialized = io.BytesIO()  # PyTorch's own writer reports a full disk in words of its own
    torch.save(content, serialized)
    with replacing(file) as temporary:
        temporary.write_bytes(serialized.getbuffer())


def is_checkpoint(content: Any) -> bool:
    """Return whether the content of a file is a checkpoint of `save_checkpoint`."""
    return isinstance(content, dict) and content.get("format") == _FORMAT


def load_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`, on the CPU.

    Raises:
        CheckpointError: the file cannot be read as one.
    """
    return parse_checkpoint(read_torch_file(file), file)


def parse_checkpoint(content: Any, file: Path) -> Checkpoint:
    """Return the checkpoint in the content of a file.

    Args:
        content: as `read_torch_file` returns it.
        file: its name, for messages.

    Raises:
        CheckpointError: it is not a checkpoint of `save_checkpoint`.
    """
    if not is_checkpoint(content):
        raise CheckpointError(f"{file}: not a checkpoint of macer's training")
    names = [each.name for each in fields(Checkpoint)]
    content = {"code": {}} | content
    if missing := [name for name in names if name not in content]:
        raise CheckpointError(f"{file}: lacks {', '.join(missing)}")
    try:
        known = all(isinstance(content["settings"][table][key], kind) for table, key, kind in _KNOWN_SETTINGS)
    except (KeyError, TypeError):
        known = False
    numbers = [content[name] for name in ("epoch", "step", "num_classes")]
    known = known and all(type(number) is int for number in numbers)
    if not known or not isinstance(content["network"], dict) or not isinstance(content["average"], dict | None):
        raise CheckpointError(f"{file}: its settings or weights are not those of a training")
    code = content["code"]
    if not (isinstance(code, dict) and all(isinstance(each, str) for each in (*code, *code.values()))):
        raise CheckpointError(f"{file}: the digests of its code are not texts")
    if not are_class_names(content["class_names"], content["num_classes"]):
        raise CheckpointError(f"{file}: its class names are not one text per class")
    return Checkpoint(**{name: content[name] for name in names})


def are_class_names(names: Any, num_classes: int) -> bool:
    """Return whether what a file says are the names of so many classes."""
    return isinstance(names, list) and len(names) == num_classes and all(isinstance(name, str) for name in names)
