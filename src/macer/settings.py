"""Settings as frozen dataclasses: their fields are the command line's options, their TOML is a run's memory."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tomli_w

from macer.errors import SettingsError
from macer.replacing import replacing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def option(default: Any, text: str) -> Any:
    """A dataclass field that also becomes an option of the command line, with `text` as its help."""
    return dataclasses.field(default=default, metadata={"help": text})


def require(condition: bool, message: str) -> None:
    """Refuse impossible settings with one line.

    Raises:
        SettingsError: the condition does not hold.
    """
    if not condition:
        raise SettingsError(message)


def from_table(cls: type, table: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls` from a TOML table.

    Raises:
        SettingsError: the table has a key that is not a field, or a value of another type than the field's default.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in table.items():
        if key not in fields:
            raise SettingsError(f"{where}: unknown setting {key!r}; known are {', '.join(fields)}")
        default = fields[key].default
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if default not in (None, dataclasses.MISSING) and type(value) is not type(default):
            raise SettingsError(f"{where}: {key} must be of type {type(default).__name__}, not {value!r}")
        arguments[key] = value
    return cls(**arguments)


def default_table(cls: type) -> dict[str, Any]:
    """The TOML table of the defaults of a dataclass's fields, of those that have one."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in defaults.items()
        if value is not None and value is not dataclasses.MISSING
    }


def to_table(settings: Any) -> dict[str, Any]:
    """The TOML table of a dataclass: its fields, without those that are None."""
    table = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in table.items() if value is not None
    }


def read_toml(file: Path) -> dict[str, Any]:
    """The contents of a TOML file.

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
    """Write a TOML file, or, where the disk is full, leave what was there.

    Raises:
        SettingsError: a text, such as a file's name or a word of the command line, is not UTF-8, as TOML has to be.
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


def differences(old: dict[str, Any], new: dict[str, Any], *, ignored: frozenset[str] = frozenset()) -> list[str]:
    """What differs between two tables of settings, each as "key: old there, new here"."""
    return [
        f"{key}: {old.get(key, 'unset')} there, {new.get(key, 'unset')} here"
        for key in sorted(old.keys() | new.keys())
        if key not in ignored and old.get(key) != new.get(key)
    ]
