"""The field's table of certificates: tab-separated, one image a line, with `idx label predict radius correct time`."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from macer.errors import RecordsError
from macer.results.records import is_radius

SHARED_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
OUR_COLUMNS = ("p_a_lower", "count", "n", "abstained")
HEADER = "\t".join(SHARED_COLUMNS + OUR_COLUMNS) + "\n"

_LARGEST = 2**28
"""Bytes of a file that is read at all: twice what certificates of ImageNet's 1.3 million training images take."""


@dataclass(frozen=True)
class Row:
    """One image's line.

    Attributes:
        idx: the image's index in its data set.
        label: its class.
        predict: the predicted class, -1 where the smoothed classifier abstained.
        radius: the certified L2 radius.
        correct: whether predict is label.
        seconds: what it took.
        n: samples that bound the class's probability; None where the file has no such column.
    """

    idx: int
    label: int
    predict: int
    radius: float
    correct: bool
    seconds: float
    n: int | None = None


def read_tsv(file: Path) -> tuple[list[Row], list[str]]:
    """The rows of a certificate file, ours or published: with or without header, whatever other columns there are.

    With a header, columns are known by their names; without, the first six are the field's. A last line without its end
    is a write that was cut off, and is left out, unless it is whole but for that end.

    Returns:
        The rows by ascending idx, and notes on what was left out, for whoever looks at the result.

    Raises:
        RecordsError: the file cannot be read, or a line is not a certificate; the text names the line.
    """
    lines = _read_text(file).split("\n")  # each but the last had its end; reading made one kind of line end of all
    columns = {name: column for column, name in enumerate(SHARED_COLUMNS)}
    rows: dict[int, Row] = {}
    notes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if number == 1 and "idx" in line.split():
            columns = _columns(line, f"{file}, line 1")
            continue
        if number == len(lines) and not _alike(line, lines[max(number - 2, 0)]):
            notes.append(f"{file}: its last line is unfinished and was left out")
            continue
        row = _parse(line, columns, f"{file}, line {number}")
        if row.idx in rows:
            raise RecordsError(f"{file}, line {number}: image {row.idx} was there before")
        rows[row.idx] = row
    if not rows:
        raise RecordsError(f"{file}: no certificates in it")
    return [rows[idx] for idx in sorted(rows)], notes


def _read_text(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise RecordsError(f"{file}: {size:,} bytes; a file of certificates has at most {_LARGEST:,}")
        return file.read_text(encoding="utf-8-sig")  # Windows marks its UTF-8 files
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsError(f"{file}: not a text file") from error


def _columns(header: str, where: str) -> dict[str, int]:
    """Where each column is that we read, by its name in the header."""
    names = [name.strip() for name in header.split("\t")]
    missing = [name for name in SHARED_COLUMNS if name not in names]
    if missing:
        raise RecordsError(f"{where}: no column {missing[0]}; a certificate has {' '.join(SHARED_COLUMNS)}")
    ours = ("n",) if set(OUR_COLUMNS) <= set(names) else ()  # in a file of others, n could be anything
    return {name: names.index(name) for name in (*SHARED_COLUMNS, *ours)}


def _alike(line: str, above: str) -> bool:
    """Whether a last line without its end has as many cells as the one above, and a last cell of the same notation."""
    shapes = [[re.sub(r"\d+", "0", cell) for cell in text.split("\t")] for text in (line, above)]
    return len(shapes[0]) == len(shapes[1]) and shapes[0][-1] == shapes[1][-1]


def _parse(line: str, columns: dict[str, int], where: str) -> Row:
    found = line.split("\t")
    if len(found) <= max(columns.values()):
        raise RecordsError(f"{where}: {len(found)} columns; a certificate has {' '.join(columns)}")
    cells = {name: found[column] for name, column in columns.items()}
    try:
        idx, label, predict, correct = (int(cells[name]) for name in ("idx", "label", "predict", "correct"))
        n = int(cells["n"]) if "n" in cells else None
        row = Row(idx, label, predict, float(cells["radius"]), correct == 1, _seconds(cells["time"]), n)
    except ValueError as error:
        raise RecordsError(f"{where}: {_short(str(error))}") from error
    if not is_radius(row.radius):
        raise RecordsError(f"{where}: a radius of {_short(cells['radius'].strip())} is impossible")
    if not (0 <= idx < 2**63 and 0 <= label < 2**63 and -1 <= predict < 2**63 and 0 <= row.seconds < math.inf):
        raise RecordsError(f"{where}: an index, class or time that is impossible")
    if correct != (predict == label) or (predict == -1 and row.radius > 0):
        raise RecordsError(f"{where}: its columns contradict each other")
    return row


def _short(text: str) -> str:
    """A cell, or what is wrong with one, for a message: of a hostile file it could be megabytes."""
    return text if len(text) <= 100 else f"{text[:100]}..."


def _seconds(text: str) -> float:
    """Seconds from either notation in the field: 15.4, or 0:00:13.736080."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
