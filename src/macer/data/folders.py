"""Folders of pictures, one per class: your own data sets, and other programs' ways of saying the class of a picture."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import torch

from macer.data.files import hidden, not_found, read_bytes, reason
from macer.data.fitting import SPLITS, fit, shared_out
from macer.data.pictures import Pictures
from macer.data.streaming import StreamedImages
from macer.errors import DataError
from macer.files.reading import open_file

_SUFFIXES = (".jpeg", ".jpg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_NOT_READ = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".tga", ".svg")
"""Ends of the names of pictures that would be missed among those that are read."""
_IMAGES = "images"
"""Tiny-ImageNet's folder between a class and its pictures, and between a split and its pictures of all classes."""


class FolderPictures(Pictures):
    """The labelled pictures of a folder, sorted by class, then by name. Hidden files are ignored.

    They lie in a folder per class, CLASS/* or CLASS/images/*, or together, with a table that says their classes: as in
    Tiny-ImageNet (images/* and val_annotations.txt), and in ImageNet as Kaggle has it (LOC_val_solution.csv in one of
    the folders above).

    Attributes:
        class_names: the classes, sorted; after `relabel` also those without pictures.

    Raises:
        DataError: there are fewer than two classes, one has no pictures, a picture has no class or is of a kind that is
            not read, or a link is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = _table(folder)
        by_class = _by_folder(folder) if table is None else _by_table(folder, table)
        self.class_names = tuple(by_class)
        # In a list, worker processes would copy a million strings, because they change their reference counts.
        self.files = np.array([os.fsencode(file) for files in by_class.values() for file in files])
        sizes = torch.tensor([len(files) for files in by_class.values()])
        self.labels = torch.arange(len(sizes)).repeat_interleave(sizes)

    def relabel(self, class_names: tuple[str, ...]) -> None:
        """Take the labels that the classes have among others, which need not have pictures."""
        self.labels = torch.tensor([class_names.index(name) for name in self.class_names])[self.labels]
        self.class_names = class_names

    def file(self, index: int) -> Path:
        """Return the path of a picture."""
        return self.folder / self.file_name(index)

    def file_name(self, index: int) -> str:
        return os.fsdecode(self.files[index])

    def read(self, index: int) -> tuple[bytes, str]:
        file = self.file(index)
        return read_bytes(file), str(file)

    def open(self, index: int) -> tuple[BufferedIOBase, str]:
        file = self.file(index)
        try:
            return open_file(file), str(file)
        except OSError as error:
            raise DataError(f"{file}: {reason(error)}") from error


def _by_folder(folder: Path) -> dict[str, list[str]]:
    """Return the pictures, by class and relative to the folder, of a folder that has one per class."""
    by_class = {}
    for name in class_folders(folder):
        places = [name, os.path.join(name, _IMAGES)]
        found = next((found for place in places if (found := _pictures(folder, place))), None)
        if found is None:
            raise DataError(f"{folder / name}: a class folder without pictures ({', '.join(_SUFFIXES)})")
        by_class[name] = found
    return by_class


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders of classes, sorted.

    Raises:
        DataError: there are none, or only one.
    """
    names = tuple(sorted(_visible(folder, files=False)))
    if not names:
        raise DataError(f"{folder}: holds no folders, one for each class")
    if len(names) == 1:
        raise DataError(f"{folder}: holds one class, {names[0]}; at least 2 are needed")
    return names


def _table(folder: Path) -> Path | None:
    """Return the file that says the classes of the pictures in a folder, which has no folders of classes."""
    if _visible(folder, files=False) not in ([], [_IMAGES]):
        return None
    tables = [folder / "val_annotations.txt", *(above / "LOC_val_solution.csv" for above in folder.parents[:4])]
    return next((table for table in tables if table.is_file()), None)


def _by_table(folder: Path, table: Path) -> dict[str, list[str]]:
    """Return the pictures, by class and relative to the folder, of a folder whose pictures have classes in a table."""
    classes = _read_table(table)
    by_class: dict[str, list[str]] = {name: [] for name in sorted(set(classes.values()))}
    for file in _pictures(folder, _IMAGES if (folder / _IMAGES).is_dir() else ""):
        name = classes.get(Path(file).name) or classes.get(Path(file).stem)
        if name is None:
            raise DataError(f"{folder / file}: {table} does not say its class")
        by_class[name].append(file)
    if empty := next((name for name, files in by_class.items() if not files), None):
        raise DataError(f"{folder}: holds no picture of {empty}, which {table} names")
    return by_class


