"""Put certificates of several directories, such as those of shards, into one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macer.certification.journals import missing_images, write_original_mat
from macer.certification.settings import CertificationSettings
from macer.files.toml import write_toml
from macer.runs.certificates import Row, merge_journals, write_journal
from macer.runs.directory import may_differ, open_directory
from macer.runs.run import CertificationRun
from macer.runs.settings import differences, from_table, require


@dataclass(frozen=True)
class Merged:
    """What a merged directory holds.

    Attributes:
        total: how many images the settings choose.
        missing: the indices of those that are not certified yet.
    """

    total: int
    missing: list[int]


def merge_directories(directories: Sequence[Path], out: Path) -> Merged:
    """Put the certificates of several directories into one, which is then the same as that of a single run.

    Certificates that are already there, or in several directories, count once. The sources stay as they are, and may
    still be growing. certificates.mat is written when no image is missing.

    Args:
        directories: made with the same settings, but for the shard and what belongs to a machine.
        out: where to; a new directory, or one made with the same settings.

    Raises:
        SettingsError: the settings differ, there are none, or a process is at work in `out`.
        RecordsError: certificates of one image contradict each other.
    """
    require(len(directories) > 0, "nothing to merge")
    runs = [CertificationRun(directory) for directory in directories]
    tables = [run.settings() for run in runs]
    for directory, each in zip(directories, tables, strict=True):
        require("certification" in each, f"{directory} holds no certification")
    table = {key: value for key, value in tables[0]["certification"].items() if key != "shard"}
    settings: CertificationSettings = from_table(CertificationSettings, table, str(runs[0].settings_file))
    ignored = may_differ(settings.machine_settings, settings.dataset)
    for directory, each in zip(directories, tables, strict=True):
        found = differences(each["certification"], table, ignored=ignored | {"shard"})
        require(
            not found,
            f"{directory} was made with other settings than {directories[0]} ({'; '.join(found)}): not to be merged",
        )
    merged = CertificationRun(out)
    opened = open_directory(out, {"certification": table}, ignored=ignored, defaults=CertificationSettings.defaults())
    with opened as entered:
        known = [merged.settings()] if entered else []
        environment = _environment([each.get("environment", {}) for each in (*known, *tables)])
        write_toml(merged.settings_file, {"certification": table, "environment": environment})
        kinds: dict[str, dict[int, Row]] = {}
        for kind in settings.kinds:
            files = [run.journal(kind.name) for run in (merged, *runs)]
            kinds[kind.name] = merge_journals(files)
            write_journal(files[0], kinds[kind.name])
        missing = missing_images(settings, list(kinds.values()))
        if not missing:
            write_original_mat(kinds, merged.mat_file)
    return Merged(len(settings.indices), missing)


def _environment(all_environments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the certificates depended on beside their settings; where that differed, all values as a list."""
    found: dict[str, set[str]] = {}
    for environment in all_environments:
        for key, value in environment.items():
            found.setdefault(key, set()).update(value if isinstance(value, list) else [value])
    values = {key: sorted(each) for key, each in found.items()}
    merged: dict[str, Any] = {key: each[0] if len(each) == 1 else each for key, each in values.items()}
    return merged | {"command": " ".join(["macer", *sys.argv[1:]]), "started": min(values.get("started", [""]))}
