"""Certificates on disk: the field's tab-separated format with further columns of ours, one line per image."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from macer.errors import RecordsError
from macer.files.reading import read_bytes
from macer.files.replacing import replacing
from macer.smoothing import Certificate

SHARED_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
OUR_COLUMNS = ("p_a_lower", "count", "n", "abstained")
KINDS = ("hard", "soft")
"""The kinds of certificate, as their files are named."""

HEADER = "\t".join(SHARED_COLUMNS + OUR_COLUMNS) + "\n"

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
    if content != (read_bytes(file) if file.exists() else b""):
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


def _whole_lines(file: Path) -> bytes:
    """Return the content of a journal up to the end of its last whole line."""
    content = read_bytes(file) if file.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _parse_journal(content: bytes, file: Path) -> dict[int, Row]:
    header, *lines = content.decode(errors="replace").split("\n")[:-1] or [HEADER.rstrip()]
    if header != HEADER.rstrip():
        raise RecordsError(f"{file}: not a journal of certificates")
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=2):
        row = _parse_line(line, f"{file}, line {number}")
        if row.idx in rows:
            raise RecordsError(f"{file}, line {number}: image {row.idx} was there before")
        rows[row.idx] = row
    return dict(sorted(rows.items()))


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


def _parse_line(line: str, where: str) -> Row:
    """Return the row of a line of ours."""
    names, found = HEADER.split(), line.split("\t")
    if len(found) != len(names):
        raise RecordsError(f"{where}: {len(found)} columns; a certificate has {' '.join(names)}")
    cells = dict(zip(names, found, strict=True))
    values = {name: _number(name, cell, where) for name, cell in cells.items()}
    row = Row(*(values[name] for name in (*SHARED_COLUMNS[:4], "time", "p_a_lower", "count", "n")))
    possible = {
        "idx": 0 <= row.idx < 2**63,
        "label": 0 <= row.label < 2**63,
        "predict": -1 <= row.predict < 2**63,
        "radius": is_radius(row.radius) and (row.radius > 0) == (row.predict != -1),
        "correct": values["correct"] == row.correct,
        "time": 0 <= row.seconds < math.inf,
        "abstained": values["abstained"] == (row.predict == -1),
    }
    for name, holds in possible.items():
        if not holds:
            raise RecordsError(f"{where}, column {name}: {cells[name][:100]} is impossible here")
    return row


def _number(name: str, cell: str, where: str) -> Any:
    """Return the number in a cell: a whole one, but in the columns that hold others."""
    try:
        return (float if name in ("radius", "time", "p_a_lower", "count") else int)(cell)
    except ValueError:
        raise RecordsError(f"{where}, column {name}: {cell[:100]!r} is no number") from None
