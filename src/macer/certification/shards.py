"""What the shards of a certification share: the first one to start decides it for all."""

import os
from pathlib import Path
from typing import Any

from macer.certification.settings import CertificationSettings, parse_shard
from macer.compute.seeding import seed_from_system
from macer.files.toml import read_toml, write_toml
from macer.runs.run import CertificationRun
from macer.runs.settings import require


def check_shards(settings: CertificationSettings, directory: Path) -> None:
    """Refuse to certify the images of shards that are there once more: as a whole, or divided otherwise.

    Raises:
        SettingsError: that would happen.
    """
    run = CertificationRun(directory)
    if settings.shard is None:
        require(
            run.settings_file.exists() or not run.shards,
            f"{run} holds shards: merge them (macer merge {run}/shard-* --out OTHER), give --shard, or choose another "
            "directory",
        )
        return
    _, parts = parse_shard(settings.shard)
    for other in CertificationRun(directory.parent).shards:
        there = other.path.name.rpartition("-")[2]
        require(
            there == str(parts),
            f"{other} is there, and shard {settings.shard} divides the images otherwise: give --shard I/{there}, or "
            "choose another directory",
        )


def of_the_first(file: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Write a table to a file unless another shard did so before; return what is there then."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{os.getpid()}-{seed_from_system()}")
        write_toml(own, table)
        try:
            os.link(own, file)  # a whole file at once, and only one
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return read_toml(file)
