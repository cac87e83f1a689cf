"""Read and write TOML files."""

import sys
from pathlib import Path
from typing import Any

import tomli_w

from macer.errors import SettingsError
from macer.files.reading import read_text
from macer.files.replacing import replacing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


_LARGEST = 2**16
"""Largest number of bytes of a TOML file."""
_MOST_DOTS = 1000
"""Largest number of dots in a line, because the parser takes quadratic time for a name of many parts."""


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        SettingsError: the file is missing, unreadable, larger than 64 KiB, or not TOML.
    """
    try:
        text = read_text(file, _LARGEST)
        if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            raise ValueError(f"a line of more than {_MOST_DOTS:,} dots")
        content = tomllib.loads(text)
        _check_numbers(content)
        return content
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except RecursionError as error:
        raise SettingsError(f"{file}: not TOML: nested too deeply") from error
    except ValueError as error:  # also from numbers of more digits than Python reads
        raise SettingsError(f"{file}: not TOML: {error}".splitlines()[0]) from error


def _check_numbers(value: Any) -> None:
    """Refuse whole numbers of more than 64 bits, which TOML does not have, but Python's parser reads."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_numbers(each)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number of more than 64 bits")


def write_toml(file: Path, content: dict[str, Any]) -> None:
    """Write a TOML file as a whole, or leave an older one as it is.

    Raises:
        SettingsError: a text, such as the name of a file, is not UTF-8, as TOML requires.
        OSError: the file cannot be written.
    """
    text = tomli_w.dumps(content)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        line = text.split("\n")[text.count("\n", 0, error.start)]
        raise SettingsError(f"{file}: cannot be written, because this is not UTF-8: {line}") from error
    with replacing(file) as temporary:
        temporary.write_bytes(encoded)
