"""Settings as frozen dataclasses: their fields are the command line's options, their TOML is a run's memory."""

import dataclasses
from typing import Any

from macer.errors import SettingsError


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


def differences(old: dict[str, Any], new: dict[str, Any], *, ignored: frozenset[str] = frozenset()) -> list[str]:
    """What differs between two tables of settings, each as "key: old there, new here"."""
    return [
        f"{key}: {old.get(key, 'unset')} there, {new.get(key, 'unset')} here"
        for key in sorted(old.keys() | new.keys())
        if key not in ignored and old.get(key) != new.get(key)
    ]
