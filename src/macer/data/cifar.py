"""CIFAR-10 and CIFAR-100 in their Python and binary versions, unpacked or in their archives, and in Parquet.

The formats: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from macer.data.files import find_shards, not_found, read_bytes, read_gzip, reason
from macer.data.images import InMemoryImages
from macer.data.pickles import read_pickle
from macer.errors import DataError, MacerError

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_PIXELS = 3 * 32 * 32
_Part = tuple[np.ndarray, np.ndarray]
"""Images as rows of 3,072 bytes, and their labels."""


@dataclass(frozen=True)
class _Variant:
    """The differences between the files of the two data sets."""

    pickled_folder: str
    binary_folder: str
    archives: tuple[str, str]  # of the pickled and of the binary folder
    files: dict[str, tuple[str, ...]]  # by split; the binary ones end in .bin
    label_key: str  # in pickles
    label_bytes: int  # before each picture in binary files; the last is the label we want
    class_names: tuple[str, ...]


_VARIANTS = {
    "cifar10": _Variant(
        pickled_folder="cifar-10-batches-py",
        binary_folder="cifar-10-batches-bin",
        archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
        files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        label_key="labels",
        label_bytes=1,
        class_names=tuple(_CIFAR10_CLASSES.split()),
    ),
    "cifar100": _Variant(
        pickled_folder="cifar-100-python",
        binary_folder="cifar-100-binary",
        archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
        files={"train": ("train",), "test": ("test",)},
        label_key="fine_labels",
        label_bytes=2,
        class_names=tuple(_CIFAR100_CLASSES.split()),
    ),
}


def load_cifar(name: str, root: Path, split: str) -> InMemoryImages:
    """Return one split of "cifar10", or of "cifar100" with its 100 fine classes.

    The first of these in `root` is read: the folder of the Python version, the folder of the binary version, Parquet,
    the archive of the Python version, the archive of the binary version. Archives are not unpacked. A file may contain
    any number of images, in at most `files.LARGEST` bytes. Training batches are randomly cropped and flipped.

    Raises:
        DataError: none of these is there, a file is missing, or one is damaged.
    """
    variant = _VARIANTS[name]
    pickled, binary = variant.files[split], tuple(f"{file}.bin" for file in variant.files[split])
    versions = ((variant.pickled_folder, pickled, _read_pickled), (variant.binary_folder, binary, _read_binary))
    for folder, files, read in versions:
        for place in (root / folder, root):
            if any((place / file).is_file() for file in files):
                parts = (read(variant, read_bytes(place / file), str(place / file)) for file in files)
                return _join(name, split, variant, list(parts))
    if shards := find_shards(root, [split], ("plain_text", name)):
        from macer.data.parquet import load_parquet  # the other formats do not need its libraries

        return load_parquet(name, split, shards, (3, 32, 32), variant.class_names, augment=split == "train")
    for archive, (_, files, read) in zip(variant.archives, versions, strict=True):
        if (root / archive).is_file():
            return _join(name, split, variant, _read_archive(variant, root / archive, files, read))
    looked = [f"{variant.pickled_folder}/{pickled[0]}", f"{variant.binary_folder}/{binary[0]}"]
    raise not_found(name, [*looked, f"{split}-*.parquet", *variant.archives], root)


def _join(name: str, split: str, variant: _Variant, parts: list[_Part]) -> InMemoryImages:
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
    return InMemoryImages(name, split, images, torch.from_numpy(labels), variant.class_names, augment=split == "train")


def _read_pickled(variant: _Variant, content: bytes, source: str) -> _Part:
    batch = read_pickle(content, source)
    pixels, labels = batch.get("data"), batch.get(variant.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise DataError(f"{source}: its 'data' is not an array of rows of {_PIXELS} bytes")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{source}: its {variant.label_key!r} are not a list of whole numbers")
    if len(labels) != len(pixels):
        raise DataError(f"{source}: {len(pixels)} images but {len(labels)} labels")
    return pixels, _checked(np.array(labels, dtype=object), variant, source)


def _read_binary(variant: _Variant, content: bytes, source: str) -> _Part:
    row = variant.label_bytes + _PIXELS
    if len(content) % row or not content:
        raise DataError(f"{source}: cut off: {len(content)} bytes are not a whole number of images of {row} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return rows[:, variant.label_bytes :], _checked(rows[:, variant.label_bytes - 1], variant, source)


def _checked(labels: np.ndarray, variant: _Variant, source: str) -> np.ndarray:
    wrong = labels[(labels < 0) | (labels >= len(variant.class_names))]
    if len(wrong):
        raise DataError(f"{source}: label {wrong[0]} is not one of 0 to {len(variant.class_names) - 1}")
    return labels.astype(np.int64)


def _read_archive(
    variant: _Variant, archive: Path, files: tuple[str, ...], read: Callable[[_Variant, bytes, str], _Part]
) -> list[_Part]:
    """Return the parts in the order of `files`, which may differ from the order in the archive."""
    parts: dict[str, _Part] = {}
    # The archive is decompressed as a whole, because gzip's checksum at its end is what detects damage.
    unpacked = io.BytesIO(read_gzip(archive))
    try:
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            for member in tar:
                file = PurePosixPath(member.name).name
                # A sparse member could be of any size.
                wanted = file in files and member.isfile() and not member.issparse()
                if wanted and (content := tar.extractfile(member)) is not None:
                    parts[file] = read(variant, content.read(), f"{archive}, {member.name}")
    except MacerError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{archive}: damaged or cut off: {reason(error)}") from error
    missing = [file for file in files if file not in parts]
    if missing:
        raise DataError(f"{archive}: holds no {missing[0]}")
    return [parts[file] for file in files]
