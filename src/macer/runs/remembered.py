"""Which samples voted for the certified class, one bit per sample, beside a journal: what carrying certificates needs.

A line per certified image, bound to the image's row by the digests and numbers that both hold. It is written before the
row: a process that dies between the two leaves a line without a row, which is dropped when the work goes on.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path

from macer.errors import CertificateError, RecordsError
from macer.files.appending import LinesFile, read_content, whole_lines, write_content
from macer.runs.certificates import Row, checksum
from macer.smoothing.carrying import unpacked

_HEADER = "idx\tpredict\timage\tsettings\tvotes\tchecksum\n"


def votes_file(journal: Path) -> Path:
    """Return the file of the votes that belong to a journal."""
    return journal.with_suffix(".votes")


def read_remembered(file: Path, rows: Mapping[int, Row]) -> dict[int, bytes]:
    """Return the packed votes of each certified image of a journal, by image. Abstentions have none.

    Args:
        file: of the votes.
        rows: the journal's, by image. They were read before, so that a run at work has written the votes of each.

    Raises:
        RecordsError: there is no such file, or it cannot be read.
        CertificateError: a line was changed, an image lacks its votes, or they are not those of its row.
    """
    if not rows:
        return {}
    content = whole_lines(read_content(file)).decode(errors="replace")
    header, *lines = content.split("\n")[:-1] or [""]
    if header + "\n" != _HEADER:
        raise RecordsError(f"{file}: missing, or no file of votes, whose first line is {' '.join(_HEADER.split())}")
    found = {}
    for number, line in enumerate(lines, start=2):
        text, _, end = line.rpartition("\t")
        if end != checksum(text):
            raise CertificateError(f"{file}, line {number}, column checksum: the votes were changed after writing")
        named, _, votes = text.rpartition("\t")
        found[named] = votes
    return {idx: _votes_of(row, found, file) for idx, row in rows.items() if row.predict != -1}


def _votes_of(row: Row, found: Mapping[str, str], file: Path) -> bytes:
    """Return the packed votes of a row, which are as many as it says."""
    assert row.n is not None
    text = found.get(_name(row))
    if text is None:
        raise CertificateError(f"{file}: lacks the votes of image {row.idx}, whose row is there")
    try:
        votes = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        votes = b""
    if len(votes) != -(-row.n // 8) or unpacked(votes, row.n).sum() != row.count:
        raise CertificateError(f"{file}: the votes of image {row.idx} are not the {row.count:g} of {row.n} of its row")
    return votes


def write_remembered(file: Path, rows: Mapping[int, Row], votes: Mapping[int, bytes]) -> None:
    """Replace the votes in a file, unless it holds exactly these in the order of the images."""
    lines: Iterator[str] = (remembered_line(rows[idx], votes[idx]) for idx in sorted(votes))
    write_content(file, "".join([_HEADER, *lines]).encode())


def open_remembered(file: Path) -> LinesFile:
    """Open a file of votes to add lines of `remembered_line` to it.

    Raises:
        OSError: it cannot be written.
    """
    return LinesFile(file, whole_lines(read_content(file)), _HEADER)


def remembered_line(row: Row, votes: bytes) -> str:
    """Return the line of a row's packed votes. It is to be written before the row."""
    text = f"{_name(row)}\t{base64.b64encode(votes).decode()}"
    return f"{text}\t{checksum(text)}\n"


def _name(row: Row) -> str:
    """Return the cells that a line of votes has in common with the row that it belongs to."""
    return f"{row.idx}\t{row.predict}\t{row.image}\t{row.settings}"
