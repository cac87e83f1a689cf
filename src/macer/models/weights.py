"""Reading files of weights without running code, and putting weights into networks."""

import errno
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from macer.errors import CheckpointError
from macer.files.kinds import describe
from macer.files.reading import check_regular, open_file, read_text
from macer.models.torch_files import check_inflated, read_torch
from macer.models.wrappings import without_wrappers

_SHARD = re.compile(r"(.*)-\d+-of-(\d+)(\.\w+)")
_INDEX = ".index.json"


def read_weights_file(file: Path) -> Any:
    """Return the content of a file of weights, on the CPU, without running code.

    Whether it is written by safetensors, by `torch.save` or by `pickle.dump` is seen from its content. Shards are read
    through their index (`model.safetensors.index.json`).

    Returns:
        For safetensors the tensors by name. For others what was saved, in which objects of unknown classes are inert.

    Raises:
        CheckpointError: the file is missing, cut off, of another format, or one of several shards.
    """
    shard = _SHARD.fullmatch(file.name)
    if shard and int(shard[2]) > 1:
        raise CheckpointError(f"{file}: one of {int(shard[2])} shards: give {shard[1]}{shard[3]}{_INDEX} instead")
    if file.name.lower().endswith(_INDEX):
        return _read_shards(file)
    return read_safetensors(file) if is_safetensors(file) else read_torch_file(file)


def is_safetensors(file: Path) -> bool:
    """Return whether a file is one of safetensors, by its beginning or its name.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with readable(file), open_file(file) as stream:
        start = stream.read(10)
    return start[8:] in (b'{"', b"{}") or file.suffix.lower() == ".safetensors"


def read_torch_file(file: Path) -> Any:
    """Return what `torch.save` or `pickle.dump` wrote, on the CPU, without running code.

    Raises:
        CheckpointError: the file is missing, cut off, or not PyTorch's.
    """
    with readable(file), open_file(file) as stream:
        return read_torch(stream, check_regular(file))


def check_sums(file: Path) -> None:
    """Compare a zip archive with its checksums, which PyTorch writes into its files, but does not check.

    Raises:
        CheckpointError: a checksum is wrong, or the archive is damaged in another way.
    """
    with readable(file), open_file(file) as stream:
        if not zipfile.is_zipfile(stream):
            return
        with zipfile.ZipFile(stream) as archive:
            check_inflated(archive, check_regular(file))
            if (damaged := archive.testzip()) is not None:
                raise CheckpointError(f"damaged: the checksum of {damaged} is wrong")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, cut off, or not of that format.
    """
    with readable(file, "safetensors file"):
        check_regular(file)
        return load_file(file)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all shards that an index names, which lie beside it."""
    with readable(index, "index of shards"):
        places = json.loads(read_text(index))["weight_map"]
        tensors: dict[str, Tensor] = {}
        for shard in sorted(set(places.values())):
            file = index.with_name(Path(shard).name)
            tensors |= read_safetensors(file) if is_safetensors(file) else read_torch_file(file)
        if missing := places.keys() - tensors.keys():
            raise CheckpointError(f"its shards lack {len(missing)} of its tensors, such as {min(missing)}")
        return tensors


@contextmanager
def readable(file: Path, kind: str = "checkpoint") -> Iterator[None]:
    """Turn what is raised on a damaged file into one line that names the file and, where it is known, what it is."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except Exception as error:  # libraries raise many kinds on damaged files, few of them documented
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the latter by a wrong offset
            raise CheckpointError(f"{file}: {error.strerror}") from error
        if checksum := re.match(r"Bad CRC-32 for file '(.*)'", str(error)):
            raise CheckpointError(f"{file}: damaged: the checksum of {checksum[1]} is wrong") from error
        what = describe(file) or f"damaged, cut off, or not a {kind}"
        raise CheckpointError(f"{file}: {what}") from error


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict into a network. Shapes must be the same, and names but for the prefixes of wrappers.

    Only the batch counters of batch normalisation may be missing, as in files from before PyTorch 0.4.1.

    Args:
        network: the network. It stays unchanged if the weights do not fit.
        weights: the state dict.
        name: name of the network in messages.

    Raises:
        CheckpointError: the weights are of another network, another number of classes, or another type of numbers.
    """
    own = network.state_dict()
    if weights.keys() != own.keys():
        bare_names = dict(zip(without_wrappers(own), own, strict=True))
        weights = {bare_names.get(key, key): value for key, value in without_wrappers(weights).items()}
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
