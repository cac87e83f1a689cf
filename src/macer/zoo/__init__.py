"""Trained networks that come with the package: NAME.safetensors, its card NAME.toml and its certificates NAME.tsv."""

from pathlib import Path
from typing import Any

from macer.errors import SettingsError
from macer.settings import read_toml

PREFIX = "zoo:"
"""What stands before a name where a run or a checkpoint could stand, too."""

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All networks of the zoo."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def weights_file(name: str) -> Path:
    """The weights of a network of the zoo, as `macer.exported` writes them.

    Raises:
        SettingsError: there is none of this name.
    """
    return _file(name, ".safetensors")


def certificates_file(name: str) -> Path:
    """The certificates of a network of the zoo, one line an image.

    Raises:
        SettingsError: there is none of this name.
    """
    return _file(name, ".tsv")


def card(name: str) -> dict[str, Any]:
    """What is known of a network of the zoo.

    Returns:
        Tables: result (acr, its 95% interval, and which images), network (num_classes, shape, epoch,
        training_seconds), training and objective (settings), environment (command, device, versions, date),
        certification (settings, among them the digest of the weights).

    Raises:
        SettingsError: there is none of this name.
    """
    return read_toml(_file(name, ".toml"))


def _file(name: str, suffix: str) -> Path:
    if name not in names():
        raise SettingsError(f"no network of the zoo is named {name!r}; `macer zoo` lists them")
    return FOLDER / f"{name}{suffix}"
