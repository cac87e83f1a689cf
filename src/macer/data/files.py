"""Reading bytes, and saying in one line why it did not work."""

from pathlib import Path

from macer.errors import DataError


def read_bytes(file: Path) -> bytes:
    """The whole content of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What a library's error says, as part of one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
