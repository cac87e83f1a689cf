"""Certificate files of other programs: the field's table in the spellings in use, or a refusal that says why.

A row states image, label, predict and radius. Time is only told, and `correct` follows from label and predict, so it is
what each row is checked by.
"""

import codecs
import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from macer.errors import RecordsError
from macer.files.reading import open_file, read_bytes
from macer.runs.certificates import SHARED_COLUMNS, Row
from macer.runs.foreign_cells import (
    DELIMITERS,
    OUR_NAMES,
    flag,
    number,
    number_or_missing,
    seconds,
    split_cells,
    starts_like_a_number,
    titles,
    whole,
)
from macer.runs.foreign_rows import Line, settle
from macer.smoothing.certificate import ABSTAIN

_SNIFFED = 2**16
"""Bytes of a file that are looked at to see whether it holds certificates."""
SUFFIXES = (".tsv", ".csv", ".txt", ".log", ".out", ".dat", ".mat", ".json", ".parquet")
"""Suffixes of files of certificates; in `noise_0.50_2341`, what follows the point is none."""
_TEXTS = SUFFIXES[:6]
_COMMENTS = ("#", "%", "//")


_CONVERT: dict[str, Callable[[str], Any]] = {
    "idx": whole,
    "label": whole,
    "predict": lambda text: ABSTAIN if text.lower() in ("abstain", "abstained") else whole(text),
    "radius": number_or_missing,
    "correct": flag,
    "time": seconds,
}


@dataclass(frozen=True)
class CertificateFile:
    """What a file of certificates says.

    Attributes:
        rows: one per image, by ascending idx. Seconds are nan where the file does not tell them.
        notes: what was interpreted or left out, for readers of the result.
        uncertified: the images whose prediction is right by predict and label, but not by the column correct.
        sigma: the noise level in a column of that name, if it is the same in all rows.
    """

    rows: list[Row]
    notes: list[str]
    uncertified: frozenset[int] = frozenset()
    sigma: float | None = None


@dataclass
class _Part:
    """The rows under one header, or before the first one.

    Attributes:
        names: our name, or else the file's, of each column.
        delimiter: what separates cells; None: white space.
        width: the number of cells of each row; None before the first row.
        lines: the rows.
    """

    names: list[str]
    delimiter: str | None
    width: int | None = None
    lines: list[Line] = field(default_factory=list)


def read_certificates(file: Path) -> CertificateFile:
    """Read another program's certificates, with or without header, whatever other columns the file has.

    With a header, columns are known by their names; without, the first six are the field's. Text before a header and
    after the last row is left out. A last line without its end is a write that was cut off, and is left out, unless it
    is complete but for that end.

    Raises:
        RecordsError: the file cannot be read, or a line is not a certificate; the message names line, column and value.
    """
    reader = _Reader(file)
    reader.read(_read_text(file).split("\n"))  # each but the last had its end; reading made one kind of line end of all
    rows, uncertified, notes = settle(file, [part.lines for part in reader.parts])
    if not rows:
        raise RecordsError(f"{file}: no certificates in it")
    notes = [f"{file}: {note}" for note in (*reader.notes(), *notes)]
    return CertificateFile(rows, notes, uncertified, reader.sigma())


def holds_certificates(file: Path) -> bool:
    """Return whether a file holds certificates: a `.tsv` file always, others if they look like it at their beginning.

    Exported results do not count: they repeat certificates that lie elsewhere.
    """
    suffix = file.suffix.lower()
    if suffix == ".tsv":
        return True
    if suffix not in _TEXTS and not re.fullmatch(r"|\.\d\w*", suffix, re.ASCII):
        return False
    try:
        with open_file(file) as stream:
            lines = _decode(stream.read(_SNIFFED), errors="ignore").splitlines()
    except (OSError, UnicodeError):
        return False
    if found := next(filter(None, map(titles, lines)), None):
        names, _ = found
        return any("radius" in name for name in names) and not {"run", "kind"} <= set(names)
    first = next((line.split("\t") for line in lines if line.strip() and not line.startswith(_COMMENTS)), [])
    return len(first) >= len(SHARED_COLUMNS) and all(map(starts_like_a_number, first[:5]))


