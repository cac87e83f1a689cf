"""Keywords of the public functions: settings by name, and where progress is shown."""

import difflib
import os
from typing import Any

from rich.console import Console

from macer.errors import UnknownName
from macer.files.printable import Terminal
from macer.runs.settings import options_of


def checked(settings: dict[str, Any], *classes: type, also: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings, if each is an option of one of the classes.

    Those that are None are left out, as if they had not been given; paths become text.

    Args:
        settings: values by name.
        classes: settings whose fields made with `option` are allowed, behind the class's prefix.
        also: names of the function's other parameters, for the suggestion in the error.

    Raises:
        UnknownName: a name is none of these; the message has the one that was probably meant.
    """
    known = {name for cls in classes for name in options_of(cls)}
    given = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None
    }
    for name in given.keys() - known:
        close = difflib.get_close_matches(name, [*known, *also], n=1)
        hint = f": did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
        raise UnknownName(f"there is no setting {name!r}{hint}")
    return given


def console_for(progress: bool | Console) -> Console:
    """Return where progress is shown: on the console given, on standard error, or nowhere."""
    return progress if isinstance(progress, Console) else Terminal(stderr=True, quiet=not progress)
