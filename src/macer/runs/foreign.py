"""Certificate files of other programs, in the field's tab-separated format and what is near it."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from macer.errors import RecordsError
from macer.files.reading import read_text
from macer.runs.certificates import OUR_COLUMNS, SHARED_COLUMNS, Row, is_radius


def read_certificates(file: Path) -> tuple[list[Row], list[str]]:
    """Read a file of certificates, ours or published, with or without header, whatever other columns it has.

    With a header, columns are known by their names; without, the first six are the field's. A last line without its end
    is a write that was cut off, and is left out, unless it is complete but for that end.

    Returns:
        The rows by ascending idx, and notes on what was left out, for readers of the result.

    Raises:
        RecordsError: the file cannot be read, or a line is not a certificate; the message names the line.
    """
    lines = _read_text(file).split("\n")  # each but the last had its end; reading made one kind of line end of all
    notes = []
    if len(lines) > 1 and lines[-1].strip() and not _alike(lines[-1], lines[-2]):
        notes.append(f"{file}: its last line is unfinished and was left out")
        lines.pop()
    rows = _parse_lines(lines, file)
    if not rows:
        raise RecordsError(f"{file}: no certificates in it")
    return list(rows.values()), notes


def _read_text(file: Path) -> str:
    try:
        return read_text(file, encoding="utf-8-sig")  # Windows marks its UTF-8 files
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsError(f"{file}: not a text file") from error


def _alike(line: str, above: str) -> bool:
    """Return whether a last line without its end has as many cells as the one above, and a similar last cell."""
    shapes = [[re.sub(r"\d+", "0", cell) for cell in text.split("\t")] for text in (line, above)]
    return len(shapes[0]) == len(shapes[1]) and shapes[0][-1] == shapes[1][-1]


def _parse_lines(lines: Iterable[str], file: Path) -> dict[int, Row]:
    """Parse whole lines, of which the first may be a header, and return their rows by image, in their order."""
    columns = {name: column for column, name in enumerate(SHARED_COLUMNS)}
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if number == 1 and "idx" in line.split():
            columns = _columns(line, f"{file}, line 1")
            continue
        row = _parse(line, columns, f"{file}, line {number}")
        if row.idx in rows:
            raise RecordsError(f"{file}, line {number}: image {row.idx} was there before")
        rows[row.idx] = row
    return dict(sorted(rows.items()))


def _columns(header: str, where: str) -> dict[str, int]:
    """Return the position of each column that we read, by its name in the header."""
    names = [name.strip() for name in header.split("\t")]
    missing = [name for name in SHARED_COLUMNS if name not in names]
    if missing:
        raise RecordsError(f"{where}: no column {missing[0]}; a certificate has {' '.join(SHARED_COLUMNS)}")
    ours = OUR_COLUMNS[:-1] if set(OUR_COLUMNS) <= set(names) else ()  # in a file of others, n could be anything
    return {name: names.index(name) for name in (*SHARED_COLUMNS, *ours)}


def _parse(line: str, columns: Mapping[str, int], where: str) -> Row:
    found = line.split("\t")
    if len(found) <= max(columns.values()):
        raise RecordsError(f"{where}: {len(found)} columns; a certificate has {' '.join(columns)}")
    cells = {name: found[column] for name, column in columns.items()}
    try:
        idx, label, predict, correct = (int(cells[name]) for name in ("idx", "label", "predict", "correct"))
        p_a_lower, count = (float(cells[name]) if name in cells else None for name in ("p_a_lower", "count"))
        n = int(cells["n"]) if "n" in cells else None
        row = Row(idx, label, predict, float(cells["radius"]), _seconds(cells["time"]), p_a_lower, count, n)
    except ValueError as error:
        raise RecordsError(f"{where}: {_short(str(error))}") from error
    if not is_radius(row.radius):
        raise RecordsError(f"{where}: a radius of {_short(cells['radius'].strip())} is impossible")
    if not (0 <= idx < 2**63 and 0 <= label < 2**63 and -1 <= predict < 2**63 and 0 <= row.seconds < math.inf):
        raise RecordsError(f"{where}: an index, class or time that is impossible")
    if correct != row.correct or (predict == -1 and row.radius > 0):
        raise RecordsError(f"{where}: its columns contradict each other")
    return row


def _short(text: str) -> str:
    """Return a cell, or what is wrong with one, for a message: in a hostile file it could be megabytes."""
    return text if len(text) <= 100 else f"{text[:100]}..."


def _seconds(text: str) -> float:
    """Return seconds from either notation in the field: 15.4, or 0:00:13.736080."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
