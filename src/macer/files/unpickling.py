"""Read pickles of unknown origin without running code: what is not numbers, text or containers becomes inert.

A pickle is a program that can call any function by its name. Here, names are looked up in a table of harmless
replacements, which does not even contain NumPy's own classes. Every other name becomes an empty class.
"""

import io
import pickle
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np

_MOST_CLASSES = 1000


class Inert(dict):
    """Stand in for an object of any class, such as a Namespace: it keeps its attributes or items, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def __call__(self, *_: object) -> "Inert":
        return Inert()

    def append(self, _: object) -> None:
        """Ignore an element, as `extend` and `add` do."""

    extend = add = append
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class InertArray:
    """Stand in for a NumPy array. As in NumPy, it is created empty and then filled by its state.

    Attributes:
        values: the array, in native byte order; None if its values are not numbers.
    """

    values: np.ndarray | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, fortran, content = state
        self.fill(content, kind, shape, "F" if fortran else "C")

    def fill(self, content: Any, kind: "_Kind", shape: Any, order: Any) -> "InertArray":
        """Take the values from bytes, as the function does that creates arrays in protocol 5."""
        if isinstance(content, str):  # of Python 2
            content = content.encode("latin1")
        if kind.code is not None:
            array = np.frombuffer(content, kind.order + kind.code).reshape(shape, order=order)
            self.values = array.astype(kind.code)  # a copy, which may be written to
        return self


class _Kind:
    """Stand in for numpy.dtype. The type is None if it is not one of numbers."""

    order = "="

    def __init__(self, code: object = None, *_: object) -> None:
        numbers = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
        self.code = code if isinstance(code, str) and code in numbers else None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and state[1] in ("<", ">"):
            self.order = state[1]


_Base: Any = vars(pickle)["_Unpickler"]


class Unpickler(_Base):
    """An unpickler that calls nothing but the replacements of this module.

    It is the standard library's one in Python: that in C takes 64 GiB of memory when a file of 20 bytes asks for it,
    by a large number in the table of objects that it remembers.

    Args:
        stream: the pickle.
    """

    def __init__(self, stream: io.BufferedIOBase) -> None:
        super().__init__(stream, encoding="latin1")  # which also preserves the bytes of Python 2
        self.classes: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> object:
        """Return what stands in for a class or function."""
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        module = module.replace("numpy._core.", "numpy.core.")
        if (module, name) in _REPLACEMENTS:
            return _REPLACEMENTS[module, name]
        if len(self.classes) == _MOST_CLASSES:
            raise pickle.UnpicklingError(f"asks for more than {_MOST_CLASSES} classes")
        return self.classes.setdefault((module, name), type(name, (Inert,), {"__module__": module}))

    def encode(self, text: str, encoding: str) -> bytes:
        """Return bytes, as the function does that creates them in protocol 2 of Python 3."""
        return text.encode("latin1")

    def load_build(self) -> None:
        """Give its state to what stands in for an object. Functions, classes and tensors stay as they are."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert | InertArray | _Kind):
            self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = {**_Base.dispatch, pickle.BUILD[0]: load_build}


def _from_buffer(*arguments: Any) -> InertArray:
    return InertArray().fill(*arguments)


_REPLACEMENTS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): InertArray,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): InertArray,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
}
