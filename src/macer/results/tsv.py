"""The field's table of certificates: tab-separated, one image a line, `idx label predict radius correct time` first."""

import re
from dataclasses import dataclass
from pathlib import Path

from macer.errors import RecordsError

SHARED_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
OUR_COLUMNS = ("p_a_lower", "count", "n", "abstained")
HEADER = "\t".join(SHARED_COLUMNS + OUR_COLUMNS) + "\n"


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
    """

    idx: int
    label: int
    predict: int
    radius: float
    correct: bool
    seconds: float


def read_tsv(file: Path) -> tuple[list[Row], list[str]]:
    """The rows of a certificate file, ours or published: with or without header, whatever columns follow.

    A last line without its end is a write that was cut off, and is left out.

    Returns:
        The rows by ascending idx, and notes on what was left out, for whoever looks at the result.

    Raises:
        RecordsError: the file cannot be read, or a line is not a certificate; the text names the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsError(f"{file}: not a text file") from error
    lines = text.splitlines(keepends=True)
    rows: dict[int, Row] = {}
    notes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("idx")):
            continue
        if number == len(lines) and not line.endswith("\n") and not _complete(line):
            notes.append(f"{file}: its last line is unfinished and was left out")
            continue
        row = _parse(line, f"{file}, line {number}")
        if row.idx in rows:
            raise RecordsError(f"{file}, line {number}: image {row.idx} was there before")
        rows[row.idx] = row
    if not rows:
        raise RecordsError(f"{file}: no certificates in it")
    return [rows[idx] for idx in sorted(rows)], notes


def _complete(line: str) -> bool:
    """Whether a last line without line end holds a whole time, as files written by hand or by other tools may."""
    cells = line.split("\t")
    return len(cells) == len(SHARED_COLUMNS) and re.fullmatch(r"\d+:\d\d:\d\d(\.\d{6})?", cells[-1]) is not None


def _parse(line: str, where: str) -> Row:
    cells = line.rstrip("\r\n").split("\t")
    if len(cells) < len(SHARED_COLUMNS):
        raise RecordsError(f"{where}: {len(cells)} columns; a certificate has {' '.join(SHARED_COLUMNS)}")
    try:
        row = Row(int(cells[0]), int(cells[1]), int(cells[2]), float(cells[3]), bool(int(cells[4])), _seconds(cells[5]))
    except ValueError as error:
        raise RecordsError(f"{where}: {error}") from error
    if not 0 <= row.radius < float("inf"):
        raise RecordsError(f"{where}: a radius of {cells[3]} is impossible")
    if row.correct != (row.predict == row.label) or row.idx < 0:
        raise RecordsError(f"{where}: its columns contradict each other")
    return row


def _seconds(text: str) -> float:
    """Seconds from either notation in the field: 15.4, or 0:00:13.736080."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds
