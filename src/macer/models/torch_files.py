"""Read what `torch.save` wrote without running code, whatever lies beside the weights.

`torch.load(weights_only=True)` refuses files that hold anything but weights, does not compare checksums, and trusts
the sizes that a file states. Here, other objects become inert (`macer.files.unpickling`), and each size is checked.
"""

import io
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from macer.errors import CheckpointError
from macer.files.unpickling import Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C
"""The number at the beginning of files from before PyTorch 1.6."""
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class _Storage:
    """The numbers behind one or more tensors: bytes, and what they are to be read as."""

    content: Tensor
    dtype: torch.dtype


class _TorchUnpickler(Unpickler):
    """An unpickler that also builds tensors.

    Args:
        stream: the pickle.
        find_bytes: function from a storage's key and its number of bytes to a tensor of these bytes.
    """

    def __init__(self, stream: io.BufferedIOBase, find_bytes: Callable[[str, int], Tensor]) -> None:
        super().__init__(stream)
        self.find_bytes = find_bytes

    def find_class(self, module: str, name: str) -> object:
        if module.split(".")[0] != "torch":
            return super().find_class(module, name)
        if name in _STORAGES:
            return _STORAGES[name]
        if isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        known = {
            "Size": tuple,
            "_load_from_bytes": self.nested,
            "_rebuild_tensor": self.tensor,
            "_rebuild_tensor_v2": self.tensor,
            "_rebuild_tensor_v3": self.typed,
            "_rebuild_parameter": self.parameter,
            "_rebuild_parameter_with_state": self.parameter,
            "_rebuild_from_type_v2": self.of_type,
        }
        if name.startswith("_rebuild_") and name not in known:
            raise CheckpointError(f"holds sparse or other special tensors ({name}): save them as plain dense ones")
        return known.get(name) or super().find_class(module, name)

    def persistent_load(self, pid: Any) -> object:
        """Return the storage with this key, or the class of a pickled module."""
        if pid[0] != "storage":
            return pid[1]
        _, dtype, key, _location, numel, *view = pid
        content = self.find_bytes(key, numel * dtype.itemsize)
        if view and view[0] is not None:  # part of another storage, in very old files
            _, start, length = view[0]
            content = content[start * dtype.itemsize : (start + length) * dtype.itemsize]
        return _Storage(content, dtype)

    def tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
        """Return a tensor whose elements all lie in the storage."""
        flat = storage.content.view(storage.dtype)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(flat)):
            raise ValueError("a tensor that reaches beyond its storage")
        return torch.empty(size, dtype=storage.dtype) if 0 in size else flat.as_strided(size, stride, offset)

    def typed(self, storage: _Storage, *arguments: Any) -> Tensor:
        """Return a tensor whose type is given apart from its storage."""
        *place, _requires_grad, _hooks, dtype = arguments[:6]
        return self.tensor(_Storage(storage.content, dtype), *place)

    def parameter(self, data: Tensor, *_: object) -> Tensor:
        """Return a parameter as the tensor that it is."""
        return data

    def of_type(self, rebuild: Callable, _kind: object, arguments: tuple, _state: object) -> object:
        """Return a tensor of a subclass as a plain tensor."""
        return rebuild(*arguments)

    def nested(self, content: bytes) -> object:
        """Return the storage that `pickle.dump` wrote by means of `torch.save`."""
        return read_torch(io.BytesIO(content), len(content))


def read_torch(stream: io.BufferedIOBase, size: int) -> Any:
    """Return what `torch.save` or `pickle.dump` wrote, on the CPU.

    The content consists of dictionaries, lists, tuples, numbers, texts, tensors, and stand-ins for all other objects.

    Args:
        stream: the file.
        size: its number of bytes, which storages together cannot exceed.

    Raises:
        CheckpointError: it is written so that it cannot be read safely; the message names no file.
        Exception: it is damaged or cut off; of many kinds.
    """
    start = stream.read(4)
    stream.seek(0)
    return _read_zip(stream, size) if start == b"PK\x03\x04" else _read_pickles(stream, size)


def _read_zip(stream: io.BufferedIOBase, size: int) -> Any:
    """Read the format since PyTorch 1.6, comparing checksums: a pickle, and one entry per storage."""
    with zipfile.ZipFile(stream) as archive:
        check_inflated(archive, size)
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise CheckpointError("a TorchScript program, which is code and not weights")
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != sys.byteorder.encode():
            raise CheckpointError("was written by a machine of another byte order")
        storages: dict[str, Tensor] = {}

        def find_bytes(key: str, length: int) -> Tensor:
            if key not in storages:
                storages[key] = _bytes(archive.read(f"{folder}data/{key}"))
            if not 0 <= length <= len(storages[key]):
                raise ValueError("a storage of another size than stated")
            return storages[key][:length]

        return _TorchUnpickler(io.BytesIO(archive.read(pickled)), find_bytes).load()


def check_inflated(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive whose entries are much larger than itself.

    Raises:
        CheckpointError: weights in it are compressed, which PyTorch never does, or its entries overlap.
    """
    inflated = sum(entry.file_size for entry in archive.infolist())
    if inflated > 4 * size + 2**20:  # the code of TorchScript is compressed
        raise CheckpointError(f"{size:,} bytes that would inflate to {inflated:,}; PyTorch does not compress weights")


def _read_pickles(stream: io.BufferedIOBase, size: int) -> Any:
    """Read one pickle; or the format before PyTorch 1.6: a magic number, version, machine, content, and storages."""
    storages: dict[str, Tensor] = {}

    def find_bytes(key: str, length: int) -> Tensor:
        if key not in storages:
            if not 0 <= length <= size - sum(map(len, storages.values())):
                raise ValueError("storages larger than the file")
            storages[key] = torch.empty(length, dtype=torch.uint8)
        if not 0 <= length <= len(storages[key]):
            raise ValueError("a storage of another size than stated")
        return storages[key]

    def load() -> Any:
        return _TorchUnpickler(stream, find_bytes).load()

    content = load()
    if content != _MAGIC:
        return content
    _version, machine = load(), load()
    if machine["little_endian"] != (sys.byteorder == "little"):
        raise CheckpointError("was written by a machine of another byte order")
    content = load()
    for key in load():
        storage = storages[key]
        # Its number of elements stands before it; their size is known from the content.
        stream.read(8)
        data = stream.read(len(storage))
        if len(data) < len(storage):
            raise EOFError
        storage.copy_(_bytes(data))
    return content


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
