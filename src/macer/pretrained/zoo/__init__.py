"""Trained networks that come with the package: NAME.safetensors, its card NAME.toml and its certificates NAME.tsv."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from macer.errors import UnknownName, similar_to
from macer.files.toml import read_toml, write_toml

PREFIX = "zoo:"
"""Prefix that distinguishes the name of a network from the path of a run or a file."""

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all networks of the zoo."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def is_of_zoo(target: Path | str) -> bool:
    """Return whether a target is the name of a network of the zoo, or a pattern, and not a path."""
    return str(target).startswith(PREFIX)


def matching(target: Path | str) -> list[str]:
    """Return the names of the networks that zoo:NAME selects. NAME may be a pattern such as `mnist-*-0.25`.

    Raises:
        UnknownName: there is none of this name.
    """
    pattern = str(target).removeprefix(PREFIX)
    found = [name for name in names() if fnmatchcase(name, pattern)]
    if not found:
        raise UnknownName(_no_network(pattern))
    return found


def weights_file(name: str) -> Path:
    """Return the file of the weights of NAME or zoo:NAME, as `macer.pretrained.exported` writes it.

    Raises:
        UnknownName: there is none of this name.
    """
    return _file(name, ".safetensors")


def located(recorded: str) -> Path:
    """Return the file that a record names: the path that is written there, or the weights of zoo:NAME.

    Raises:
        UnknownName: there is none of this name.
    """
    return weights_file(recorded) if is_of_zoo(recorded) else Path(recorded)


def certificates_file(name: str) -> Path:
    """Return the file of the certificates of NAME or zoo:NAME, with one line per image.

    Raises:
        UnknownName: there is none of this name.
    """
    return _file(name, ".tsv")


def card(name: str) -> dict[str, Any]:
    """Return the description of NAME or zoo:NAME.

    Returns:
        Tables: result (acr, its 95% interval, and which images), network (num_classes, shape, epoch,
        training_seconds, noisy_images), training and objective (settings), environment (command, device, versions,
        date), certification (settings, among them the digest of the weights).

    Raises:
        UnknownName: there is none of this name.
    """
    return read_toml(_file(name, ".toml"))


@contextmanager
def certification(name: Path | str) -> Iterator[Path]:
    """Lay out the certificates of NAME or zoo:NAME as a certification's directory, until the context ends.

    Yields:
        The directory.

    Raises:
        UnknownName: there is none of this name.
    """
    name = str(name).removeprefix(PREFIX)
    made = card(name)
    with TemporaryDirectory() as folder:
        directory = Path(folder, name)
        directory.mkdir()
        told = {**made["certification"], "checkpoint": f"{PREFIX}{name}", "shape": made["network"]["shape"]}
        environment = {**made["environment"], "device": made["result"]["certified_on"]}
        write_toml(directory / "settings.toml", {"certification": told, "environment": environment})
        copyfile(certificates_file(name), directory / "hard.tsv")
        yield directory


def _file(name: str, suffix: str) -> Path:
    name = name.removeprefix(PREFIX)
    if name not in names():
        raise UnknownName(_no_network(name))
    return FOLDER / f"{name}{suffix}"


def _no_network(name: str) -> str:
    return f"no network of the zoo is named {name!r}{similar_to(name, names())}; `macer zoo` lists them"
