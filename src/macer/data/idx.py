"""MNIST and Fashion-MNIST in the idx format, plain or compressed with gzip, and in Parquet."""

import itertools
import math
import struct
from pathlib import Path

import numpy as np
import torch

from macer.data.files import find_shards, not_found, read_maybe_gzip
from macer.data.images import InMemoryImages, check_labels
from macer.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_VARIANTS = {"mnist": ("MNIST", tuple(map(str, range(10)))), "fashion-mnist": ("FashionMNIST", _FASHION)}
"""The name of torchvision's folder, and the classes."""
_FIRST_LABELS = {
    "mnist": {"train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]},
    "fashion-mnist": {"train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "test": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]},
}
"""What tells the files of one from those of the other, which have the same names and shapes and name no classes."""
_HUB_FOLDERS = {"mnist": ("mnist",), "fashion-mnist": ("fashion_mnist",)}


def load_idx(name: str, root: Path, split: str) -> InMemoryImages:
    """Return one split of "mnist" or "fashion-mnist".

    The files lie in `root`, `root/raw`, or as torchvision puts them, in `root/MNIST/raw` or `root/FashionMNIST/raw`,
    each by itself or in a folder of its own name. Some distributors write a dot in their names where others have a
    hyphen. Whether a file is compressed is told by its content. Without them, Parquet files are read.

    Raises:
        DataError: a file is missing, cut off or not of this format, images and labels do not fit each other, or the
            files are those of the other data set.
    """
    folder, class_names = _VARIANTS[name]
    image_file, label_file = (_find(root, stem, folder) for stem in _FILES[split])
    if image_file is None and label_file is None and (shards := find_shards(root, [split], _HUB_FOLDERS[name])):
        from macer.data.parquet import load_parquet  # idx files do not need its libraries

        return load_parquet(name, split, shards, (1, 28, 28), class_names)
    if image_file is None or label_file is None:
        stem = _FILES[split][0 if image_file is None else 1]
        where = f", {root / 'raw'} or {root / folder / 'raw'}"
        raise not_found(name, [stem, f"{stem}.gz", f"{split}-*.parquet"], root, where)
    images = torch.from_numpy(read_idx(image_file, dimensions=3)).unsqueeze(1)
    labels = torch.from_numpy(read_idx(label_file, dimensions=1).astype(np.int64))
    check_labels(str(label_file), labels, class_names)
    (other,) = _FIRST_LABELS.keys() - {name}
    if labels[:10].tolist() == _FIRST_LABELS[other][split]:
        raise DataError(f"{label_file}: these are the labels of {other}, and not of {name}")
    return InMemoryImages(name, split, images, labels, class_names)


def _find(root: Path, stem: str, folder: str) -> Path | None:
    """Return the file of this name in any of its spellings, by itself or in a folder of such a name."""
    places = [root, root / "raw", root / folder / "raw"]
    names = [spelling + suffix for spelling in (stem, stem.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    files = (
        file
        for place, name in itertools.product(places, names)
        for file in (place / name, *(place / name / inside for inside in names))
    )
    return next((file for file in files if file.is_file()), None)


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Return the array of unsigned bytes in an idx file.

    The format (http://yann.lecun.com/exdb/mnist) is two zero bytes, the type (8 for unsigned bytes), the number of
    dimensions, each dimension as a big-endian 32-bit number, and then the data.

    Raises:
        DataError: the file cannot be read, has another magic number, or is longer or shorter than its header says.
    """
    content = read_maybe_gzip(file)
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(
            f"{file}: wrong magic number {content[:4].hex() or '(empty file)'}; an idx file of unsigned bytes in "
            f"{dimensions} dimension(s) begins with {bytes((0, 0, 8, dimensions)).hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        kind = "cut off" if len(content) < expected else "too long"
        raise DataError(f"{file}: {kind}: {len(content)} bytes where its header promises {expected}")
    return np.frombuffer(bytearray(content), dtype=np.uint8, offset=header).reshape(shape)
