"""Keep other processes out of a directory, or away from a file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from macer.errors import SettingsError

try:
    import fcntl
except ImportError:  # on Windows, where a second process is not kept out
    fcntl = None


@contextmanager
def locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Hold the operating system's lock on a file or directory. It leaves nothing, and ends with the process.

    Args:
        path: what to lock.
        flags: how to open it, as for `os.open`.

    Raises:
        SettingsError: another process holds it.
        OSError: it cannot be opened.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{path}: another process is at work there; wait for it, or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
