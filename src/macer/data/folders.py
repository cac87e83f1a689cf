"""Folders of pictures, one per class: ImageNet (also in Parquet), and other data sets."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from macer.data.files import find_shards, read_bytes, reason
from macer.data.pictures import Pictures, centre_view, open_picture, random_view, unchanged
from macer.data.streaming import StreamedImages
from macer.errors import DataError
from macer.files.reading import open_file

_SIZE = 224
_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class FolderPictures(Pictures):
    """The pictures in the class folders of `folder`, sorted by class, then by name. Hidden files are ignored.

    Raises:
        DataError: there are fewer than two class folders, one of them contains no pictures, or a link is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names = class_folders(folder)
        files: list[bytes] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            found = sorted(file for file in _visible(folder / name, files=True) if file.lower().endswith(_SUFFIXES))
            if not found:
                raise DataError(f"{folder / name}: a class folder without pictures ({', '.join(_SUFFIXES)})")
            files += [os.fsencode(os.path.join(name, file)) for file in found]
            labels += [label] * len(found)
        # In a list, worker processes would copy a million strings, because they change their reference counts.
        self.files = np.array(files)
        self.labels = torch.tensor(labels)

    def file(self, index: int) -> Path:
        """Return the path of a picture."""
        return self.folder / os.fsdecode(self.files[index])

    def read(self, index: int) -> tuple[bytes, str]:
        file = self.file(index)
        return read_bytes(file), str(file)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes, sorted.

    Raises:
        DataError: there are none, or only one.
    """
    names = tuple(sorted(_visible(folder, files=False)))
    if not names:
        raise DataError(f"{folder}: holds no folders, one for each class")
    if len(names) == 1:
        raise DataError(f"{folder}: holds one class, {names[0]}; at least 2 are needed")
    return names


def _visible(folder: Path, *, files: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in visible:
            # Ignoring it would change the index of each picture after it, and certificates refer to pictures by index.
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise DataError(f"{entry.path}: a link that leads nowhere")
        return [entry.name for entry in visible if (entry.is_file() if files else entry.is_dir())]
    except OSError as error:
        raise DataError(f"{folder}: {reason(error)}") from error


def load_imagenet(name: str, root: Path, split: str) -> StreamedImages:
    """Return one split of ImageNet.

    It is read from `root/train` and `root/val` (or `root/test`) with a folder per class, or from Parquet files in
    `root` or `root/data`. Images have 224 x 224 pixels: random parts of the pictures for training (`random_view`),
    their centres for certification (`centre_view`). The classes are the names of the folders in sorted order, or
    those that Parquet files name, or else 1,000 numbers.

    Raises:
        DataError: neither is there, or folders or files contradict each other.
    """
    names = {"train": ("train",), "test": ("val", "test")}
    parquet_names = {"train": ["train"], "test": ["validation", "val", "test"]}[split]
    folder = _split_folder(root, names[split])
    if folder is not None:
        _check_same_classes(root, names)
        pictures = FolderPictures(folder)
    elif shards := find_shards([root, root / "data"], parquet_names):
        from macer.data.parquet import ParquetPictures  # folders of pictures do not need its library

        pictures = ParquetPictures(shards, "image", "label", tuple(str(number) for number in range(1000)))
    else:
        folders = " or ".join(f"{name}/" for name in names[split])
        files = " or ".join(f"{name}-*.parquet" for name in parquet_names)
        raise DataError(f"imagenet: found neither {folders} nor {files} (there or in data/) in {root}")
    return StreamedImages(
        name,
        split,
        pictures,
        (_SIZE, _SIZE),
        pictures.class_names,
        view=partial(centre_view, size=_SIZE),
        training_view=partial(random_view, size=_SIZE) if split == "train" else None,
    )


def load_folder(name: str, root: Path, split: str) -> StreamedImages:
    """Return the pictures in root/train/CLASS or root/test/CLASS (also root/val/CLASS), as RGB, without augmentation.

    If all pictures of both splits have the same size, they are used as they are. Otherwise the centre of each is scaled
    to 224 x 224 pixels (`centre_view`), also in training.

    Raises:
        DataError: the folder of the split is missing, a class is empty, or the splits have different classes.
    """
    names = {"train": ("train",), "test": ("test", "val")}
    folder = _split_folder(root, names[split])
    if folder is None:
        raise DataError(f"folder: found no {' or '.join(f'{name}/' for name in names[split])} in {root}")
    _check_same_classes(root, names)
    pictures = {part: FolderPictures(part) for part in _split_folders(root, names)}
    size = _common_size(list(pictures.values()))
    view = unchanged if size else partial(centre_view, size=_SIZE)
    chosen = pictures[folder]
    return StreamedImages(name, split, chosen, size or (_SIZE, _SIZE), chosen.class_names, view=view)


def _split_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _split_folders(root: Path, names: dict[str, tuple[str, ...]]) -> list[Path]:
    return [folder for split in names.values() if (folder := _split_folder(root, split)) is not None]


def _check_same_classes(root: Path, names: dict[str, tuple[str, ...]]) -> None:
    """Refuse splits with different classes: a label is a position among the sorted names."""
    folders = _split_folders(root, names)
    for one, other in (folders, folders[::-1]) if len(folders) == 2 else ():
        extra = sorted(set(class_folders(one)) - set(class_folders(other)))
        if extra:
            raise DataError(f"{one} has {len(extra)} classes that {other} lacks, such as {extra[0]}")


def _common_size(parts: Sequence[FolderPictures]) -> tuple[int, int] | None:
    """Return the (height, width) of all pictures, or None if they differ. Only the start of each file is read."""
    size = None
    for part in parts:
        for index in range(len(part.labels)):
            file = part.file(index)
            try:
                with open_file(file) as stream:
                    width, height = open_picture(stream, str(file)).size
            except OSError as error:
                raise DataError(f"{file}: {reason(error)}") from error
            if size not in (None, (height, width)):
                return None
            size = height, width
    return size
