"""ImageNet in folders, as Kaggle unpacks it, and in Parquet."""

import re
from functools import partial
from pathlib import Path

from macer.data.class_names import check_order
from macer.data.files import find_shards, not_found
from macer.data.folders import FolderPictures, check_same_classes, classes_of, split_folders
from macer.data.pictures import SIZE, centre_view, random_view
from macer.data.streaming import StreamedImages

_SPLITS = {"train": ("train",), "test": ("val", "validation", "valid", "test")}
_CLASSES = Path(__file__).with_name("imagenet_classes.txt")
"""The 1,000 classes of ILSVRC 2012 by their numbers in WordNet, sorted: the position of each is its label."""
_KAGGLE = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


def load_imagenet(name: str, root: Path, split: str, *, image_size: int | None = None) -> StreamedImages:
    """Return one split of ImageNet.

    It is read from `root/train` and `root/val` with a folder per class, from the folders below that Kaggle's archive
    makes, or from Parquet files. Images have 224 x 224 pixels, or `image_size`: random parts of the pictures for
    training (`random_view`), their centres for certification (`centre_view`). A part of the 1,000 classes in folders,
    such as Imagenette, keeps their labels, so that a network of all classes is certified on it. The classes of other
    folders are their names in sorted order; those of Parquet files are the names there, or else 1,000 numbers. EXIF
    orientation is not applied, as in the field's programs.

    Raises:
        DataError: none of these is there, or folders or files contradict each other.
    """
    bases = [root / place for place in _KAGGLE if split in split_folders(root / place, _SPLITS)]
    if bases:
        folders = split_folders(bases[0], _SPLITS)
        classes = tuple(_CLASSES.read_text().split())
        of_imagenet = all(classes_of(folder) <= set(classes) for folder in folders.values())
        if not of_imagenet:
            check_same_classes(folders.values())
        pictures = FolderPictures(folders[split])
        if of_imagenet:
            pictures.relabel(classes)
    elif shards := find_shards(root, _SPLITS[split], ("data",)):
        from macer.data.parquet import ParquetPictures  # folders of pictures do not need its library

        pictures = ParquetPictures(shards, tuple(str(number) for number in range(1000)))
        names = pictures.class_names
        if all(re.fullmatch(r"n\d{8}", each) for each in names):  # of names in words, the order is not known here
            check_order(str(shards[0]), names, tuple(sorted(names)))
    else:
        wanted = [*(f"{each}/" for each in _SPLITS[split]), *(f"{each}-*.parquet" for each in _SPLITS[split])]
        raise not_found(name, wanted, root)
    size = image_size or SIZE
    return StreamedImages(
        name,
        split,
        pictures,
        (size, size),
        pictures.class_names,
        view=partial(centre_view, size=size),
        training_view=partial(random_view, size=size) if split == "train" else None,
    )
