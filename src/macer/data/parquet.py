"""Parquet files of Hugging Face, with a column of encoded pictures and a column of labels.

They are read by pyarrow alone: `datasets` (see `macer.data.hub`) would copy each data set into its cache first.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from macer.data.class_names import check_data_set, check_order
from macer.data.files import reason
from macer.data.images import InMemoryImages, check_labels
from macer.data.pictures import Pictures, decode, to_tensor
from macer.errors import DataError, needs
from macer.files.reading import check_regular

with needs("data"):
    import pyarrow as pa
    import pyarrow.parquet as pq


IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("fine_label", "fine_labels", "label", "labels")
"""The usual names of the columns, the first one found is read: CIFAR-100 has coarse labels beside its fine ones."""


def load_parquet(
    name: str,
    split: str,
    shards: Sequence[Path],
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    *,
    augment: bool = False,
) -> InMemoryImages:
    """Return the pictures of Parquet files in memory.

    Args:
        name: the data set's name.
        split: "train" or "test".
        shards: the files, in order.
        shape: (channels, height, width) that each picture must have; one channel makes grey ones of all.
        class_names: the classes, in the order of their labels.
        augment: whether training batches are randomly cropped and flipped.

    Raises:
        DataError: as for `ParquetPictures`, or the files name the classes of another data set or in another order, or a
            picture is damaged.
    """
    pictures = ParquetPictures(shards, class_names)
    check_data_set(str(shards[0]), pictures.class_names, name, class_names)
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    images = torch.empty((len(pictures.labels), *shape), dtype=torch.uint8)
    for index, image in enumerate(images):
        image.copy_(to_tensor(decode(*pictures.read(index), mode=mode, size=(width, height))))
    return InMemoryImages(name, split, images, pictures.labels, class_names, augment=augment)


class ParquetPictures(Pictures):
    """The rows of Parquet files. All labels and one row group of pictures are kept in memory.

    In random order a row group is read for each picture. As Hugging Face writes 100 large or 1,000 small pictures into
    a row group, this is slower than one file per picture.

    Args:
        shards: the files, in order. A column of IMAGE_COLUMNS holds encoded pictures, as they are or in the field
            `bytes` of a struct, and one of LABEL_COLUMNS whole numbers.
        class_names: the classes, if the files do not name them.

    Attributes:
        labels: the label of each row.
        class_names: the classes, as the files name them, or else as given.

    Raises:
        DataError: a file cannot be read, a column is missing or of another type, a label is not a class, or files name
            the classes in different orders.
    """

    def __init__(self, shards: Sequence[Path], class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self.groups: list[tuple[Path, int, str]] = []
        rows, labels = [0], []
        for shard in shards:
            try:
                check_regular(shard)
                file = pq.ParquetFile(shard)
                schema = file.schema_arrow
                image_column, label_column = _pictures_in(shard, schema), _labels_in(shard, schema)
                column = file.read(columns=[label_column]).column(0)
            except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
                raise DataError(f"{shard}: not a parquet file that can be read: {reason(error)}") from error
            if column.null_count:
                raise DataError(f"{shard}: {column.null_count} rows have no {label_column}")
            named = _class_names(schema, label_column)
            if not labels:  # the first file decides for all
                self.class_names = named or class_names
            elif named:
                check_order(str(shard), named, self.class_names, order=f"the order in {shards[0].name}")
            labels.append(column.to_numpy().astype(np.int64))
            if len(column):  # a file may be empty if others are not
                check_labels(str(shard), torch.from_numpy(labels[-1]), self.class_names)
            self.groups += [(shard, group, image_column) for group in range(file.num_row_groups)]
            rows += [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.labels = torch.from_numpy(np.concatenate(labels))
        self.starts = np.cumsum(rows)

    def read(self, index: int) -> tuple[bytes, str]:
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        shard, group, column = self.groups[position]
        row = index - int(self.starts[position])
        source = f"{shard}, row group {group}, row {row}"
        content = _row_group(shard, group, column)[row].as_py()
        if content is None:
            raise DataError(f"{source}: holds no picture")
        return content, source


@lru_cache(maxsize=1)
def _row_group(shard: Path, group: int, column: str) -> pa.ChunkedArray:
    try:
        file = pq.ParquetFile(shard)
        # No threads, as there is one worker process per core.
        table = file.read_row_group(group, columns=[column], use_threads=False)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{shard}, row group {group}: damaged: {reason(error)}") from error
    return table.flatten().column(0)


def _pictures_in(shard: Path, schema: pa.Schema) -> str:
    """Return the column of pictures: of bytes, or with `.bytes` the field of a struct."""
    column = _first(shard, schema, IMAGE_COLUMNS)
    kind = schema.field(column).type
    if _is_bytes(kind):
        return column
    if pa.types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind):
        return f"{column}.bytes"
    raise DataError(f"{shard}: column {column!r} holds no encoded pictures (binary, or a struct with binary 'bytes')")


def _labels_in(shard: Path, schema: pa.Schema) -> str:
    column = _first(shard, schema, LABEL_COLUMNS)
    if not pa.types.is_integer(schema.field(column).type):
        raise DataError(f"{shard}: column {column!r} holds no whole numbers")
    return column


def _first(shard: Path, schema: pa.Schema, wanted: Sequence[str]) -> str:
    """Return the first of the wanted columns that is there."""
    for name in wanted:
        if name in schema.names:
            return name
    raise DataError(
        f"{shard}: has no column {', '.join(wanted[:-1])} or {wanted[-1]}; its columns are {', '.join(schema.names)}"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """Return the names of the classes that Hugging Face's library stores in the file, if there are any."""
    try:
        description = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in description["info"]["features"][label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
