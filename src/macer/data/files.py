"""Find and read the files of data sets, and say in one line what is wrong with them."""

import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from macer.errors import DataError
from macer.files import reading
from macer.files.reading import LARGEST, open_file


def read_bytes(file: Path) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: the file cannot be read, or is larger than LARGEST.
    """
    try:
        return reading.read_bytes(file)
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error


def read_gzip(file: Path) -> bytes:
    """Return the content of a gzip file, after comparing it with its checksum.

    Raises:
        DataError: the file cannot be read, is damaged, or contains more than LARGEST bytes.
    """
    try:
        with open_file(file) as compressed, gzip.open(compressed) as stream:
            content = stream.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: damaged or cut off: {reason(error)}") from error
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error
    if len(content) > LARGEST:
        raise DataError(f"{file}: holds more than {LARGEST:,} bytes, compressed; at most these are read")
    return content


def reason(error: BaseException) -> str:
    """Return the message of an error as part of one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


def find_shards(places: Sequence[Path], stems: Sequence[str]) -> list[Path]:
    """Return the Parquet files of one split in order, such as train-00000-of-00003.parquet, or an empty list.

    Args:
        places: directories to look in; the first one with files is used.
        stems: possible names of the split; the first one found in a directory is used.

    Raises:
        DataError: according to the names of the files, one is missing.
    """
    for place, stem in itertools.product(places, stems):
        shards = sorted([*place.glob(f"{stem}-*.parquet"), *place.glob(f"{stem}.parquet")])
        if shards:
            _check_complete(place, stem, shards)
            return shards
    return []


def _check_complete(place: Path, stem: str, shards: list[Path]) -> None:
    """Refuse missing or surplus files. Names end in -NUMBER-of-TOTAL, some with a checksum after it, or have none."""
    numbered = [match for shard in shards if (match := re.match(rf"{stem}-(\d+)-of-(\d+)\b", shard.name))]
    if not numbered:
        return
    numbers, total = [int(match[1]) for match in numbered], int(numbered[0][2])
    missing = next((number for number in range(total) if number not in numbers), None)
    if missing is not None:
        raise DataError(f"{place}: {stem}-{missing:05d}-of-{total:05d}.parquet is missing")
    if len(shards) != total:
        raise DataError(f"{place}: {len(shards)} files {stem}*.parquet where their names promise {total}")
