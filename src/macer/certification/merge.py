"""Put certificates of several directories, such as those of shards, into one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macer.certification.checking import read_own_journal
from macer.certification.journals import missing_images, record_choice, write_original_mat
from macer.certification.settings import CHOICE, CertificationSettings, chosen_images
from macer.certification.shards import ignored_in_merging
from macer.files.toml import write_toml
from macer.runs.certificates import Row, merge_rows, write_journal
from macer.runs.directory import open_directory
from macer.runs.environment import command_line
from macer.runs.remembered import read_remembered, votes_file, write_remembered
from macer.runs.run import CertificationRun
from macer.runs.settings import IMAGES_DIGEST, differences, require


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
    still be growing. The settings then choose the images of all parts: of the images 0, 500, 1000, ... and
    250, 750, ..., every 250th. certificates.mat is written when no image is missing.

    Args:
        directories: made with the same settings, but for the images and what belongs to a machine; or the directory
            that holds shards, for all of them.
        out: where to; a new directory, or one made with the same settings.

    Raises:
        SettingsError: the settings differ, there are none, or a process is at work in `out`.
        RecordsError: certificates do not follow from their settings, or those of one image contradict each other.
    """
    require(len(directories) > 0, "nothing to merge")
    for each in directories:
        require(each.is_dir(), f"{each}: not a directory of certificates")
    given = [CertificationRun(directory) for directory in directories]
    runs = [run for each in given for run in ([each] if each.settings_file.exists() else each.shards or [each])]
    tables: list[Any] = [run.settings().get("certification") for run in runs]
    for run, table in zip(runs, tables, strict=True):
        require(isinstance(table, dict), f"{run} holds no certification")
    parts = [CertificationSettings.read(table, run.settings_file) for run, table in zip(runs, tables, strict=True)]
    merged = CertificationRun(out)
    there = merged.recorded("certification")
    ignored = ignored_in_merging(parts[0], filter(None, [*tables, there]))
    # Older versions wrote no digest of the images: those that have one are compared with each other all the same.
    first = next((place for place, table in enumerate(tables) if IMAGES_DIGEST in table), 0)
    for run, table in zip(runs, tables, strict=True):
        found = differences(table, tables[first], ignored=ignored)
        require(
            not found,
            f"{run} was made with other settings than {runs[first]} ({'; '.join(found)}): not to be merged",
        )
    own = {key: value for key, value in tables[first].items() if key != "shard"}
    opened = open_directory(out, {"certification": own}, ignored=ignored, defaults=CertificationSettings.defaults())
    with opened as entered:
        known = [merged] if entered else []
        earlier = [CertificationSettings.read(run.recorded("certification"), run.settings_file) for run in known]
        chosen = _joined([*parts, *earlier])
        images = {key: value for key, value in own.items() if key == IMAGES_DIGEST}  # which `out` may lack
        own = record_choice(merged, {key: chosen[key] for key in CHOICE & chosen.keys()}) | images
        environment = _environment([run.recorded("environment") for run in (*known, *runs)])
        write_toml(merged.settings_file, {"certification": own, "environment": environment})
        sources = [(merged, own), *zip(runs, tables, strict=True)]
        kinds: dict[str, dict[int, Row]] = {}
        for kind in (each.name for each in parts[0].kinds):
            journals = [(run.journal(kind), read_own_journal(run.journal(kind), kind, table)) for run, table in sources]
            rows = kinds[kind] = merge_rows(journals)
            if parts[0].remember:
                votes: dict[int, bytes] = {}
                for file, remembered in reversed(journals):  # the first of several counts, as with rows
                    votes |= read_remembered(votes_file(file), remembered)
                write_remembered(votes_file(merged.journal(kind)), rows, votes)
            write_journal(merged.journal(kind), rows)
        indices = CertificationSettings.read(own, merged.settings_file).indices
        missing = missing_images(indices, list(kinds.values()))
        if not missing:
            write_original_mat(kinds, merged.mat_file, parts[0])
    return Merged(len(indices), missing)


def _joined(parts: Sequence[CertificationSettings]) -> dict[str, int]:
    """Return start_img, num_img and skip of the sparsest regular choice that has the images of all parts."""
    wholes = [chosen_images(each.start_img, each.num_img, each.skip) for each in parts]
    start, last = min(each[0] for each in wholes), max(each[-1] for each in wholes)
    steps = [each.step for each in wholes if len(each) > 1]
    skip = math.gcd(*steps, *(each[0] - start for each in wholes)) or parts[0].skip
    return {"start_img": start, "num_img": (last - start) // skip + 1, "skip": skip}


def _environment(all_environments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the certificates depended on beside their settings; where that differed, all values as a list."""
    found: dict[str, set[str]] = {}
    for environment in all_environments:
        for key, value in environment.items():
            found.setdefault(key, set()).update(map(str, value if isinstance(value, list) else [value]))
    values = {key: sorted(each) for key, each in found.items()}
    merged: dict[str, Any] = {key: each[0] if len(each) == 1 else each for key, each in values.items()}
    started = min(values.get("started", []), default="")
    return merged | {"command": command_line(), "started": started}
