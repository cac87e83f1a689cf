"""Files that grow line by line: each line is on the disk before the next one begins, and a torn last one is dropped."""

import os
from pathlib import Path

from macer.errors import RecordsError
from macer.files.reading import read_bytes
from macer.files.replacing import replacing, sync


class LinesFile:
    """A file of lines below a header, opened to add more.

    Args:
        file: its path.
        whole: its content up to the end of its last whole line; b"" if it has none or does not exist.
        header: the first line of a file without lines.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, file: Path, whole: bytes, header: str) -> None:
        self.file = file
        # Unbuffered, so that a line which a full disk refused is not tried again on closing.
        self._stream = file.open("r+b" if file.exists() else "w+b", buffering=0)
        self._stream.truncate(len(whole))
        self._stream.seek(len(whole))
        if not whole:
            self.append(header)
            sync(file.parent)

    def append(self, line: str) -> None:
        """Add a line, which is on the disk when this returns.

        Raises:
            OSError: the disk refused it.
        """
        left = line.encode()
        try:
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.file)) from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_content(file: Path) -> bytes:
    """Return the content of a file of lines; b"" where there is none.

    Raises:
        RecordsError: it cannot be read.
    """
    try:
        return read_bytes(file) if file.exists() else b""
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error


def whole_lines(content: bytes) -> bytes:
    """Return content up to the end of its last whole line."""
    return content[: content.rfind(b"\n") + 1]


def write_content(file: Path, content: bytes) -> None:
    """Replace the content of a file of lines, unless it is this already."""
    if content != read_content(file):
        with replacing(file) as temporary:
            temporary.write_bytes(content)
