"""Open files that somebody names: regular ones only, and no more of them than fits into memory.

A device such as /dev/zero never ends, and a pipe may wait for ever. Readers call these functions instead of opening a
path themselves. All that is wrong with a file is an OSError whose `strerror` is part of one line.
"""

import errno
import io
import os
import stat
from pathlib import Path

LARGEST = 2**28
"""Largest number of bytes that are read at once. The largest archive, that of CIFAR-10, contains 184 million."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(file: Path) -> int:
    """Return the size in bytes of a regular file, for libraries that open files themselves.

    Raises:
        OSError: there is no such file, or it is a directory, a device, a pipe or a socket.
    """
    status = os.stat(file)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.ENOTSUP, f"{kind}, not a regular file", str(file))
    return status.st_size


def open_file(file: Path) -> io.BufferedReader:
    """Open a regular file for reading its bytes.

    Raises:
        OSError: as for `check_regular`, or the file may not be read.
    """
    check_regular(file)
    return file.open("rb")


def read_bytes(file: Path, most: int = LARGEST) -> bytes:
    """Return the content of a regular file.

    Args:
        file: the file.
        most: largest number of bytes.

    Raises:
        OSError: as for `open_file`, or the file is larger.
    """
    with open_file(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes; at most {most:,} are read", str(file))
        return stream.read(size)


def read_text(file: Path, most: int = LARGEST, encoding: str = "utf-8") -> str:
    """Return the text of a regular file, with line ends of all systems as "\\n".

    Raises:
        OSError: as for `read_bytes`.
        UnicodeDecodeError: the file is no text in this encoding.
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(file, most)), encoding=encoding).read()
