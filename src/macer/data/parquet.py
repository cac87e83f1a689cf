"""Parquet files of Hugging Face, with a column of encoded pictures (a struct with `bytes`) and a column of labels."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from macer.data.files import reason
from macer.data.images import check_labels
from macer.data.pictures import Pictures
from macer.errors import DataError, needs
from macer.files.reading import check_regular

with needs("data"):
    import pyarrow as pa
    import pyarrow.parquet as pq


class ParquetPictures(Pictures):
    """The rows of Parquet files. All labels and one row group of pictures are kept in memory.

    In random order a row group is read for each picture. As Hugging Face writes 100 large or 1,000 small pictures into
    a row group, this is slower than one file per picture.

    Args:
        shards: the files, in order.
        image_column: a struct with the encoded picture in its field `bytes`.
        label_column: whole numbers.
        class_names: the classes, if the files do not name them.

    Attributes:
        labels: the label of each row.
        class_names: the classes, as the files name them, or else as given.

    Raises:
        DataError: a file cannot be read, a column is missing or of another type, or a label is not a class.
    """

    def __init__(
        self, shards: Sequence[Path], image_column: str, label_column: str, class_names: tuple[str, ...]
    ) -> None:
        self.image_column = image_column
        self.class_names = class_names
        self.groups: list[tuple[Path, int]] = []
        rows, labels = [0], []
        for shard in shards:
            try:
                check_regular(shard)
                file = pq.ParquetFile(shard)
                _check_columns(shard, file.schema_arrow, image_column, label_column)
                column = file.read(columns=[label_column]).column(0)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{shard}: not a parquet file that can be read: {reason(error)}") from error
            if column.null_count:
                raise DataError(f"{shard}: {column.null_count} rows have no {label_column}")
            if not labels:  # the first file decides for all
                self.class_names = _class_names(file.schema_arrow, label_column) or class_names
            labels.append(column.to_numpy().astype(np.int64))
            if len(column):  # a file may be empty if others are not
                check_labels(str(shard), torch.from_numpy(labels[-1]), self.class_names)
            self.groups += [(shard, group) for group in range(file.num_row_groups)]
            rows += [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.labels = torch.from_numpy(np.concatenate(labels))
        self.starts = np.cumsum(rows)

    def read(self, index: int) -> tuple[bytes, str]:
        position = int(np.searchsorted(self.starts, index, side="right")) - 1
        shard, group = self.groups[position]
        row = index - int(self.starts[position])
        source = f"{shard}, row group {group}, row {row}"
        content = _row_group(shard, group, self.image_column)[row].as_py()
        if content is None:
            raise DataError(f"{source}: holds no picture")
        return content, source


@lru_cache(maxsize=1)
def _row_group(shard: Path, group: int, column: str) -> pa.ChunkedArray:
    try:
        file = pq.ParquetFile(shard)
        # No threads, as there is one worker process per core.
        table = file.read_row_group(group, columns=[f"{column}.bytes"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shard}, row group {group}: damaged: {reason(error)}") from error
    return table.flatten().column(0)


def _check_columns(shard: Path, schema: pa.Schema, image_column: str, label_column: str) -> None:
    for column in (image_column, label_column):
        if schema.get_field_index(column) < 0:
            raise DataError(f"{shard}: has no column {column!r}; its columns are {', '.join(schema.names)}")
    kind = schema.field(image_column).type
    if not (pa.types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)):
        raise DataError(f"{shard}: column {image_column!r} holds no encoded pictures (a struct with binary `bytes`)")
    if not pa.types.is_integer(schema.field(label_column).type):
        raise DataError(f"{shard}: column {label_column!r} holds no whole numbers")


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...] | None:
    """Return the names of the classes that Hugging Face's library stores in the file, if there are any."""
    try:
        description = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in description["info"]["features"][label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
