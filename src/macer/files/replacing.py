"""Write files as a whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It replaces `file` at the end, and is removed if anything fails.

    Raises:
        OSError: writing failed, for example because the disk is full; an older `file` is still there.
    """
    file = Path(os.path.realpath(file))  # replaces the target of a link, not the link
    if file.exists() and not file.is_file():
        yield file  # a device such as /dev/stdout
        return
    temporary = file.with_name(file.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, file)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError | RuntimeError):  # PyTorch raises the latter if the disk is full
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(getattr(error, "errno", None), f"could not be written: {reason}", str(file)) from error