class _Reader:
    """Sorts the lines of a file into rows and text.

    Attributes:
        parts: the rows under each header; the first ones have none.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.parts: list[_Part] = []
        self._text: list[tuple[int, str]] = []
        self._renamed: dict[tuple[str, str], None] = {}
        self._sigmas: set[str] = set()
        self._unfinished = False

    def read(self, lines: Sequence[str]) -> None:
        """Read the lines of a file, the last of which has no end."""
        self.parts = [_Part(list(SHARED_COLUMNS), _delimiter(lines))]
        text_at = 0  # the line of text below the last row
        for at, line in enumerate(lines, start=1):
            if not (bare := line.strip()):
                continue
            part = self.parts[-1]
            if (header := titles(line)) is not None:
                self.parts.append(_Part(self._names(header[0], at), header[1]))
                text_at = 0
            elif _is_text(bare, cells := self._split(line, part, at), part):
                self._text.append((at, bare))
                text_at = text_at if bare.startswith(_COMMENTS) or not part.lines else at
            elif at == len(lines) > 1 and not _is_whole(cells, part, lines[-2]):
                self._unfinished = True
            else:
                if text_at:
                    self._refuse(text_at, f"{_shown(lines[text_at - 1].strip())} stands between rows")
                part.lines.append(self._line(self._fitted(cells, part, at), at))

    def notes(self) -> list[str]:
        """Return notes on what was left out or renamed."""
        notes = []
        if self._unfinished:
            notes.append("its last line is unfinished and was left out")
        if self._text:
            at, text = self._text[-1]
            notes.append(f"lines of text that were left out: {len(self._text)}, the last is line {at}, {_shown(text)}")
        if (headers := sum(bool(part.lines) for part in self.parts)) > 1:
            notes.append(f"{headers} parts stand one behind the other, each with its header")
        notes += [f"its column {_shown(title)} was taken for {name}" for title, name in self._renamed]
        longer = [part.width for part in self.parts[1:] if part.width is not None and part.width > len(part.names)]
        if longer:
            notes.append(
                f"its rows have {longer[0]} cells, more than its header has titles; the last ones were left out"
            )
        if self._sigmas and self.sigma() is None:
            notes.append(f"its column sigma was not used: it holds {', '.join(map(_shown, sorted(self._sigmas)[:3]))}")
        return notes

    def sigma(self) -> float | None:
        """Return the noise level in a column of that name, if it is a positive number and the same in all rows."""
        try:
            values = set(map(number, self._sigmas))
        except ValueError:
            return None
        value = values.pop() if len(values) == 1 else 0.0
        return value if 0 < value < math.inf else None

    def _names(self, found: list[str], at: int) -> list[str]:
        """Return our names of columns, where they have one. Any other title of the first one stands for idx."""
        names = [title if (name := OUR_NAMES.get(title, title)) in found else name for title in found]
        if "idx" not in names and names[0] not in SHARED_COLUMNS:
            names[0] = "idx"
        for name in ("idx", "label", "predict", "radius"):
            if name not in names:
                other = [title for title in found if name in title]
                reason = f": {_shown(other[0])} is of another norm or kind" if other else ""
                self._refuse(at, f"no column {name}{reason}; a certificate has {' '.join(SHARED_COLUMNS[:4])}")
        for name in (*SHARED_COLUMNS, "sigma"):
            if names.count(name) > 1:
                self._refuse(at, f"{names.count(name)} columns {name}")
        different = [(title, name) for title, name in zip(found, names, strict=True) if title != name != "time"]
        self._renamed |= dict.fromkeys(different)
        return names

    def _split(self, line: str, part: _Part, at: int) -> list[str]:
        try:
            return split_cells(line, part.delimiter)
        except csv.Error as error:
            self._refuse(at, str(error))

    def _fitted(self, cells: list[str], part: _Part, at: int) -> dict[str, str]:
        """Return the cells of a row by column. Every row of a part has the same number of them."""
        titled = len(part.names)
        while len(cells) > max(titled, part.width or 0) and not cells[-1]:
            cells.pop()
        part.width = part.width or len(cells)
        if len(cells) < titled:
            self._refuse(at, f"{len(cells)} columns; a certificate has {' '.join(part.names)}")
        if len(cells) != part.width:
            self._refuse(at, f"{len(cells)} columns; the rows above have {part.width}")
        return dict(zip(part.names, cells, strict=False))

    def _line(self, cells: dict[str, str], at: int) -> Line:
        if "sigma" in cells:
            self._sigmas.add(cells["sigma"])
        values = {name: cells[name] for name in SHARED_COLUMNS if name in cells}
        found, name = {}, ""
        try:
            for name, cell in values.items():
                found[name] = _CONVERT[name](cell)
        except ValueError as error:
            self._refuse(at, f"column {name}: {_shown(values[name])} {error}")
        told = found.get("correct"), found.get("time", math.nan)
        return Line(at, found["idx"], found["label"], found["predict"], found["radius"], *told)

    def _refuse(self, at: int, reason: str) -> NoReturn:
        raise RecordsError(f"{self.file}, line {at}: {reason}")


def _read_text(file: Path) -> str:
    try:
        return _decode(read_bytes(file)).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeError as error:
        raise RecordsError(f"{file}: not a text file") from error


def _decode(content: bytes, errors: str = "strict") -> str:
    """Return a text in UTF-8, which Windows marks, or in UTF-16, which its shell writes."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors)
    return content.decode("utf-8-sig", errors)


def _delimiter(lines: Sequence[str]) -> str | None:
    """Return what separates the cells of the first row of a file without header."""
    first = next((line for line in lines if starts_like_a_number(line.strip())), "")
    return next((each for each in DELIMITERS[:3] if first.count(each or " ") >= len(SHARED_COLUMNS) - 1), "\t")


def _is_text(bare: str, cells: list[str], part: _Part) -> bool:
    """Return whether a line is words: nothing that a damaged row looks like."""
    if bare.startswith(_COMMENTS):
        return True
    words = re.search(r"[^\W\d_]{2}|[-=*_]{3}", bare) is not None
    return words and not starts_like_a_number(bare) and len(cells) < len(part.names) - 1


def _is_whole(cells: list[str], part: _Part, above: str) -> bool:
    """Return whether a last line without its end is complete.

    It is if it has as many cells as the one above and ends alike, and does not end with a number that every digit
    changes.
    """
    others = split_cells(above, part.delimiter)
    last = part.names[len(cells) - 1] if len(cells) <= len(part.names) else ""
    if len(cells) != len(others) or last in ("idx", "label", "predict", "radius"):
        return False
    if last == "correct":
        return cells[-1].lower() in ("true", "false", "0", "1")
    shapes = [re.sub(r"\d+", "0", cell) for cell in (cells[-1], others[-1])]
    return shapes[0] == shapes[1]


def _shown(text: str) -> str:
    """Return a text from a file for a message: in a hostile file it could be megabytes of anything."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")
