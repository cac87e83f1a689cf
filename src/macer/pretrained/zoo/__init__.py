"""Trained networks that come with the package: NAME.safetensors, its card NAME.toml and its certificates NAME.tsv."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from macer.errors import UnknownName
from macer.files.toml import read_toml

PREFIX = "zoo:"
"""What stands before a name where a run or a checkpoint could stand, too."""

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All networks of the zoo."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def is_of_zoo(target: Path | str) -> bool:
    """Whether a path is no path but the name of networks of the zoo."""
    return str(target).startswith(PREFIX)


def matching(target: Path | str) -> list[str]:
    """The networks that zoo:NAME stands for, where NAME may be a pattern such as `mnist-*-0.25`.

    Raises:
        UnknownName: there is none of this name.
    """
    pattern = str(target).removeprefix(PREFIX)
    found = [name for name in names() if fnmatchcase(name, pattern)]
    if not found:
        raise UnknownName(_no_network(pattern))
    return found


def weights_file(name: str) -> Path:
    """The weights of a network of the zoo, as `macer.pretrained.exported` writes them.

    Raises:
        UnknownName: there is none of this name.
    """
    return _file(name, ".safetensors")


def certificates_file(name: str) -> Path:
    """The certificates of a network of the zoo, one line an image.

    Raises:
        UnknownName: there is none of this name.
    """
    return _file(name, ".tsv")


def card(name: str) -> dict[str, Any]:
    """What is known of a network of the zoo.

    Returns:
        Tables: result (acr, its 95% interval, and which images), network (num_classes, shape, epoch,
        training_seconds), training and objective (settings), environment (command, device, versions, date),
        certification (settings, among them the digest of the weights).

    Raises:
        UnknownName: there is none of this name.
    """
    return read_toml(_file(name, ".toml"))


def _file(name: str, suffix: str) -> Path:
    if name not in names():
        raise UnknownName(_no_network(name))
    return FOLDER / f"{name}{suffix}"


def _no_network(name: str) -> str:
    return f"no network of the zoo is named {name!r}; `macer zoo` lists them"
