"""Writing files so that no half of one is ever seen, whatever happens on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary name beside `file` to write to; it takes the place of `file` at the end, or goes if anything fails.

    Raises:
        OSError: the disk is full or read-only; it names `file`, and an older `file` is still there.
    """
    file = Path(os.path.realpath(file))  # what a link points to is replaced, not the link
    if file.exists() and not file.is_file():
        yield file  # a device such as /dev/stdout is written to
        return
    temporary = file.with_name(file.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError | RuntimeError):  # torch's writer reports a full disk as the latter
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(getattr(error, "errno", None), f"could not be written: {reason}", str(file)) from error
