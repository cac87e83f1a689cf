"""Read the variables in `.mat` files of MATLAB 5.

SciPy reads such files too, but damaged flags, dimensions or types of elements crash the whole process in its compiled
reader: 4 of 300 files with a few random bytes changed did. A guard would have to check what is read here. The format is
described in "MAT-File Format", The MathWorks, version 5, chapter 1.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from macer.files.reading import open_file

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy's names for the types in which numbers are stored."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""NumPy's names for the types of variables, whose numbers may be stored in a smaller type."""
_NAMED_CLASSES = range(1, 16)
_COMPLEX = 0x800

_LONGEST = 2**16
"""Largest number of bytes of the dimensions or the name of a variable."""
_BLOCK = 2**16
"""Number of bytes that are decompressed at once."""


@dataclass(frozen=True)
class Variable:
    """A variable in a file. Its values are read on demand.

    Attributes:
        name: name of the variable.
        shape: dimensions of the variable.
        kind: NumPy type of its values; None if they are not real numbers.
    """

    name: str
    shape: tuple[int, ...]
    kind: np.dtype | None
    _file: Path
    _at: int
    _order: str

    def blocks(self, size: int) -> Iterator[Shaped[np.ndarray, " values"]]:
        """Yield the values, `size` at a time, in the order of the file, in which the first index runs fastest.

        The checksum of compressed values is checked after the last block.

        Raises:
            ValueError: the values are not real numbers, or are cut off or damaged.
            OSError: the file cannot be read.
        """
        if self.kind is None:
            raise ValueError(f"{self.name} holds no real numbers")
        with open_file(self._file) as stream:
            content, _ = _open_matrix(stream, self._at, self._order)
            _read_name(content, self._order)
            stored = _read_stored(content, self._order, self.shape, self.kind)
            count = math.prod(self.shape)
            for start in range(0, max(count, 1), size):
                data = content.exactly(min(size, count - start) * stored.itemsize)
                yield np.frombuffer(data, stored).astype(self.kind, copy=False)
            if len(content.read(8)) == 8:  # up to 7 fill the last 8
                raise ValueError("more values than its dimensions say")

    def values(self) -> Shaped[np.ndarray, " values"]:
        """Return all values, in the order of `blocks`.

        Raises:
            ValueError: the values are not real numbers, or are cut off or damaged.
            OSError: the file cannot be read.
        """
        (values,) = self.blocks(max(math.prod(self.shape), 1))
        return values


def find_variables(file: Path) -> list[Variable]:
    """Return the variables of a file that have dimensions, without reading their values.

    Raises:
        ValueError: the file is not of MATLAB 5, is cut off, or contradicts itself.
        OSError: the file cannot be read.
    """
    found = []
    with open_file(file) as stream:
        header = stream.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if order is None or struct.unpack(order + "H", header[124:126]) != (0x0100,):
            raise ValueError(_other_version(header) or "no header of MATLAB 5")
        at, end = 128, stream.seek(0, io.SEEK_END)
        while at < end:
            content, after = _open_matrix(stream, at, order)
            named = _read_name(content, order)
            if named is not None:
                found.append(Variable(*named, file, at, order))
            at = after
    return found


def _other_version(header: bytes) -> str | None:
    """Return what to do with a file of MATLAB 7.3 (HDF5) or 4, by its first bytes; None if it is of neither."""
    way = "in MATLAB, load it and save it with '-v7'"
    if header.startswith((b"MATLAB 7.3", b"\x89HDF")):
        return f"it is of MATLAB 7.3 (HDF5); {way}, or in Python read it with h5py and write it with scipy.io.savemat"
    for order in "<>":
        # type, rows, columns, imaginary, and the length of the name: chapter 2
        kind, *sizes, imaginary, name = struct.unpack(order + "5i", header[:20].ljust(20, b"\xff"))
        plausible = kind // 1000 in (0, 1) and kind // 100 % 10 == 0 and kind // 10 % 10 <= 5 and kind % 10 <= 2
        if plausible and min(sizes) >= 0 and imaginary in (0, 1) and 1 < name <= 64:
            return f"it is of MATLAB 4; {way}, or in Python read it with scipy.io.loadmat and write it with savemat"
    return None


