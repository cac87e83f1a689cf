"""Writing files so that no half of one is ever seen, whatever happens on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary name beside `file` to write to; it takes the place of `file` at the end.

    Raises:
        OSError: the disk is full or read-only; it names `file`, and an older `file` is still there.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as the latter
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(getattr(error, "errno", None), f"could not be written: {reason}", str(file)) from error
