"""Read and write TOML files."""

import sys
from pathlib import Path
from typing import Any

import tomli_w

from macer.errors import SettingsError
from macer.files.replacing import replacing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        SettingsError: the file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not TOML: {error}") from error


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
