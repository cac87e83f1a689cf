"""Write files as a whole or not at all, and say which file a full or read-only disk refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from macer.errors import MacerError
from macer.files.locking import locked


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It replaces `file` at the end, and is removed if anything fails.

    What was written is on the disk before it replaces `file`, and the replacement is before this returns.

    Raises:
        SettingsError: another process is writing this file.
        OSError: writing failed, for example because the disk is full; an older `file` is still there.
    """
    file = Path(os.path.realpath(file))  # replaces the target of a link, not the link
    with writing(file):
        if file.exists() and not file.is_file():
            yield file  # a device such as /dev/stdout
            return
        temporary = file.with_name(file.name + ".tmp")
        with locked(temporary, os.O_RDWR | os.O_CREAT):
            try:
                yield temporary
                sync(temporary)
                os.replace(temporary, file)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync(file.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Say which file could not be written and why, in the system's words: libraries have their own, or name no file.

    Raises:
        OSError: writing failed.
    """
    try:
        yield
    except Exception as error:
        refused = _behind(error)
        if refused is None:
            raise
        reason = os.strerror(refused.errno) if refused.errno else str(refused).partition("\n")[0]
        raise OSError(refused.errno, f"could not be written: {reason}", str(file)) from error


def _behind(error: BaseException | None) -> OSError | None:
    """Return the system's error that an error is or comes from; none if it is an input's that we explained."""
    while error is not None and not isinstance(error, OSError | MacerError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None
