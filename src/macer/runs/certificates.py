"""Journals: our certificates on disk, one line per image, in the field's tab-separated format with columns of ours."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from macer.errors import CertificateError, RecordsError
from macer.files.appending import LinesFile, read_content, whole_lines, write_content
from macer.files.printable import printable
from macer.files.reading import open_file
from macer.smoothing import Certificate

SHARED_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
OUR_COLUMNS = ("p_a_lower", "count", "n", "abstained")
ORIGIN_COLUMNS = ("second", "image", "settings", "checksum")
"""What a row follows from and is bound to."""
KINDS = ("hard", "soft")
"""The kinds of certificate, as their files are named."""

HEADER = "\t".join(SHARED_COLUMNS + OUR_COLUMNS + ORIGIN_COLUMNS) + "\n"
NAMED_HEADER = "\t".join((*SHARED_COLUMNS, *OUR_COLUMNS, *ORIGIN_COLUMNS[:-1], "file", ORIGIN_COLUMNS[-1])) + "\n"
"""The header of certificates of images that have names."""

_ROUNDING = 1e-4
"""How far apart sums of a network's scores may be on machines that round differently."""
_NOT_WHOLE = frozenset(("radius", "time", "p_a_lower", "count", "second"))
_TEXT = frozenset(("image", "settings", "file", "checksum"))


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
        second: what the bound follows from beside these, see `Certificate`.
        image: the image's digest; "" in files of others, as what follows.
        settings: the fingerprint of the settings that decided the row.
        file: the name that a person knows the image by; None where it has none.
    """

    idx: int
    label: int
    predict: int
    radius: float
    seconds: float
    p_a_lower: float | None = None
    count: float | None = None
    n: int | None = None
    second: float | None = None
    image: str = ""
    settings: str = ""
    file: str | None = None

    @classmethod
    def of(
        cls,
        idx: int,
        label: int,
        certificate: Certificate,
        seconds: float,
        image: str = "",
        settings: str = "",
        file: str | None = None,
    ) -> "Row":
        """Return the row of a certificate that took so many seconds."""
        proved = certificate.p_a_lower, certificate.count, certificate.n, certificate.second
        name = None if file is None else printable(file)  # no tabs and line ends
        return cls(idx, label, certificate.predict, certificate.radius, seconds, *proved, image, settings, name)

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predict == self.label

    def line(self, *, named: bool) -> str:
        """Return the row as a line of our files, with the image's name or without it."""
        cells = (
            *(self.idx, self.label, self.predict, repr(self.radius), int(self.correct), f"{self.seconds:.3f}"),
            *(repr(self.p_a_lower), _cell(self.count), self.n, int(self.predict == -1)),
            *(_cell(self.second), self.image, self.settings),
            *([self.file or ""] if named else []),
        )
        text = "\t".join(map(str, cells))
        return f"{text}\t{checksum(text)}\n"


def is_journal(file: Path) -> bool:
    """Return whether the first line of a file has the columns of our journals.

    Raises:
        RecordsError: the file cannot be read.
    """
    try:
        with open_file(file) as stream:
            names = stream.readline(2 * len(HEADER)).decode(errors="replace").split()
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    return set(OUR_COLUMNS) <= set(names)


def read_journal(file: Path) -> dict[int, Row]:
    """Read the rows of a journal by image, in their order. A torn last line is left out; no file means no rows.

    Raises:
        RecordsError: the file is no journal, or a line is not as it was written; the message names line and column.
    """
    return _parse_journal(whole_lines(read_content(file)), file)


class NoRowsYet(RecordsError):
    """Report a journal without rows, such as that of a certification which has just started."""


def read_finished_journal(file: Path) -> tuple[list[Row], list[str]]:
    """Read the rows of a journal for people: a last line that lacks nothing but its end counts.

    Returns:
        The rows by ascending idx, and notes on what was left out.

    Raises:
        RecordsError: as for `read_journal`.
        NoRowsYet: there are no rows.
    """
    content = read_content(file).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")  # what editors on Windows add
    whole, notes = whole_lines(content), []
    if content != whole:
        try:
            _parse_journal(content[: content.find(b"\n") + 1] + content[len(whole) :] + b"\n", file)
            whole = content + b"\n"
        except RecordsError:
            notes.append(f"{file}: its last line is unfinished and was left out")
    rows = list(_parse_journal(whole, file).values())
    if not rows:
        raise NoRowsYet(f"{file}: no certificates in it")
    return rows, notes


def merge_rows(journals: Iterable[tuple[Path, Mapping[int, Row]]]) -> dict[int, Row]:
    """Return the rows of several journals, each with its file, like those of one.

    An image may be in several of them: certificates follow from the settings alone, so only times may differ, and soft
    scores by rounding. The first row counts.

    Raises:
        RecordsError: two rows contradict each other.
    """
    merged: dict[int, Row] = {}
    for file, rows in journals:
        for idx, row in rows.items():
            known = merged.setdefault(idx, row)
            if found := _contradictions(known, row):
                raise RecordsError(
                    f"{file}: image {idx} was certified before with another result ({'; '.join(found)}); keep only the "
                    "files of one machine"
                )
    return dict(sorted(merged.items()))


def write_journal(file: Path, rows: Mapping[int, Row]) -> None:
    """Replace the rows of a journal, unless it holds exactly these in the order of the images."""
    named = any(row.file is not None for row in rows.values())
    lines = (rows[idx].line(named=named) for idx in sorted(rows))
    write_content(file, "".join([NAMED_HEADER if named else HEADER, *lines]).encode())


