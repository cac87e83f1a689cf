"""Read pickles of unknown origin, which may only build numbers, text, lists, dictionaries and arrays of bytes.

A pickle is a program that can call any function by its name. Here, names are looked up in a table of harmless
replacements, which does not even contain NumPy's own classes.
"""

import io
import pickle

import numpy as np

from macer.data.files import reason
from macer.errors import DataError


def read_pickle(content: bytes, source: str) -> dict[str, object]:
    """Return the dictionary in a pickle, with text as keys and NumPy arrays of unsigned bytes.

    Pickles may be written by Python 2, as the original files of CIFAR, or Python 3, with any version of NumPy.

    Args:
        content: the pickle.
        source: its file, for messages.

    Raises:
        DataError: the pickle is cut off or malformed, contains no dictionary, or asks for other objects.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a malformed pickle can fail in any way
        raise DataError(f"{source}: not a pickle that can be read safely: {reason(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{source}: the pickle holds no dictionary")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value.array
        if isinstance(value, _Array)
        else value
        for key, value in found.items()
    }


class _Kind:
    """Replacement of numpy.dtype that allows unsigned bytes only."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError("it holds an array of something other than unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and the like, which do not apply to unsigned bytes."""


class _Array:
    """Replacement of numpy.ndarray. As in NumPy, it is created empty and then filled by its state."""

    array: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, fortran, content = state
        self.fill(content, kind, shape, "F" if fortran else "C")

    def fill(self, content: object, kind: object, shape: object, order: object) -> "_Array":
        if not (isinstance(content, bytes | bytearray) and isinstance(kind, _Kind) and order in ("C", "F", b"C", b"F")):
            raise pickle.UnpicklingError("it holds a malformed array")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if order in ("F", b"F") else "C")  # pyright: ignore[reportCallIssue, reportArgumentType]
        return self


def _from_buffer(content: object, kind: object, shape: object, order: object) -> _Array:
    """Replace the function that creates arrays in protocol 5."""
    return _Array().fill(content, kind, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    """Replace the function that creates bytes in protocol 2 of Python 3."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("it holds malformed bytes")
    return text.encode("latin1")


_REPLACEMENTS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _REPLACEMENTS:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r:.80}, which no data set needs")
        return _REPLACEMENTS[module, name]