def _read_table(table: Path) -> dict[str, str]:
    """Return the class of each picture in a table, by the picture's name, which ImageNet's table has without suffix."""
    text = read_bytes(table).decode(errors="replace")
    return dict(re.findall(r"^([\w.-]+)[\t,][ ]*(n\d{8})\b", text, re.MULTILINE))


def _pictures(folder: Path, place: str) -> list[str]:
    """Return the pictures in folder/place, sorted and relative to the folder; none if it is not there.

    Raises:
        DataError: there is a picture of a kind that is not read.
    """
    if not (folder / place).is_dir():
        return []
    files = _visible(folder / place, files=True)
    if missed := sorted(file for file in files if file.lower().endswith(_NOT_READ)):
        raise DataError(
            f"{folder / place / missed[0]}: a picture of a kind that is not read: convert it ({', '.join(_SUFFIXES)}) "
            "or move it away"
        )
    names = sorted(file for file in files if file.lower().endswith(_SUFFIXES))
    return [os.path.join(place, name) for name in names]


def _visible(folder: Path, *, files: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not hidden(entry.name)]
        for entry in visible:
            # Ignoring it would change the index of each picture after it, and certificates refer to pictures by index.
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise DataError(f"{entry.path}: a link that leads nowhere")
        return [entry.name for entry in visible if (entry.is_file() if files else entry.is_dir())]
    except OSError as error:
        raise DataError(f"{folder}: {reason(error)}") from error


def split_folders(root: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Return the folders of those splits that are there: the first whose pictures have classes, else the first.

    Args:
        root: the directory of the splits.
        names: possible names of each split's folder.
    """
    found = {}
    for split, possible in names.items():
        there = [root / name for name in possible if (root / name).is_dir()]
        labelled = (folder for folder in there if _table(folder) or set(_visible(folder, files=False)) - {_IMAGES})
        if there:
            found[split] = next(labelled, there[0])
    return found


def classes_of(folder: Path) -> set[str]:
    """Return the classes of the pictures in a folder, by the names of its folders or by its table."""
    table = _table(folder)
    return set(class_folders(folder) if table is None else _read_table(table).values())


def check_same_classes(folders: Iterable[Path]) -> None:
    """Refuse splits with different classes: a label is a position among the sorted names."""
    classes = {folder: classes_of(folder) for folder in folders}
    for one, other in itertools.permutations(classes, 2):
        if extra := sorted(classes[one] - classes[other]):
            raise DataError(f"{one} has {len(extra)} classes that {other} lacks, such as {extra[0]}")


def load_folder(
    name: str, root: Path, split: str, *, image_size: int | None = None, split_share: float | None = None
) -> StreamedImages:
    """Return the pictures of your own in root/train/CLASS or root/test/CLASS (also val, validation, valid).

    The images are what `macer.data.fitting.fit` makes of the pictures.

    Args:
        name: "folder".
        root: the directory.
        split: "train" or "test".
        image_size: height and width of the images.
        split_share: the fraction of the pictures to hold out for tests, where there is no test split: of those in
            root/train/CLASS, or in root/CLASS.

    Raises:
        DataError: a split is missing, a class is empty, or the splits have different classes.
    """
    folders = split_folders(root, SPLITS)
    if split_share is not None:
        if "test" in folders:
            raise DataError(f"{name}: {folders['test']} is there for tests: leave `split_share` out")
        whole = FolderPictures(folders.get("train", root))
        return fit(name, split, shared_out(name, whole, split_share), whole.class_names, image_size)
    # Whoever trains on all pictures has none left to certify.
    if missing := next((each for each in (split, "test") if each not in folders), None):
        way_out = ": put its pictures there, or give `split_share`, the fraction of all to hold out for tests"
        raise DataError(f"{not_found(name, [f'{each}/' for each in SPLITS[missing]], root)}{way_out}")
    check_same_classes(folders.values())
    parts = {each: FolderPictures(folder) for each, folder in folders.items()}
    return fit(name, split, parts, parts[split].class_names, image_size)
