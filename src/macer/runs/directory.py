"""The directory of a run: its settings and surroundings in one TOML file, its results beside it."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import macer
from macer.compute.device import describe_device
from macer.errors import SettingsError
from macer.files.toml import read_toml, write_toml
from macer.runs.settings import current_names, differences

try:
    import fcntl
except ImportError:  # not on Windows, where nothing refuses a second process
    fcntl = None

_FILE = "settings.toml"


Tables = dict[str, dict[str, Any]]


def open_directory(
    directory: Path,
    tables: Tables,
    *,
    ignored: frozenset[str],
    device: torch.device | None = None,
    defaults: Tables | None = None,
) -> bool:
    """Create a run's directory with its settings, or enter one that holds the same.

    Args:
        directory: where.
        tables: the settings that decide the result, by TOML table.
        ignored: settings that may differ from those there.
        device: what computes, for the record; None where that is known later (see `record_device`).
        defaults: what a setting is taken to be where an earlier version, which did not know it, wrote the directory.

    Returns:
        Whether the directory held these settings already, so that work may go on there.

    Raises:
        SettingsError: it holds other settings, or something that is no run.
        OSError: it cannot be written.
    """
    file = directory / _FILE
    if file.exists():
        old = read_toml(file)
        found = [
            text
            for name, table in tables.items()
            for text in differences(
                (defaults or {}).get(name, {}) | current_names(old.get(name, {})), table, ignored=ignored
            )
        ]
        if found:
            raise SettingsError(
                f"{directory} holds a run with other settings ({'; '.join(found)}): choose another directory, or "
                "the same settings to go on with it"
            )
        return True
    if directory.exists() and not directory.is_dir():
        raise SettingsError(f"{directory} is not a directory")
    directory.mkdir(parents=True, exist_ok=True)
    write_toml(file, {**tables, "environment": environment(device)})
    return False


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory: two that write one journal or checkpoint would destroy it.

    The lock is the operating system's and leaves no file; it ends with the process, however that ends.

    Raises:
        SettingsError: another process is at work there.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(f"{directory}: another process is at work there; wait for it, or stop it") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def may_differ(machine_settings: frozenset[str], dataset: str) -> frozenset[str]:
    """The settings that may differ when a run goes on. Only its place tells one folder of pictures from another."""
    return machine_settings - {"root"} if dataset == "folder" else machine_settings


def read_settings(directory: Path) -> dict[str, Any]:
    """The tables that `open_directory` wrote.

    Raises:
        SettingsError: there are none, or they cannot be read.
    """
    return read_toml(directory / _FILE)


def record_device(directory: Path, device: str) -> None:
    """Add a device to those in a directory's settings.toml that computed its results, unless it is there already."""
    tables = read_settings(directory)
    environment = tables.setdefault("environment", {})
    known = environment.get("device", [])
    known = known if isinstance(known, list) else [known]
    if device not in known:
        environment["device"] = [*known, device] if known else device
        write_toml(directory / _FILE, tables)


def environment(device: torch.device | None) -> dict[str, str]:
    """What a result depends on beside its settings: versions, device, commit, command line and date."""
    found = {
        "macer": macer.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **({} if device is None else {"device": describe_device(device)}),
        "threads": str(torch.get_num_threads()),
        "command": " ".join(["macer", *sys.argv[1:]]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    commit = _git_commit()
    return found | ({"git_commit": commit} if commit else {})


def _tracked(folder: Path) -> bool:
    """Whether git follows this package's files, which a virtual environment inside some repository does not make so."""
    command = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "directory.py"]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, marked where files have been changed since."""
    here = Path(__file__).parent
    try:
        if not _tracked(here):
            return None
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
