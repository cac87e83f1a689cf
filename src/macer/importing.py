"""Code of a person's own, by its import path `package.module:name`."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from macer.errors import SettingsError


@contextmanager
def imported(path: str, what: str) -> Iterator[Any]:
    """Import what a path names, and search the current directory as well: first until the context ends, then last.

    What the code imports later, such as a network in its `forward`, is so found, and hides no other module.

    Args:
        path: `package.module:name`.
        what: what to call it in an error, such as "network".

    Yields:
        The function or class.

    Raises:
        SettingsError: there is none, or what is done with it in the context fails; the message is one line.
    """
    module_name, _, name = path.partition(":")
    if module_name.endswith(".py"):
        advice = f"write {Path(module_name).stem}:{name}, in the directory of the file"
        raise SettingsError(f"{what} {path}: a module is named without .py: {advice}")
    if not module_name or module_name.startswith(".") or "/" in module_name:
        raise SettingsError(f"{what} {path}: is named as Python imports it, such as package.module:function")
    sys.path.insert(0, "")  # the current directory, which an installed command does not search
    try:
        yield getattr(importlib.import_module(module_name), name)
    except Exception as error:  # their code may raise anything
        said = f"{what} {path}: {type(error).__name__}: {error}".splitlines()[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        raise SettingsError(said + (", installed or in the current directory" if missing else "")) from error
    finally:
        sys.path.remove("")
        search_here_last()


def search_here_last() -> None:
    """Let Python search the current directory after all others, for what a person's own code imports."""
    if "" not in sys.path:
        sys.path.append("")
