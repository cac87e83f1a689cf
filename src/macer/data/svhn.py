"""SVHN with cropped digits: the MATLAB files train_32x32.mat, test_32x32.mat and extra_32x32.mat, and Parquet.

The format: http://ufldl.stanford.edu/housenumbers
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from macer.data.files import find_shards, not_found, reason
from macer.data.images import InMemoryImages
from macer.errors import DataError, MacerError
from macer.files.matlab import Variable, find_variables

_CLASS_NAMES = tuple(str(digit) for digit in range(10))
_MOST = 1_000_000
"""Largest number of images in a file; extra_32x32.mat has 531,131."""
_BLOCK = 1000
"""Number of images that are transposed at once."""


def load_svhn(name: str, root: Path, split: str) -> InMemoryImages:
    """Return one split of "svhn", or of "svhn-extra", whose training images include the 531,131 extra ones.

    The files lie in `root` or `root/svhn`. Without them, Parquet files are read. Training batches are randomly cropped
    and flipped.

    Raises:
        DataError: a file is missing, is damaged, or contains something else.
    """
    stems = ["train", "extra"] if (name, split) == ("svhn-extra", "train") else [split]
    mats = {stem: _find(root, f"{stem}_32x32.mat") for stem in stems}
    if not any(mats.values()):
        shards = [find_shards(root, [stem], ("cropped_digits",)) for stem in stems]
        if all(shards):
            from macer.data.parquet import load_parquet  # MATLAB files do not need its libraries

            return load_parquet(name, split, [*chain(*shards)], (3, 32, 32), _CLASS_NAMES, augment=split == "train")
    files = [file for file in mats.values() if file is not None]
    if missing := next((stem for stem, file in mats.items() if file is None), None):
        raise not_found(name, [f"{missing}_32x32.mat", f"{missing}-*.parquet"], root, f" or {root / 'svhn'}")
    contents = [_pixels_and_digits(file) for file in files]
    count = sum(pixels.shape[3] for pixels, _ in contents)
    images, labels = np.empty((count, 3, 32, 32), np.uint8), np.empty(count, np.int64)
    start = 0
    for file, (pixels, digits) in zip(files, contents, strict=True):
        part = slice(start, start + pixels.shape[3])
        with _one_line(file):
            labels[part] = _read_digits(file, digits)
            _read_pixels(pixels, images[part])
        start = part.stop
    return InMemoryImages(
        name, split, torch.from_numpy(images), torch.from_numpy(labels), _CLASS_NAMES, augment=split == "train"
    )


def _find(root: Path, file: str) -> Path | None:
    return next((place / file for place in (root, root / "svhn") if (place / file).is_file()), None)


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    try:
        yield
    except MacerError:
        raise
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error
    except ValueError as error:
        raise DataError(f"{file}: not a MATLAB 5 file, or damaged: {reason(error)}") from error


def _pixels_and_digits(file: Path) -> tuple[Variable, Variable]:
    """Return the variables X and y after checking their shapes and types, without reading their values."""
    with _one_line(file):
        found = {variable.name: variable for variable in find_variables(file)}
    for name in ("X", "y"):
        if name not in found:
            raise DataError(f"{file}: holds no variable {name}")
    pixels, digits = found["X"], found["y"]
    if len(pixels.shape) != 4 or pixels.shape[:3] != (32, 32, 3) or digits.shape != (pixels.shape[3], 1):
        raise DataError(
            f"{file}: X is {pixels.shape} and y is {digits.shape} where (32, 32, 3, images) and (images, 1) are needed"
        )
    if pixels.kind != np.uint8 or digits.kind is None:
        kinds = [variable.kind or "no real numbers" for variable in (pixels, digits)]
        raise DataError(f"{file}: X holds {kinds[0]} and y holds {kinds[1]} where uint8 and numbers are needed")
    if pixels.shape[3] > _MOST:
        raise DataError(f"{file}: {pixels.shape[3]:,} images; at most {_MOST:,} are read")
    return pixels, digits


def _read_digits(file: Path, digits: Variable) -> Int64[np.ndarray, " images"]:
    """Return the labels. In the file, the digit 0 has the label 10."""
    labels = digits.values()
    if not np.isin(labels, range(1, 11)).all():
        raise DataError(f"{file}: labels from {labels.min()} to {labels.max()} where 1 to 10 are needed")
    return labels.astype(np.int64) % 10


def _read_pixels(pixels: Variable, images: UInt8[np.ndarray, "images 3 32 32"]) -> None:
    """Fill `images`. In the file, the order is image by image, colour by colour, column by column."""
    for number, block in enumerate(pixels.blocks(_BLOCK * 3 * 32 * 32)):
        columns_first = block.reshape(-1, 3, 32, 32)
        images[number * _BLOCK : number * _BLOCK + len(columns_first)] = columns_first.swapaxes(2, 3)
