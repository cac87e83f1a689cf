"""Entering the directory of a run: it holds the same settings or none yet, and no other process works there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from macer.errors import SettingsError
from macer.files.locking import locked
from macer.files.toml import write_toml
from macer.runs.certificates import KINDS
from macer.runs.environment import environment
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import differences

Tables = dict[str, dict[str, Any]]


@contextmanager
def open_directory(
    directory: Path,
    tables: Tables,
    *,
    ignored: frozenset[str],
    device: torch.device | None = None,
    defaults: Tables | None = None,
) -> Iterator[bool]:
    """Create a run's directory with its settings, or enter one that holds the same, and keep other processes out.

    Two processes that write one journal or checkpoint would destroy it. The lock is the operating system's and leaves
    no file; it ends with the context or with the process.

    Args:
        directory: the directory of the run.
        tables: the settings that decide the result, by TOML table.
        ignored: settings that may differ from those in the directory.
        device: what computes, for the record; None if that is recorded later (see `record_device`).
        defaults: the values of settings that the version which wrote the directory may not have had.

    Yields:
        Whether the directory held these settings already, so that its work goes on.

    Raises:
        SettingsError: it holds other settings, or results without any; it is a file; or another process is at work
            there.
        OSError: it cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise SettingsError(f"{directory} is not a directory")
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        run = Run(directory)
        entered = run.settings_file.exists()
        if entered:
            _check_same(run, tables, defaults or {}, ignored)
        else:
            _check_empty(run)
            write_toml(run.settings_file, {**tables, "environment": environment(device)})
        yield entered


def record_device(run: Run | CertificationRun, device: str) -> None:
    """Add a device to those that computed a run's results, unless it is recorded already."""
    tables = run.settings()
    environment = tables.setdefault("environment", {})
    known = environment.get("device", [])
    known = known if isinstance(known, list) else [known]
    if device not in known:
        environment["device"] = [*known, device] if known else device
        write_toml(run.settings_file, tables)


def _check_empty(run: Run) -> None:
    """Refuse results without settings: nobody knows what made them."""
    journals = [CertificationRun(run.path).journal(kind) for kind in KINDS]
    found = [file for file in (*journals, run.metrics_file, run.checkpoint_file) if file.exists()]
    if found:
        raise SettingsError(
            f"{found[0]} is there without {run.settings_file}, which says what made it: choose another directory, or "
            "put that file back"
        )


def _check_same(run: Run, tables: Tables, defaults: Tables, ignored: frozenset[str]) -> None:
    there = run.settings()
    found = [
        text
        for name, table in tables.items()
        for text in differences(defaults.get(name, {}) | there.get(name, {}), table, ignored=ignored)
    ]
    if found:
        by_name = ":" not in tables.get("training", {}).get("network", ":")  # a module has its weights already
        weights = f"; in another directory, `init={run}` starts from its weights" if by_name else ""
        raise SettingsError(
            f"{run} was made with other settings ({'; '.join(found)}): choose another directory, or the same "
            f"settings to go on with it{weights}"
        )
