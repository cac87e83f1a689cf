"""The journal of a certification: one line an image, written as it is made, whole again after any interruption.

Where several processes certify together, each writes a part of its own, and the parts are gathered into the journal.
"""

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from macer.errors import RecordsError
from macer.files.replacing import replacing
from macer.runs.settings import differences
from macer.runs.tsv import HEADER
from macer.smoothing import Certificate

_ROUNDING = 1e-4
"""How far sums of a network's scores, and what follows from them, may be apart on machines that round differently."""


@dataclass
class Rows:
    """Lines of journals, by image.

    Attributes:
        header: the names of the columns; empty before the first journal.
        cells: each image's line, cut at the tabs.
    """

    header: list[str] = field(default_factory=list)
    cells: dict[int, list[str]] = field(default_factory=dict)

    def correct(self) -> int:
        """How many of the images are certified correctly."""
        return sum(cells[self.header.index("correct")] == "1" for cells in self.cells.values())

    def text(self) -> str:
        """The journal that holds these rows, in the order of the images."""
        lines = [self.header, *(self.cells[index] for index in sorted(self.cells))] if self.header else []
        return "".join("\t".join(cells) + "\n" for cells in lines)


def read_rows(files: Iterable[Path]) -> Rows:
    """The rows of all these journals. A torn last line is left out, as is a file that does not exist.

    An image may stand in several of them: certificates follow from the settings alone, so that only the time can
    differ, and soft scores by rounding. The first one counts.

    Raises:
        RecordsError: a file is no journal, has other columns than those before it, or contradicts them.
    """
    rows = Rows()
    for file in files:
        content = file.read_bytes() if file.exists() else b""
        lines = content.decode(errors="replace").split("\n")[:-1]
        for number, line in enumerate(lines, start=1):
            cells = line.split("\t")
            rows.header = rows.header or cells
            if number == 1 and cells == rows.header and cells[0] == "idx":
                continue
            if number == 1 or len(cells) != len(rows.header) or not cells[0].isdecimal() or not line.isascii():
                raise RecordsError(f"{file}: not a journal of certificates, or not like the others (line {number})")
            before = rows.cells.setdefault(int(cells[0]), cells)
            if before is not cells and (found := _differences(rows.header, before, cells)):
                raise RecordsError(
                    f"{file}: image {cells[0]} was certified before with another result ({'; '.join(found)}); keep the "
                    "files of one machine or of the other"
                )
    return rows


def _differences(header: list[str], before: list[str], cells: list[str]) -> list[str]:
    alike = {name for name, *pair in zip(header, before, cells, strict=True) if name == "time" or _agree(*pair)}
    one, other = (dict(zip(header, each, strict=True)) for each in (before, cells))
    return differences(one, other, ignored=frozenset(alike))


def _agree(one: str, other: str) -> bool:
    """Whether two cells are the same: classes and votes exactly, and with them all of a hard certificate."""
    if one == other or (one.isdecimal() and other.isdecimal()):
        return one == other
    try:
        return math.isclose(float(one), float(other), rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    except ValueError:
        return False


def gather(journal: Path, *, keep_parts: bool = False) -> Rows:
    """Put the rows of a journal's parts into it, in the order of the images, and remove the parts.

    May be stopped anywhere and done again. A process that outlives its killed fellows may still write to a part that is
    removed here: the image is then done again.

    Args:
        journal: the file; it need not exist.
        keep_parts: leave them where they are, because their processes are at work.

    Returns:
        All rows.

    Raises:
        RecordsError: see `read_rows`.
    """
    _, *parts = files = with_parts(journal)
    rows = read_rows(files)
    write_rows(journal, rows)
    if not keep_parts:
        for part in parts:
            part.unlink(missing_ok=True)
        with suppress(OSError):  # it holds another kind's parts, or does not exist
            _parts(journal).rmdir()
    return rows


def write_rows(journal: Path, rows: Rows) -> None:
    """Replace a journal by these rows, unless it holds just them already. No half of it is ever seen."""
    content = rows.text().encode()
    if content != (journal.read_bytes() if journal.exists() else b""):
        with replacing(journal) as temporary, temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def with_parts(journal: Path) -> list[Path]:
    """A journal and its parts."""
    return [journal, *sorted(_parts(journal).glob(f"{journal.stem}-*.part"))]


def own_part(journal: Path, process: str) -> Path:
    """The part of a journal that one process writes. It does not end in .tsv: it is not a result by itself."""
    _parts(journal).mkdir(exist_ok=True)
    return _parts(journal) / f"{journal.stem}-{process}.part"


def _parts(journal: Path) -> Path:
    return journal.with_name("parts")


class Journal:
    """An append-only TSV of certificates. Use as a context manager.

    Opening drops a torn last line; the image it was about is then not `done`, and is done again.

    Args:
        file: the journal; made where it does not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> "Journal":
        content = self.file.read_bytes() if self.file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self.done = {int(line.split(b"\t", 1)[0]) for line in whole.splitlines()[1:]}
        except ValueError as error:
            raise RecordsError(f"{self.file}: not a journal of certificates") from error
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
        """Add an image's certificate; it has left the process, and is asked to the disk, when this returns."""
        correct = int(certificate.predict == label)
        count = round(certificate.count) if certificate.count == round(certificate.count) else certificate.count
        cells = (
            *(idx, label, certificate.predict, repr(certificate.radius), correct, f"{seconds:.3f}"),
            *(repr(certificate.p_a_lower), count, certificate.n, int(certificate.abstained)),
        )
        self._append("\t".join(map(str, cells)) + "\n")
        self.done.add(idx)

    def _append(self, line: str) -> None:
        left = line.encode()
        try:
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.file)) from error
