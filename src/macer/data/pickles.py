"""Read the pickles of data sets, of unknown origin: numbers, text, lists, dictionaries and arrays of bytes."""

import io
import pickle

import numpy as np

from macer.data.files import reason
from macer.errors import DataError
from macer.files.unpickling import InertArray, Unpickler


def read_pickle(content: bytes, source: str) -> dict[str, object]:
    """Return the dictionary in a pickle, with text as keys and NumPy arrays of unsigned bytes.

    Pickles may be written by Python 2, as the original files of CIFAR, or Python 3, with any version of NumPy.

    Args:
        content: the pickle. Nothing in it is executed.
        source: its file, for messages.

    Raises:
        DataError: the pickle is cut off or malformed, contains no dictionary or another type of
            array, or asks for other objects.
    """
    try:
        unpickler = Unpickler(io.BytesIO(content))
        found = unpickler.load()
        for module, name in unpickler.classes:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r:.80}, which no data set needs")
    except Exception as error:  # a malformed pickle can fail in any way
        raise DataError(f"{source}: not a pickle that can be read safely: {reason(error)}") from error
    if type(found) is not dict:
        raise DataError(f"{source}: the pickle holds no dictionary")
    values = {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
    for key, value in values.items():
        if isinstance(value, InertArray):
            if value.values is None or value.values.dtype != np.uint8:
                raise DataError(f"{source}: the pickle holds an array of something other than unsigned bytes")
            values[key] = value.values
    return values
