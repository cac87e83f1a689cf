"""Reading bytes, and saying in one line why it did not work."""

import gzip
import zlib
from pathlib import Path

from macer.errors import DataError

LARGEST = 2**28
"""Bytes that are read of a file, or of what is compressed in it: CIFAR-10's archive, the largest, holds 184 million."""


def read_bytes(file: Path) -> bytes:
    """The whole content of a file.

    Raises:
        DataError: it cannot be read, or is larger than LARGEST.
    """
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise DataError(f"{file}: {size:,} bytes; at most {LARGEST:,} are read")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error


def read_gzip(file: Path) -> bytes:
    """The whole content of a gzip file, compared with its checksum.

    Raises:
        DataError: it cannot be read, is damaged, or holds more than LARGEST bytes.
    """
    try:
        with gzip.open(file) as stream:
            content = stream.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: damaged or cut off: {reason(error)}") from error
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error
    if len(content) > LARGEST:
        raise DataError(f"{file}: holds more than {LARGEST:,} bytes, compressed; no more are read")
    return content


def reason(error: BaseException) -> str:
    """What a library's error says, as part of one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
