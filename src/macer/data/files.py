"""Find and read the files of data sets, and say in one line what is wrong with them."""

import difflib
import gzip
import itertools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from macer.errors import DataError
from macer.files import reading
from macer.files.reading import LARGEST, open_file

_LOOKED_AT = 2000
"""Files and folders that are compared with what is missing."""


def read_bytes(file: Path) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: the file cannot be read, or is larger than LARGEST.
    """
    try:
        return reading.read_bytes(file)
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error


def read_maybe_gzip(file: Path) -> bytes:
    """Return the content of a file, decompressed if it begins as gzip files do, whatever its name says.

    Raises:
        DataError: as for `read_bytes` and `read_gzip`.
    """
    content = read_bytes(file)
    return read_gzip(file) if content[:2] == b"\x1f\x8b" else content


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


def hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or is what macOS leaves beside copied files."""
    return name.startswith((".", "__MACOSX"))


def _is_visible(path: Path, below: Path) -> bool:
    return not any(map(hidden, path.relative_to(below).parts))


def not_found(name: str, wanted: Sequence[str], root: Path, where: str = "") -> DataError:
    """Return the error of a data set whose files are missing, with what lies in its directory under similar names.

    Args:
        name: the data set's name.
        wanted: what was looked for, by names relative to the directory.
        root: the directory.
        where: where below it was looked, in words.
    """
    words = {Path(each).name.split("*")[0].lower() for each in wanted}
    there = [entry for pattern in ("*", "*/*") for entry in itertools.islice(root.glob(pattern), _LOOKED_AT)]
    near = [entry for entry in there if _is_visible(entry, root) and _resembles(entry.name.lower(), words)]
    found = "; found " + ", ".join(str(entry.relative_to(root)) for entry in sorted(near)[:3]) if near else ""
    return DataError(f"{name}: found no {' or '.join(wanted)} in {root}{where}{found}")


def _resembles(entry: str, words: set[str]) -> bool:
    return any((len(word) > 5 and word in entry) or difflib.get_close_matches(word, [entry], 1, 0.75) for word in words)


def find_shards(root: Path, stems: Sequence[str], preferred: Sequence[str] = ()) -> list[Path]:
    """Return the Parquet files of one split in order, or an empty list.

    They lie in `root`, or one or two folders below, as train-00000-of-00003.parquet or train.parquet, or as files
    0000.parquet, ... in a folder train: the layouts of Hugging Face's Hub, of its cache and of its converted files.

    Args:
        root: the directory to look in.
        stems: possible names of the split; the first one found is used.
        preferred: names of folders that are used where several hold such files.

    Raises:
        DataError: several folders hold such files, or according to their names one is missing.
    """
    for base, depth, stem in itertools.product([root, *sorted(root.glob("snapshots/*"))], ("", "*/", "*/*/"), stems):
        groups: dict[Path, list[Path]] = {}
        for pattern in (f"{stem}-*.parquet", f"{stem}.parquet", f"{stem}/[0-9]*.parquet"):
            for file in base.glob(depth + pattern):
                if _is_visible(file, base):
                    groups.setdefault(file.parent.parent if "/" in pattern else file.parent, []).append(file)
        if groups:
            named = [folder for name in preferred for folder in groups if folder.name == name]
            if not named and len(groups) > 1:
                folders = ", ".join(str(folder.relative_to(base)) for folder in sorted(groups))
                raise DataError(
                    f"{base}: several folders hold {stem} as Parquet ({folders}): give one of them as `root`"
                )
            place = (named or list(groups))[0]
            _check_complete(place, stem, groups[place])
            return sorted(groups[place])
    return []


def _check_complete(place: Path, stem: str, shards: list[Path]) -> None:
    """Refuse missing or surplus files. Names end in -NUMBER-of-TOTAL, some with a checksum after it, or are numbers."""
    numbered = [match for shard in shards if (match := re.match(rf"{stem}-(\d+)-of-(\d+)\b", shard.name))]
    plain = [int(shard.stem) for shard in shards if shard.stem.isdecimal()]
    numbers, total = [int(match[1]) for match in numbered], int(numbered[0][2]) if numbered else 0
    missing = next((number for number in range(total) if number not in numbers), None)
    if missing is not None:
        raise DataError(f"{place}: {stem}-{missing:05d}-of-{total:05d}.parquet is missing")
    missing = next((number for number in range(max(plain, default=-1)) if number not in plain), None)
    if missing is not None:
        raise DataError(f"{place / stem}: {missing:04d}.parquet is missing")
    if total and len(shards) != total:
        raise DataError(f"{place}: {len(shards)} files {stem}*.parquet where their names promise {total}")