class _Content:
    """The data of an element, which are decompressed while reading."""

    def __init__(self, stream: io.BufferedReader, size: int, *, compressed: bool) -> None:
        self._stream, self._left = stream, size
        self._unpacker = zlib.decompressobj() if compressed else None

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer at the end of the data."""
        parts = []
        while size and (part := self._part(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        data = self.read(size)
        if len(data) < size:
            raise ValueError("cut off")
        return data

    def _part(self, most: int) -> bytes:
        """Return at least one of the next bytes; none at the end of the data."""
        if self._unpacker is None:
            return self._packed(most)
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._packed(_BLOCK)
            try:
                part = self._unpacker.decompress(packed, most)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            if part:
                return part
            if not packed:
                raise ValueError("compressed data without their end")
        return b""

    def _packed(self, most: int) -> bytes:
        data = self._stream.read(min(most, self._left))
        self._left -= len(data)
        return data


def _open_matrix(stream: io.BufferedReader, at: int, order: str) -> tuple[_Content, int]:
    """Return the data of the matrix that begins at a position in a file, and the position behind it."""
    end = stream.seek(0, io.SEEK_END)
    stream.seek(at)
    kind, size, _ = _read_tag(_Content(stream, end - at, compressed=False), order)
    after = stream.tell() + size
    if after > end:
        raise ValueError("cut off")
    content = _Content(stream, size, compressed=kind == _COMPRESSED)
    if kind == _COMPRESSED:
        kind, _, _ = _read_tag(content, order)
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} where a variable should be")
    return content, after


def _read_tag(content: _Content, order: str) -> tuple[int, int, int]:
    """Return the type of the next element, the size of its data, and the number of padding bytes behind them."""
    (kind,) = struct.unpack(order + "I", content.exactly(4))
    if kind >> 16:  # up to 4 bytes of data stand in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError("a small element that is not small")
        return kind, size, 4 - size
    (size,) = struct.unpack(order + "I", content.exactly(4))
    return kind, size, -size % 8


def _read_data(content: _Content, order: str) -> bytes:
    """Return the data of a short element."""
    _, size, padding = _read_tag(content, order)
    if size > _LONGEST:
        raise ValueError(f"{size:,} bytes of dimensions or name")
    return content.exactly(size + padding)[:size]


def _read_name(content: _Content, order: str) -> tuple[str, tuple[int, ...], np.dtype | None] | None:
    """Return the name, dimensions and type of a matrix; None for objects that have another structure."""
    flags = _read_data(content, order)
    if len(flags) != 8:
        raise ValueError("a variable without flags")
    (flags,) = struct.unpack(order + "I", flags[:4])
    if flags & 0xFF not in _NAMED_CLASSES:
        return None
    shape = tuple(np.frombuffer(_read_data(content, order), order + "i4").tolist())
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"impossible dimensions {shape}")
    name = _read_data(content, order).decode("latin-1")
    numeric = flags & 0xFF in _CLASSES and not flags & _COMPLEX
    return name, shape, np.dtype(_CLASSES[flags & 0xFF]) if numeric else None


def _read_stored(content: _Content, order: str, shape: tuple[int, ...], kind: np.dtype) -> np.dtype:
    """Return the type in which the next numbers are stored."""
    stored, size, _ = _read_tag(content, order)
    # Real numbers may be stored as whole numbers.
    fits = stored in _STORED and (np.can_cast(_STORED[stored], kind) or (kind.kind == "f" and _STORED[stored] != "f8"))
    if not fits:
        raise ValueError(f"numbers {kind} stored in type {stored}")
    dtype = np.dtype(order + _STORED[stored])
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size:,} bytes of values in dimensions {shape}")
    return dtype
