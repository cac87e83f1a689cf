"""The journals of a certification, one per kind of certificate, in their directory."""

from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from macer.certification.checking import read_own_journal
from macer.certification.evaluation import Outcome
from macer.certification.settings import CHOICE, CertificationSettings, fingerprint
from macer.certification.shards import ignored_in_merging
from macer.data import LabelledImages
from macer.errors import RecordsError
from macer.files.appending import LinesFile
from macer.files.toml import write_toml
from macer.runs.certificates import Journal, Row, line_of, write_journal
from macer.runs.directory import open_directory, record_device
from macer.runs.mat import write_mat
from macer.runs.remembered import (
    open_remembered,
    read_remembered,
    remembered_line,
    votes_file,
    write_remembered,
)
from macer.runs.run import CertificationRun
from macer.runs.settings import require
from macer.smoothing.images import image_digest

_LOOKED_AT = 1000
"""How many of the images that were certified before are compared with the data when a run goes on."""


class Journals:
    """The journals of a certification in its directory. Use as a context manager; nobody else writes there meanwhile.

    Entering makes them whole: a torn last line is dropped, and rows are put in the order of the images. The directory
    may hold certificates of other images made with the same settings; these stay.

    Args:
        settings: what decides the certificates.
        directory: for settings.toml, one `.tsv` per kind of certificate, and certificates.mat in the end.
        named: whether the images have names.

    Attributes:
        correct: how many of the images done are certified with the right class.

    Raises:
        SettingsError: on entering, the directory holds certificates made with other settings or without any, or another
            process is at work there.
        RecordsError: on entering, what lies there are no certificates, they do not follow from the settings, or they
            contradict each other.
    """

    def __init__(self, settings: CertificationSettings, directory: Path, *, named: bool = False) -> None:
        self._named = named
        self.settings, self.run = settings, CertificationRun(directory)
        self.files = {kind.name: self.run.journal(kind.name) for kind in settings.kinds}
        self._devices: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "Journals":
        settings = self.settings
        tables = settings.tables()["certification"], self.run.recorded("certification")
        ignored = ignored_in_merging(settings, filter(None, tables))
        _check_epoch(self.run, settings)
        opened = open_directory(self.run.path, settings.tables(), ignored=ignored, defaults=settings.defaults())
        with ExitStack() as stack:
            stack.enter_context(opened)
            self._table = record_choice(self.run, settings.tables()["certification"])
            self._made_by = fingerprint(self._table)
            kinds = self._sorted()
            first, *_ = kinds.values()
            self.correct = sum(row.correct for idx, row in first.items() if idx in settings.indices)
            self._journals = [stack.enter_context(Journal(file, named=self._named)) for file in self.files.values()]
            self._votes: LinesFile | None = None
            if settings.remember:
                (journal,) = self._journals
                self._votes = open_remembered(votes_file(journal.file))
                stack.callback(self._votes.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def missing(self) -> list[int]:
        """The images to certify that a kind of certificate lacks."""
        return missing_images(self.settings.indices, [journal.done for journal in self._journals])

    def check_images(self, images: LabelledImages) -> None:
        """Refuse to go on with other images than those that were certified: at most 1,000 of these are looked at.

        Raises:
            RecordsError: an image or its label is not the one of its row.
        """
        for journal in self._journals:
            step = -(-len(journal.done) // _LOOKED_AT) or 1
            for idx in sorted(journal.done)[::step]:
                check_image(journal.file, journal.done[idx], images)

    def write(self, outcome: Outcome, file: str | None = None) -> None:
        """Add an image, given with its name. Its rows are on the disk when this returns."""
        if outcome.device not in self._devices:
            record_device(self.run, outcome.device)
            self._devices.add(outcome.device)
        rows = outcome.rows(self._made_by, file)
        for journal, certificate, row in zip(self._journals, outcome.certificates, rows, strict=True):
            if row.idx not in journal.done:
                if self._votes is not None and not certificate.abstained:
                    assert certificate.votes is not None
                    self._votes.append(remembered_line(row, certificate.votes))
                journal.write(row)

    def finish(self) -> None:
        """Put the rows in the order of the images, and write certificates.mat where it can say what they are."""
        write_original_mat(self._sorted(), self.run.mat_file, self.settings)

    def _sorted(self) -> dict[str, dict[int, Row]]:
        """Put the rows of each journal in the order of the images, and return them by kind and image."""
        kinds = {kind: read_own_journal(file, kind, self._table) for kind, file in self.files.items()}
        for kind, file in self.files.items():
            write_journal(file, kinds[kind])
            if self.settings.remember:
                votes = read_remembered(votes_file(file), kinds[kind])
                write_remembered(votes_file(file), kinds[kind], votes)
        return kinds


def _check_epoch(run: CertificationRun, settings: CertificationSettings) -> None:
    """Refuse a directory that holds certificates of the same training's network at an earlier epoch.

    Raises:
        SettingsError: it does.
        RecordsError: its settings have an impossible epoch.
    """
    there = run.recorded("certification", {"epoch": int})
    earlier = "epoch" in there and there["epoch"] < (settings.epoch or 0)
    require(
        not earlier or there.get("digest") == settings.digest,
        f"{run} holds certificates of the network after epoch {there.get('epoch')}, and it was trained on to epoch "
        f"{settings.epoch}: choose another directory, or delete these",
    )


def record_choice(run: CertificationRun, table: Mapping[str, Any]) -> dict[str, Any]:
    """Write to a certification's settings which images are now to be certified.

    Args:
        run: its settings exist.
        table: the table [certification] of settings that differ from these in nothing that decides a certificate.

    Returns:
        The table as it is in the settings now: what else it says stays as it was.
    """
    tables = run.settings()
    kept = {key: value for key, value in tables["certification"].items() if key not in CHOICE}
    chosen = kept | {key: value for key, value in table.items() if key in CHOICE}
    if chosen != tables["certification"]:
        write_toml(run.settings_file, {**tables, "certification": chosen})
    return chosen


def check_image(file: Path, row: Row, images: LabelledImages) -> None:
    """Refuse an image that is not the one of a row.

    Raises:
        RecordsError: the image or its label is another one, or there is none; the message names line and column.
    """
    if row.idx >= len(images):
        where = line_of(file, row.idx)
        raise RecordsError(f"{where}, column idx: there is no image {row.idx} in {images.name} {images.split}")
    image, label = images[row.idx]
    for column, there, here in (("image", row.image, image_digest(image)), ("label", row.label, label)):
        if there != here:
            raise RecordsError(
                f"{line_of(file, row.idx)}, column {column}: {there} was certified, but image {row.idx} of "
                f"{images.name} {images.split} has {here}: the data are not those that were certified"
            )


def check_rounding(run: CertificationRun, device: str) -> None:
    """Refuse to evaluate a network in 16 bits again on another model of GPU, or on a CPU in place of a GPU."""
    environment = run.recorded("environment", {"device": str | list})
    recorded = environment.get("device", device)
    devices = [device, *([recorded] if isinstance(recorded, str) else map(str, recorded))]
    here, *there = ["cpu" if each.partition(" ")[0] == "cpu" else each for each in devices]
    models = sorted(set(there))
    require(
        models == [here],
        f"{run} was made in 16 bits on {' and '.join(models)}, and {here} rounds otherwise: verify it "
        + ("there" if len(models) == 1 else "with no images to evaluate, which checks the arithmetic"),
    )


def missing_images(indices: Sequence[int], kinds: Sequence[Container[int]]) -> list[int]:
    """Return the images to certify that are not among those done of every kind of certificate."""
    return [index for index in indices if any(index not in done for done in kinds)]


def write_original_mat(kinds: Mapping[str, Mapping[int, Row]], file: Path, settings: CertificationSettings) -> None:
    """Write the radii of finished journals, by kind, as the original program does: -1 where the prediction is wrong.

    The images' indices are written, too, because the settings beside the file may soon choose others. Nothing is
    written of images that were certified at one radius or not at all: that would be read as the largest proved.
    """
    if settings.at_least is not None:
        return
    radii = {}
    for kind, rows in kinds.items():
        radii[kind] = np.array([rows[idx].radius if rows[idx].correct else -1.0 for idx in sorted(rows)])
    first, *others = map(sorted, kinds.values())
    write_mat(file, radii, np.array(first) if all(other == first for other in others) else None)
