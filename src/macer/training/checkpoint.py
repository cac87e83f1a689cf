"""Checkpoints: all that training needs to go on as if it had not stopped, in one file that holds no code."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macer.errors import CheckpointError

_FORMAT = "macer-checkpoint-1"


@dataclass(kw_only=True)
class Checkpoint:
    """The state of a training run between two steps.

    Attributes:
        settings: the run's settings, as `TrainingSettings.tables()` gives them.
        num_classes: of the network.
        shape: (channels, height, width) of an image.
        epoch: epochs finished.
        step: steps of the running epoch finished.
        network: the network's weights.
        average: their moving average, or None where there is none.
        optimizer: the optimizer's state.
        random: states of torch's global generators: "cpu", and one tensor for each CUDA device.
        sums: of the running epoch's losses and times, for its line in the log.
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

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is certified: the moving average where there is one, else the network."""
        return self.average if self.average is not None else self.network

    @property
    def sigma(self) -> float:
        """The noise level that the network was trained with."""
        return self.settings["objective"]["sigma"]


def save_checkpoint(checkpoint: Checkpoint, file: Path) -> None:
    """Write under a temporary name, flush to the disk, rename: the file is whole at every moment.

    Raises:
        OSError: the disk is full or read-only; an older file of this name is then still there.
    """
    content = {"format": _FORMAT} | {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except RuntimeError as error:  # torch's writer reports a full disk as one
        temporary.unlink(missing_ok=True)
        raise OSError(None, f"could not be written: {error}".splitlines()[0], str(file)) from error


def read_torch_file(file: Path) -> Any:
    """What torch.save wrote, on the CPU, and nothing that is code.

    Raises:
        CheckpointError: the file is missing, cut off, not torch's, or would execute code on loading.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # torch raises many kinds on damaged files, none of them documented
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{file}: refused: it holds objects other than weights, which could run code"
            ) from error
        raise CheckpointError(f"{file}: damaged, cut off, or not a checkpoint") from error


def load_checkpoint(file: Path) -> Checkpoint:
    """A checkpoint that `save_checkpoint` wrote, on the CPU.

    Raises:
        CheckpointError: the file cannot be read as one.
    """
    content = read_torch_file(file)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{file}: not a checkpoint of macer's training")
    names = [field.name for field in fields(Checkpoint)]
    missing = [name for name in names if name not in content]
    if missing:
        raise CheckpointError(f"{file}: lacks {', '.join(missing)}")
    return Checkpoint(**{name: content[name] for name in names})


def load_weights(network: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Put weights into a network, every one and no other.

    Raises:
        CheckpointError: they are another network's, or one's of another number of classes.
    """
    own = network.state_dict()
    unknown = [key for key in weights if key not in own] + [key for key in own if key not in weights]
    if unknown:
        raise CheckpointError(f"these weights are not of network {name!r}: {unknown[0]} fits nothing")
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"these weights do not fit network {name!r}: {key} has shape {tuple(value.shape)}, "
                f"{tuple(own[key].shape)} is needed (another number of classes?)"
            )
    network.load_state_dict(weights)
