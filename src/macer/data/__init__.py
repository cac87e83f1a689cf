"""Data sets: from a name and a directory to labelled images. There is one file per storage format."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from macer.data.images import InMemoryImages, LabelledImages
from macer.data.own import PREFIX
from macer.errors import DataError, SettingsError, UnknownName

__all__ = ["DATASETS", "HUB", "OPTIONS", "InMemoryImages", "LabelledImages", "load"]

HUB = "hf:"
"""What the names of data sets begin with that Hugging Face's library `datasets` reads."""
READERS = {
    "digits": "digits:load_digits",
    "mnist": "idx:load_idx",
    "fashion-mnist": "idx:load_idx",
    "cifar10": "cifar:load_cifar",
    "cifar100": "cifar:load_cifar",
    "svhn": "svhn:load_svhn",
    "svhn-extra": "svhn:load_svhn",
    "imagenet": "imagenet:load_imagenet",
    "folder": "folders:load_folder",
    HUB: "hub:load_hub",
}
"""The names of the data sets, and the module and function that read each.

They are called with (name, root, split), and with the options that they have by name.
"""
DATASETS = tuple(name for name in READERS if name != HUB)
"""The data sets by name."""


OPTIONS = ("image_size", "split_share", "image_column", "label_column")
"""The options of data sets, which `load` takes by these names: see `load_folder` and `load_hub`."""


def load(name: str, root: Path | str | None, split: str, **options: Any) -> LabelledImages:
    """Return one split of a data set.

    >>> digits = load("digits", None, "test")
    >>> len(digits), digits.shape, digits.num_classes
    (500, (1, 8, 8), 10)

    Args:
        name: one of DATASETS, or hf:NAME_OR_PATH for whatever the library `datasets` of Hugging Face reads.
        root: the directory of its files, in any of the layouts that its format knows; None for "digits", which needs
            no files, and for "hf:".
        split: "train" or "test".
        options: values of OPTIONS that are not None, of those that the data set has.

    Raises:
        UnknownName: there is no data set of this name.
        SettingsError: there is no such split, or the data set has no such option.
        DataError: the files are not there, or are damaged.
        MissingLibrary: a library that reads its format is not installed.
    """
    if name.startswith(PREFIX):
        raise DataError(
            f"{name}: these images were given in Python: give them again to train, and others than these to certify"
        )
    kind = HUB if name.startswith(HUB) else name
    if kind not in READERS:
        raise UnknownName(f"no data set is named {name!r}: choose one of {', '.join(sorted(DATASETS))}, {HUB}NAME")
    if split not in ("train", "test"):
        raise SettingsError(f"a split is train or test, not {split!r}")
    if kind not in ("digits", HUB):
        if root is None:
            raise DataError(f"{name}: give `root`, the directory of its files")
        if not Path(root).is_dir():
            raise DataError(f"{name}: root {root} is not a directory")
    module, function = READERS[kind].split(":")
    # Imported here, because each format needs libraries of its own.
    read = getattr(importlib.import_module(f"macer.data.{module}"), function)
    given = {option: value for option, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - inspect.signature(read).parameters.keys()):
        raise SettingsError(f"data set {name} has no {unknown[0]}: it is one of images as they are")
    return read(name, None if root is None else Path(root), split, **given)
