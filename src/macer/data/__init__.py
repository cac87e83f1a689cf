"""From a data set's name and root to labelled images. One file a storage format; this file is the list."""

from collections.abc import Callable
from pathlib import Path

from macer.data.cifar import load_cifar
from macer.data.digits import load_digits
from macer.data.folders import load_folder, load_imagenet
from macer.data.idx import load_idx
from macer.data.images import InMemoryImages, LabelledImages
from macer.data.streaming import StreamedImages
from macer.data.svhn import load_svhn
from macer.errors import DataError, SettingsError, UnknownName

__all__ = ["DATASETS", "InMemoryImages", "LabelledImages", "StreamedImages", "load"]

_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

DATASETS: dict[str, Callable[[Path | None, str], LabelledImages]] = {
    "digits": lambda _root, split: load_digits(split),
    "mnist": lambda root, split: load_idx("mnist", _needed("mnist", root), split, _DIGITS, "MNIST"),
    "fashion-mnist": lambda root, split: load_idx(
        "fashion-mnist", _needed("fashion-mnist", root), split, _FASHION, "FashionMNIST"
    ),
    "cifar10": lambda root, split: load_cifar("cifar10", _needed("cifar10", root), split),
    "cifar100": lambda root, split: load_cifar("cifar100", _needed("cifar100", root), split),
    "svhn": lambda root, split: load_svhn("svhn", _needed("svhn", root), split),
    "svhn-extra": lambda root, split: load_svhn("svhn-extra", _needed("svhn-extra", root), split),
    "imagenet": lambda root, split: load_imagenet(_needed("imagenet", root), split),
    "folder": lambda root, split: load_folder(_needed("folder", root), split),
}
"""Every data set by its name on the command line: (root, split) -> images."""


def load(name: str, root: Path | str | None, split: str) -> LabelledImages:
    """One split of a data set.

    Args:
        name: one of DATASETS.
        root: the directory that holds it, in any of the layouts its format knows; None for embedded data.
        split: "train" or "test".

    Raises:
        SettingsError: no such data set or split.
        DataError: the data is not there, or damaged.
    """
    if name not in DATASETS:
        raise UnknownName(f"no data set is named {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    if split not in ("train", "test"):
        raise SettingsError(f"a split is train or test, not {split!r}")
    return DATASETS[name](None if root is None else Path(root), split)


def _needed(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataError(f"{name}: say where its files lie with --root DIR")
    if not root.is_dir():
        raise DataError(f"{name}: --root {root} is not a directory")
    return root
