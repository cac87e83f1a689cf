"""The original's `.mat` files: variables `hard` and/or `soft`, a radius an image, -1 where wrong or abstained."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.io import loadmat, savemat

from macer.errors import RecordsError
from macer.replacing import replacing
from macer.results.records import is_radius

KINDS = ("hard", "soft")


def write_mat(file: Path, radii: Mapping[str, Float64[np.ndarray, " images"]]) -> None:
    """Write the radii of each kind, in MATLAB 5 format, which SciPy, Octave and MATLAB read."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        savemat(stream, dict(radii))


def read_mat(file: Path) -> dict[str, Float64[np.ndarray, " images"]]:
    """The radii of each kind in a `.mat` file.

    Raises:
        RecordsError: the file cannot be read as MATLAB's, holds neither variable, or one that is not a row of radii.
    """
    try:
        content = loadmat(file)
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise RecordsError(f"{file}: not a .mat file of MATLAB 5, or damaged") from error
    found = {kind: np.asarray(content[kind]) for kind in KINDS if kind in content}
    if not found:
        raise RecordsError(f"{file}: has neither of the variables hard and soft")
    radii = {}
    for kind, values in found.items():
        if values.dtype.kind not in "fiu" or values.size != max(values.shape, default=0) or values.size == 0:
            raise RecordsError(f"{file}: {kind} is not a row of radii")
        radii[kind] = values.ravel().astype(np.float64)
        if not np.all(is_radius(radii[kind]) | (radii[kind] == -1)):
            raise RecordsError(f"{file}: {kind} holds values that are neither a radius nor -1")
    return radii
