"""The original program's `.mat` files: variables `hard` and/or `soft` with one radius per image, -1 where wrong.

A third variable `idx` holds the images' indices in the data set, where they are known.

SciPy writes them, `macer.files.matlab` reads them.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from scipy.io import savemat

from macer.errors import MacerError, RecordsError
from macer.files.matlab import Variable, find_variables
from macer.files.replacing import replacing
from macer.runs.certificates import KINDS, is_radius

_MOST = 100_000
"""Largest number of radii that are read, twice ImageNet's test images. Compressed, they may come from few bytes, and
intervals over the choice of images take time for each."""


def write_mat(
    file: Path, radii: Mapping[str, Float64[np.ndarray, " images"]], idx: Int64[np.ndarray, " images"] | None = None
) -> None:
    """Write the radii of each kind, in MATLAB 5 format, which SciPy, Octave and MATLAB read.

    Args:
        file: to write.
        radii: by kind; -1 where the prediction is wrong or missing.
        idx: the images' indices in their data set.

    Raises:
        OSError: the file cannot be written.
    """
    variables = dict(radii) if idx is None else {**radii, "idx": idx}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        savemat(stream, variables)


def read_mat(
    file: Path,
) -> tuple[dict[str, Float64[np.ndarray, " images"]], Int64[np.ndarray, " images"] | None]:
    """Read the radii of each kind in a `.mat` file, and the indices of their images where it has them.

    Raises:
        RecordsError: the file cannot be read as MATLAB's, holds neither variable, or one that is not a row of radii.
    """
    try:
        found = [variable for variable in find_variables(file) if variable.name in (*KINDS, "idx")]
        if len({variable.name for variable in found}) < len(found):
            raise RecordsError(f"{file}: has a variable twice")
        rows = {variable.name: _row(variable) for variable in found}
    except MacerError:
        raise
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise RecordsError(f"{file}: not a .mat file of MATLAB 5 to 7, or damaged: {error}") from error
    if not set(KINDS) & set(rows):
        raise RecordsError(f"{file}: has neither of the variables hard and soft")
    radii = {}
    for kind in KINDS:
        if kind in rows:
            radii[kind] = _radii(file, kind, rows[kind])
    return radii, _indices(file, rows["idx"], radii) if "idx" in rows else None


def _row(variable: Variable) -> np.ndarray | None:
    """Return the values of a variable if they are one row or column of real numbers."""
    count = math.prod(variable.shape)
    if variable.kind is None or not 0 < count == max(variable.shape):
        return None
    if count > _MOST:
        raise ValueError(f"{count:,} values of {variable.name}; at most {_MOST:,} are read")
    return variable.values()


def _radii(file: Path, kind: str, row: np.ndarray | None) -> Float64[np.ndarray, " images"]:
    if row is None:
        raise RecordsError(f"{file}: {kind} is not a row of radii")
    radii = row.astype(np.float64)
    if not np.all(is_radius(radii) | (radii == -1)):
        raise RecordsError(f"{file}: {kind} holds values that are neither a radius nor -1")
    return radii


def _indices(
    file: Path, row: np.ndarray | None, radii: Mapping[str, Float64[np.ndarray, " images"]]
) -> Int64[np.ndarray, " images"]:
    """Return the variable idx, which MATLAB may have stored as floating-point numbers."""
    if row is None:
        raise RecordsError(f"{file}: idx is not a row of indices")
    whole = np.all((row >= 0) & (row < 2**53)) and np.array_equal(row, np.floor(row))
    if not (whole and np.all(row[1:] > row[:-1])):
        raise RecordsError(f"{file}: idx does not hold ascending indices of images")
    if any(len(each) != len(row) for each in radii.values()):
        raise RecordsError(f"{file}: idx does not have an index for each radius")
    return row.astype(np.int64)
