"""The idx format of MNIST and Fashion-MNIST, plain or gzip."""

import math
import struct
from pathlib import Path

import numpy as np
import torch

from macer.data.files import read_bytes, read_gzip
from macer.data.images import InMemoryImages, check_labels
from macer.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_idx(name: str, root: Path, split: str, class_names: tuple[str, ...], folder: str) -> InMemoryImages:
    """One split from the two idx files in `root`, `root/raw` or `root/<folder>/raw` (torchvision's layout).

    Raises:
        DataError: a file is missing, cut off or not idx, or its contents contradict each other.
    """
    image_file, label_file = (_find(name, root, stem, folder) for stem in _FILES[split])
    images = torch.from_numpy(read_idx(image_file, dimensions=3)).unsqueeze(1)
    labels = torch.from_numpy(read_idx(label_file, dimensions=1).astype(np.int64))
    check_labels(str(label_file), labels, class_names)
    return InMemoryImages(name, split, images, labels, class_names)


def _find(name: str, root: Path, stem: str, folder: str) -> Path:
    places = [root, root / "raw", root / folder / "raw"]
    for place in places:
        for file in (place / stem, place / f"{stem}.gz"):
            if file.is_file():
                return file
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"{name}: found no {stem} or {stem}.gz in any of {looked}")


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes that an idx file holds.

    The format: two zero bytes, the type (8 = unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit number, then the data (http://yann.lecun.com/exdb/mnist).

    Raises:
        DataError: the file cannot be read, has another magic number, or is longer or shorter than it says.
    """
    content = read_gzip(file) if file.suffix == ".gz" else read_bytes(file)
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
