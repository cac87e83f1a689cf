"""The journal of a certification: one line an image, written as it is made, whole again after any interruption."""

import os
from pathlib import Path
from types import TracebackType

from macer.errors import RecordsError
from macer.results.tsv import HEADER
from macer.smoothing import Certificate


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
