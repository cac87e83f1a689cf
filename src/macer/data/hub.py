"""Whatever the library `datasets` of Hugging Face reads: data sets of its Hub, saved ones, folders, Parquet."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from macer.data.files import read_bytes, reason
from macer.data.fitting import SPLITS, fit, shared_out
from macer.data.images import check_labels
from macer.data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS
from macer.data.pictures import Pictures
from macer.data.streaming import StreamedImages
from macer.errors import DataError, needs

with needs("hf"):
    import datasets


def load_hub(
    name: str,
    root: Path | None,
    split: str,
    *,
    image_size: int | None = None,
    split_share: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> StreamedImages:
    """Return one split of a data set that the library `datasets` reads.

    The images are what `macer.data.fitting.fit` makes of the pictures. `datasets` keeps a copy of most data sets in its
    cache, and downloads those of the Hub into it.

    Args:
        name: hf: and then a name on Hugging Face's Hub, a directory that `save_to_disk` wrote, a directory that
            `load_dataset` understands (a folder per class, Parquet files), or a Parquet file. A configuration's name
            follows behind another colon.
        root: None; the name says where the data set is.
        split: "train" or "test", which may be called validation, valid or val.
        image_size: height and width of the images.
        split_share: the fraction of the pictures to hold out for tests, where there is no test split.
        image_column: the column of pictures. Default: image, img, or the only one that holds pictures.
        label_column: the column of classes, as numbers or text. Default: fine_label, label, labels, or the only one
            that `datasets` knows as classes.

    Raises:
        DataError: there is no such data set, split or column, or its labels are no classes.
    """
    if root is not None:
        raise DataError(f"{name}: says itself where its files are: leave root out")
    splits = _splits(name)
    first = next(iter(splits.values()))
    images = _column(name, first, "image", image_column, IMAGE_COLUMNS, datasets.Image)
    labels = _column(name, first, "label", label_column, LABEL_COLUMNS, datasets.ClassLabel)
    class_names, numbers = _classes(name, splits, labels)
    parts = {
        ours: HubPictures(f"{name} {theirs}", splits[theirs], images, numbers[theirs])
        for ours, names in SPLITS.items()
        if (theirs := next((each for each in names if each in numbers), None)) is not None
    }
    if split_share is not None:
        if "test" in parts:
            raise DataError(f"{name}: has a split for tests: leave `split_share` out")
        if "train" in parts:
            parts = shared_out(name, parts["train"], split_share)
    # Whoever trains on all pictures has none left to certify.
    if missing := next((each for each in (split, "test") if each not in parts), None):
        raise DataError(
            f"{name}: has no labelled split {' or '.join(SPLITS[missing])}, but {', '.join(splits)}: give "
            "`split_share`, the fraction of train to hold out for tests"
        )
    for each in parts.values():
        check_labels(name, each.labels, class_names)
    return fit(name, split, parts, class_names, image_size)


class HubPictures(Pictures):
    """The pictures in a split of a data set of `datasets`.

    Args:
        source: what to call the split in messages.
        rows: the split.
        column: its column of pictures.
        labels: their classes.

    Raises:
        DataError: the column does not hold pictures.
    """

    def __init__(self, source: str, rows: datasets.Dataset, column: str, labels: np.ndarray) -> None:
        self.source, self.column, self.labels = source, column, torch.from_numpy(labels)
        try:
            self.rows = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
        except Exception as error:  # of Arrow's and of their own
            raise DataError(f"{source}: column {column!r} holds no pictures: {reason(error)}") from error

    def read(self, index: int) -> tuple[bytes, str]:
        source = f"{self.source}, row {index}"
        picture = self.rows[index][self.column] or {}
        if picture.get("bytes"):
            return picture["bytes"], source
        if picture.get("path"):
            return read_bytes(Path(picture["path"])), picture["path"]
        raise DataError(f"{source}: holds no picture")

    def file_name(self, index: int) -> str | None:
        path = (self.rows[index][self.column] or {}).get("path")
        return Path(path).name if path else None


def _splits(name: str) -> dict[str, datasets.Dataset]:
    """Return the splits of a data set that its name points to."""
    place, config = name.partition(":")[2], None
    if not Path(place).exists() and ":" in place:
        place, config = place.rsplit(":", 1)
    try:
        if any((Path(place) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(place)
        elif place.endswith(".parquet"):
            found = datasets.load_dataset("parquet", data_files=place)
        else:
            found = datasets.load_dataset(place, config)
    except Exception as error:  # they raise many kinds, none of them documented
        raise DataError(f"{name}: datasets cannot load it: {reason(error)}") from error
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}  # type: ignore[dict-item]


def _column(
    name: str, rows: datasets.Dataset, what: str, given: str | None, usual: Sequence[str], feature: type
) -> str:
    """Return the name of the column of images or labels."""
    columns = rows.column_names
    fitting = [column for column, kind in rows.features.items() if isinstance(kind, feature)]
    for column in (given,) if given is not None else (*usual, *(fitting if len(fitting) == 1 else ())):
        if column in columns:
            return column
    problem = f"has no column {given!r}" if given is not None else f"its column of {what}s is not known"
    raise DataError(f"{name}: {problem}: give {what}_column, one of {', '.join(columns)}")


def _classes(
    name: str, splits: Mapping[str, datasets.Dataset], column: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the names of the classes, and the labels of each split that has any."""
    values = {split: np.array(rows[column][:]) for split, rows in splits.items() if column in rows.column_names}
    # Who publishes images for a competition keeps their classes secret, and writes -1 or nothing.
    secret = [split for split, found in values.items() if all(each in (-1, None) for each in found.tolist())]
    values = {split: found for split, found in values.items() if split not in secret}
    kinds = {found.dtype.kind for found in values.values()}
    feature = next(iter(splits.values())).features[column]
    named = {
        split: tuple(splits[split].features[column].names)
        for split in values
        if isinstance(splits[split].features[column], datasets.ClassLabel)
    }
    if len(set(named.values())) > 1:
        several = "; ".join(f"{split}: {', '.join(names[:5])}" for split, names in named.items())
        raise DataError(f"{name}: its splits have different classes, or in another order ({several})")
    if kinds == {"U"}:
        names = sorted(set().union(*(found.tolist() for found in values.values())))
        return tuple(names), {split: np.searchsorted(names, found) for split, found in values.items()}
    if kinds != {"i"}:
        raise DataError(f"{name}: column {column!r} holds no classes: whole numbers or text in each row")
    largest = max(int(found.max()) for found in values.values())
    names = feature.names if isinstance(feature, datasets.ClassLabel) else map(str, range(largest + 1))
    return tuple(names), {split: found.astype(np.int64) for split, found in values.items()}
