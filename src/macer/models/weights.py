"""Reading files of weights without running code, and putting weights into networks."""

import errno
import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from macer.errors import CheckpointError


class _Number:
    """Replace a NumPy number in a file, such as an accuracy. Its value is not used.

    NumPy's own functions are not called, because a hostile file could choose their arguments.
    """

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMBERS: list[Callable | tuple[Callable, str]] = [
    (_Number, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def read_weights_file(file: Path) -> Any:
    """Return the content of a file of weights, on the CPU.

    A file whose name ends in .safetensors contains tensors; any other is taken to be written by `torch.save`.

    Raises:
        CheckpointError: the file is missing, cut off, of another format, or holds objects that could run code.
    """
    return read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)


def read_torch_file(file: Path) -> Any:
    """Return what `torch.save` wrote, on the CPU, without running code.

    Raises:
        CheckpointError: the file is missing, cut off, not PyTorch's, or holds objects that could run code.
    """
    check_sums(file)
    try:
        with file.open("rb") as stream, warnings.catch_warnings(), torch.serialization.safe_globals(_NUMBERS):
            warnings.simplefilter("ignore")  # about odd pickle protocols, before refusing what is inside
            return torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch's reader, on some files that were cut off
            raise _damaged(file) from error
        raise _unreadable(file, error) from error
    except Exception as error:  # torch raises many kinds on damaged files, none of them documented
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise CheckpointError(
                f"{file}: refused: it holds {found[1]}, which is not a weight and could run code"
            ) from error
        raise _damaged(file) from error


def check_sums(file: Path) -> None:
    """Compare a zip archive with its checksums, which PyTorch writes into its files, but does not check.

    Raises:
        CheckpointError: a checksum is wrong, or the archive is damaged in another way.
    """
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise _unreadable(file, error) from error
    except Exception as error:  # zipfile raises many kinds, too
        raise _damaged(file) from error
    if damaged is not None:
        raise CheckpointError(f"{file}: damaged: the checksum of {damaged} is wrong")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, cut off, or not of that format.
    """
    try:
        return load_file(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged, cut off, or not a safetensors file") from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict into a network. Names and shapes must be the same.

    Only the batch counters of batch normalisation may be missing, as in files from before PyTorch 0.4.1.

    Args:
        network: the network. It stays unchanged if the weights do not fit.
        weights: the state dict.
        name: name of the network in messages.

    Raises:
        CheckpointError: the weights are of another network, another number of classes, or another type of numbers.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in weights and not key.endswith("num_batches_tracked")]
    unknown = [key for key in weights if key not in own]
    if missing or unknown:
        what = f"{missing[0]} is missing" if missing else f"it has no {unknown[0]}"
        raise CheckpointError(f"these are not the weights of network {name!r}: {what}")
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"these weights do not fit network {name!r}: {key} has shape {tuple(value.shape)} instead of "
                f"{tuple(own[key].shape)}"
            )
        if own[key].is_floating_point() and not value.is_floating_point():
            raise CheckpointError(
                f"these weights do not fit network {name!r}: {key} has numbers of type {value.dtype}, not "
                "floating-point ones"
            )
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # a sparse tensor, or one without numbers; the last line says why
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"these weights do not fit network {name!r}: {reason}") from error


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names and bytes of weights, which is the same for any file with these weights."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode())
        state.update(weights[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _damaged(file: Path) -> CheckpointError:
    return CheckpointError(f"{file}: damaged, cut off, or not a checkpoint")


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: {error.strerror or 'cannot be read'}")