class Journal:
    """A file of certificates that grows by one line per image. Use as a context manager.

    Opening drops a torn last line; its image is then not `done`, and will be done again.

    Args:
        file: the journal; created if it does not exist.
        named: whether the images have names.

    Attributes:
        done: the rows by image.

    Raises:
        RecordsError: on opening, the file is no journal.
    """

    def __init__(self, file: Path, *, named: bool = False) -> None:
        self.file, self.named = file, named

    def __enter__(self) -> "Journal":
        whole = whole_lines(read_content(self.file))
        self.done = _parse_journal(whole, self.file)
        if self.done:
            self.named = whole.startswith(NAMED_HEADER.encode())
        else:  # a header by itself may be the other one
            whole = b""
        self._lines = LinesFile(self.file, whole, NAMED_HEADER if self.named else HEADER)
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def write(self, row: Row) -> None:
        """Add the certificate of an image. It is on the disk when this returns."""
        self._lines.append(row.line(named=self.named))
        self.done[row.idx] = row


def is_radius(value: Any) -> Any:
    """Return whether a number, or each of an array, can be an L2 radius: 1e6 would need images of 10^12 pixels."""
    return (value >= 0) & (value < 1e6)


def line_of(file: Path, idx: int) -> str:
    """Return where in a journal the row of an image is, for messages."""
    lines = read_content(file).decode(errors="replace").split("\n")
    number = next(number for number, line in enumerate(lines, start=1) if line.startswith(f"{idx}\t"))
    return f"{file}, line {number}"


def _parse_journal(content: bytes, file: Path) -> dict[int, Row]:
    header, *lines = content.decode(errors="replace").split("\n")[:-1] or [HEADER.rstrip()]
    if header + "\n" not in (HEADER, NAMED_HEADER):
        ends = (
            "its lines end as on Windows"
            if header.endswith("\r")
            else f"whose first line is {' '.join(HEADER.split())}"
        )
        raise RecordsError(f"{file}: not a journal of certificates as macer writes them, {ends}")
    names = tuple(header.split("\t"))
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=2):
        row = _parse_line(line, names, f"{file}, line {number}")
        if row.idx in rows:
            raise CertificateError(f"{file}, line {number}, column idx: image {row.idx} was there before")
        rows[row.idx] = row
    return dict(sorted(rows.items()))


def _parse_line(line: str, names: tuple[str, ...], where: str) -> Row:
    """Return the row of a line of ours."""
    found = line.split("\t")
    if len(found) != len(names):
        raise RecordsError(f"{where}: {len(found)} columns; a certificate has {' '.join(names)}")
    cells: dict[str, str] = dict(zip(names, found, strict=True))
    if cells["checksum"] != checksum(line.rpartition("\t")[0]):
        raise CertificateError(f"{where}, column checksum: the row was changed after it was written")
    values = {name: _value(name, cell, where) for name, cell in cells.items()}
    ours = (*SHARED_COLUMNS[:4], "time", *OUR_COLUMNS[:3], *ORIGIN_COLUMNS[:3], "file")
    row = Row(*(values[name] for name in ours if name in values))
    possible = {
        "idx": 0 <= row.idx < 2**63,
        "label": 0 <= row.label < 2**63,
        "predict": -1 <= row.predict < 2**63,
        "radius": is_radius(row.radius) and (row.radius > 0) == (row.predict != -1),
        "correct": values["correct"] == row.correct,
        "time": 0 <= row.seconds < math.inf,
        "n": 0 <= values["n"] < 2**63,
        "abstained": values["abstained"] == (row.predict == -1),
        "p_a_lower": math.isfinite(values["p_a_lower"]),
        "count": math.isfinite(values["count"]),
        "second": row.second is None or math.isfinite(row.second),
        "image": row.image != "",
        "settings": row.settings != "",
    }
    for name, holds in possible.items():
        if not holds:
            raise CertificateError(f"{where}, column {name}: {cells[name][:100]!r} is impossible in this row")
    return row


def _value(name: str, cell: str, where: str) -> Any:
    """Return what a cell holds: text, a number, a whole number, or None where a row has no `second`."""
    if name in _TEXT:
        return cell
    try:
        if name in _NOT_WHOLE:
            return None if cell == "" and name == "second" else float(cell)
        if cell == str(int(cell)):  # as it was written: rows are found again by the text of their index
            return int(cell)
    except ValueError:
        pass
    raise RecordsError(f"{where}, column {name}: {cell[:100]!r} is no number")


def _cell(value: float | None) -> str:
    """Return a number for a cell, a whole one without its point."""
    return "" if value is None else str(round(value) if value == round(value) else value)


def checksum(text: str) -> str:
    """Return the 16 hexadecimal digits at the end of a line that show whether it is as it was written."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contradictions(known: Row, row: Row) -> list[str]:
    pairs = zip(fields(Row), astuple(known), astuple(row), strict=True)
    return [
        f"{field.name}: {one} there, {other} here"
        for field, one, other in pairs
        if field.name not in ("seconds", "file") and not _agree(one, other)
    ]


def _agree(one: Any, other: Any) -> bool:
    """Return whether two values are the same: whole numbers, such as classes and votes, exactly."""
    if one == other or not (isinstance(one, float) and isinstance(other, float)):
        return one == other
    whole = one.is_integer() and other.is_integer()
    return not whole and math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
