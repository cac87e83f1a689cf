"""SVHN, the cropped digits: MATLAB files train_32x32.mat, test_32x32.mat and extra_32x32.mat.

The format: http://ufldl.stanford.edu/housenumbers
"""

from pathlib import Path

import numpy as np
import torch

from macer.data.files import reason
from macer.data.images import InMemoryImages
from macer.errors import DataError

_CLASS_NAMES = tuple(str(digit) for digit in range(10))


def load_svhn(name: str, root: Path, split: str) -> InMemoryImages:
    """One split of "svhn" or of "svhn-extra", which trains on the 531,131 extra images too.

    The files lie in `root` or `root/svhn`. Training batches are randomly cropped and flipped.

    Raises:
        DataError: a file is missing, damaged, or holds something else.
    """
    stems = ["train", "extra"] if (name, split) == ("svhn-extra", "train") else [split]
    files = [_find(name, root, f"{stem}_32x32.mat") for stem in stems]
    images = np.empty((sum(_count(file) for file in files), 3, 32, 32), np.uint8)
    labels, start = [], 0
    for file in files:
        # Filled file by file, so that no more than one file is in memory beside the result.
        pixels, digits = _read(file)
        images[start : start + len(digits)] = pixels.transpose(3, 2, 0, 1)
        labels.append(digits)
        start += len(digits)
    return InMemoryImages(
        name,
        split,
        torch.from_numpy(images),
        torch.from_numpy(np.concatenate(labels)),
        _CLASS_NAMES,
        augment=split == "train",
    )


def _find(name: str, root: Path, file: str) -> Path:
    places = [root, root / "svhn"]
    for place in places:
        if (place / file).is_file():
            return place / file
    raise DataError(f"{name}: found no {file} in {' or '.join(str(place) for place in places)}")


def _count(file: Path) -> int:
    """How many images the file says it holds."""
    from scipy.io import whosmat  # slow to import, and only this data set needs it

    try:
        shapes = {name: shape for name, shape, _ in whosmat(file)}
    except Exception as error:  # the reader fails in many ways on damaged files
        raise DataError(f"{file}: not a MATLAB file that can be read: {reason(error)}") from error
    pixels, labels = shapes.get("X", ()), shapes.get("y", ())
    if len(pixels) != 4 or pixels[:3] != (32, 32, 3) or labels != (pixels[3], 1):
        raise DataError(f"{file}: X is {pixels} and y is {labels} where (32, 32, 3, images) and (images, 1) are needed")
    return pixels[3]


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (32, 32, 3, images) and digits; the file writes the digit 0 as 10."""
    from scipy.io import loadmat

    try:
        content = loadmat(file, variable_names=["X", "y"])
    except Exception as error:
        raise DataError(f"{file}: damaged or cut off: {reason(error)}") from error
    pixels, labels = content["X"], content["y"].ravel()
    if pixels.dtype != np.uint8 or labels.dtype.kind not in "uif":
        raise DataError(f"{file}: X holds {pixels.dtype} and y holds {labels.dtype} where bytes and numbers are needed")
    if not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{file}: labels from {labels.min()} to {labels.max()} where 1 to 10 are needed")
    return pixels, labels.astype(np.int64) % 10
