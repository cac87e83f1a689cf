"""What the shards of a certification share: the first one to start decides it for all."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from macer.certification.settings import CHOICE, CertificationSettings, parse_shard
from macer.compute.seeding import seed_from_system
from macer.files.toml import read_toml, write_toml
from macer.runs.run import CertificationRun
from macer.runs.settings import IMAGES_DIGEST, differences, require


def check_shards(settings: CertificationSettings, directory: Path) -> None:
    """Refuse to certify the images of shards that are there once more: as a whole, or divided otherwise.

    Raises:
        SettingsError: that would happen.
    """
    run = CertificationRun(directory)
    if settings.shard is None:
        require(
            run.settings_file.exists() or not run.shards,
            f"{run} holds shards: merge them (macer merge {run}/shard-* --out OTHER), give `shard`, or choose another "
            "directory",
        )
        return
    _, parts = parse_shard(settings.shard)
    for other in CertificationRun(directory.parent).shards:
        there = other.path.name.rpartition("-")[2]
        require(
            there == str(parts),
            f"{other} is there, and shard {settings.shard} divides the images otherwise: give `shard=I/{there}`, or "
            "choose another directory",
        )


def check_mergeable(settings: CertificationSettings, directory: Path) -> None:
    """Refuse a shard with other settings than one beside it, before time is spent on what cannot be merged.

    Shards that were begun may go on to other images, one after the other; a new one has those of the others.

    Args:
        settings: of the shard, with its seed and precision.
        directory: of its certificates.

    Raises:
        SettingsError: the settings differ.
    """
    run, others = CertificationRun(directory), CertificationRun(directory.parent).shards
    other = next((each for each in others if each != run), None)
    if settings.shard is None or other is None:
        return
    tables = other.recorded("certification"), settings.tables()["certification"]
    ignored = ignored_in_merging(settings, tables) - (frozenset() if run in others else CHOICE - {"shard"})
    found = differences(*tables, ignored=ignored)
    require(
        not found,
        f"{other} has other settings ({'; '.join(found)}), and shards are merged: give the same ones, or choose "
        "another directory",
    )


def ignored_in_merging(settings: CertificationSettings, tables: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the settings that may differ between certificates that go on or are merged.

    Older versions wrote no digest of the images. Where a table lacks it, a folder of pictures is known by its place.

    Args:
        settings: of these certificates, in what they share.
        tables: the tables [certification] of all of them.
    """
    by_place = settings.dataset == "folder" and not all(IMAGES_DIGEST in table for table in tables)
    return (settings.machine_settings - ({"root"} if by_place else set())) | CHOICE


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
