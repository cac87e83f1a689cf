"""Data sets: from a name and a directory to labelled images. There is one file per storage format."""

import importlib
from pathlib import Path

from macer.data.images import InMemoryImages, LabelledImages
from macer.data.own import PREFIX
from macer.errors import DataError, SettingsError, UnknownName

__all__ = ["DATASETS", "InMemoryImages", "LabelledImages", "load"]

DATASETS = {
    "digits": "digits:load_digits",
    "mnist": "idx:load_idx",
    "fashion-mnist": "idx:load_idx",
    "cifar10": "cifar:load_cifar",
    "cifar100": "cifar:load_cifar",
    "svhn": "svhn:load_svhn",
    "svhn-extra": "svhn:load_svhn",
    "imagenet": "folders:load_imagenet",
    "folder": "folders:load_folder",
}
"""The names of the data sets, and the module and function that read each, called with (name, root, split)."""


def load(name: str, root: Path | str | None, split: str) -> LabelledImages:
    """Return one split of a data set.

    >>> digits = load("digits", None, "test")
    >>> len(digits), digits.shape, digits.num_classes
    (500, (1, 8, 8), 10)

    Args:
        name: one of DATASETS.
        root: the directory of its files, in any of the layouts that its format knows; None for "digits", which needs
            no files.
        split: "train" or "test".

    Raises:
        UnknownName: there is no data set of this name.
        SettingsError: there is no such split.
        DataError: the files are not there, or are damaged.
        MissingLibrary: a library that reads its format is not installed.
    """
    if name.startswith(PREFIX):
        raise DataError(f"{name}: these images were given in Python, and have to be given again")
    if name not in DATASETS:
        raise UnknownName(f"no data set is named {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    if split not in ("train", "test"):
        raise SettingsError(f"a split is train or test, not {split!r}")
    if name != "digits":
        if root is None:
            raise DataError(f"{name}: give root, the directory of its files")
        if not Path(root).is_dir():
            raise DataError(f"{name}: root {root} is not a directory")
    module, function = DATASETS[name].split(":")
    # Imported here, because each format needs libraries of its own.
    read = getattr(importlib.import_module(f"macer.data.{module}"), function)
    return read(name, None if root is None else Path(root), split)
