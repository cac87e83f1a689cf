"""Certificates on disk: the field's tab-separated format with further columns of ours, one line per image."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from macer.errors import RecordsError
from macer.files.replacing import replacing
from macer.smoothing import Certificate

SHARED_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
OUR_COLUMNS = ("p_a_lower", "count", "n", "abstained")
KINDS = ("hard", "soft")
"""The kinds of certificate, as their files are named."""

HEADER = "\t".join(SHARED_COLUMNS + OUR_COLUMNS) + "\n"

_LARGEST = 2**28
"""Bytes of a file that is read at all: twice what certificates of ImageNet's 1.3 million training images take."""
_ROUNDING = 1e-4
"""How far apart sums of a network's scores may be on machines that round differently."""


@dataclass(frozen=True)
class Row:
    """The certificate of one image.

    Attributes:
        idx: the image's index in its data set.
        label: its class.
        predict: the predicted class, -1 where the smoothed classifier abstained.
        radius: the certified L2 radius in units of [0, 1] pixels.
        seconds: the time it took.
        p_a_lower: lower bound on the class's probability (hard) or mean score (soft); None in files of others, as what
            follows.
        count: votes (hard) or summed scores (soft) of the class among the n samples.
        n: samples for the bound.
    """

    idx: int
    label: int
    predict: int
    radius: float
    seconds: float
    p_a_lower: float | None = None
    count: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, idx: int, label: int, certificate: Certificate, seconds: float) -> "Row":
        """Return the row of a certificate that took so many seconds."""
        proved = certificate.p_a_lower, certificate.count, certificate.n
        return cls(idx, label, certificate.predict, certificate.radius, seconds, *proved)

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    def line(self) -> str:
        """Return the row as a line of our files."""
        count = self.count if self.count is None or self.count != round(self.count) else round(self.count)
        cells = (
            *(self.idx, self.label, self.predict, repr(self.radius), int(self.correct), f"{self.seconds:.3f}"),
            *(repr(self.p_a_lower), count, self.n, int(self.predict == -1)),
        )
        return "\t".join(map(str, cells)) + "\n"


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


def read_journal(file: Path) -> dict[int, Row]:
    """Read the rows of a journal by image, in their order. A torn last line is left out; no file means no rows.

    Raises:
        RecordsError: the file is no journal.
    """
    return _parse_journal(_whole_lines(file), file)


def merge_journals(files: Iterable[Path]) -> dict[int, Row]:
    """Read the rows of several journals like those of one.

    An image may be in several of them: certificates follow from the settings alone, so only times may differ, and soft
    scores by rounding. The first row counts.

    Raises:
        RecordsError: a file is no journal, or two rows contradict each other.
    """
    merged: dict[int, Row] = {}
    for file in files:
        for idx, row in read_journal(file).items():
            known = merged.setdefault(idx, row)
            if found := _contradictions(known, row):
                raise RecordsError(
                    f"{file}: image {idx} was certified before with another result ({'; '.join(found)}); keep only the "
                    "files of one machine"
                )
    return dict(sorted(merged.items()))


def write_journal(file: Path, rows: Mapping[int, Row]) -> None:
    """Replace the rows of a journal, unless it holds exactly these in the order of the images."""
    content = "".join([HEADER, *(rows[idx].line() for idx in sorted(rows))]).encode()
    if content != (file.read_bytes() if file.exists() else b""):
        with replacing(file) as temporary, temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


class Journal:
    """A file of certificates that grows by one line per image. Use as a context manager.

    Opening drops a torn last line; its image is then not `done`, and will be done again.

    Args:
        file: the journal; created if it does not exist.

    Attributes:
        done: the images that have a row.

    Raises:
        RecordsError: on opening, the file is no journal.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> "Journal":
        whole = _whole_lines(self.file)
        self.done = set(_parse_journal(whole, self.file))
        # Unbuffered, so that a row which a full disk refused is not tried again on closing.
        self._stream = self.file.open("r+b" if self.file.exists() else "w+b", buffering=0)
        self._stream.truncate(len(whole))
        self._stream.seek(len(whole))
        if not whole:
            self._append(HEADER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def write(self, idx: int, label: int, certificate: Certificate, seconds: float) -> None:
        """Add the certificate of an image. It has been flushed to the disk when this returns."""
        self._append(Row.of(idx, label, certificate, seconds).line())
        self.done.add(idx)

    def _append(self, line: str) -> None:
        left = line.encode()
        try:
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.file)) from error


def is_radius(value: Any) -> Any:
    """Return whether a number, or each of an array, can be an L2 radius: 1e6 would need images of 10^12 pixels."""
    return (value >= 0) & (value < 1e6)


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


def _whole_lines(file: Path) -> bytes:
    """Return the content of a journal up to the end of its last whole line."""
    content = file.read_bytes() if file.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _parse_journal(content: bytes, file: Path) -> dict[int, Row]:
    header, *lines = content.decode(errors="replace").split("\n")[:-1] or [HEADER.rstrip()]
    if header != HEADER.rstrip():
        raise RecordsError(f"{file}: not a journal of certificates")
    return _parse_lines([header, *lines], file)


def _contradictions(known: Row, row: Row) -> list[str]:
    pairs = zip(fields(Row), astuple(known), astuple(row), strict=True)
    return [
        f"{field.name}: {one} there, {other} here"
        for field, one, other in pairs
        if field.name != "seconds" and not _agree(one, other)
    ]


def _agree(one: int | float, other: int | float) -> bool:
    """Return whether two values are the same: whole numbers, such as classes and votes, exactly."""
    whole = float(one).is_integer() and float(other).is_integer()
    return one == other or (not whole and math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING))


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
