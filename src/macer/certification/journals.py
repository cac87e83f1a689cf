"""The journals of a certification, one per kind of certificate, in their directory."""

from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from macer.certification.evaluation import Outcome
from macer.certification.settings import CertificationSettings
from macer.runs.certificates import Journal, Row, read_journal, write_journal
from macer.runs.directory import may_differ, open_directory, record_device
from macer.runs.mat import write_mat
from macer.runs.run import CertificationRun


class Journals:
    """The journals of a certification in its directory. Use as a context manager; nobody else writes there meanwhile.

    Entering makes them whole: a torn last line is dropped, and rows are put in the order of the images.

    Args:
        settings: what decides the certificates.
        directory: for settings.toml, one `.tsv` per kind of certificate, and certificates.mat in the end.

    Attributes:
        correct: how many of the images done are certified with the right class.

    Raises:
        SettingsError: on entering, the directory holds certificates made with other settings, or another process is at
            work there.
        RecordsError: on entering, what lies there are no certificates, or they contradict each other.
    """

    def __init__(self, settings: CertificationSettings, directory: Path) -> None:
        self.settings, self.run = settings, CertificationRun(directory)
        self.files = [self.run.journal(kind.name) for kind in settings.kinds]
        self._devices: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "Journals":
        settings = self.settings
        ignored = may_differ(settings.machine_settings, settings.dataset)
        opened = open_directory(self.run.path, settings.tables(), ignored=ignored, defaults=settings.defaults())
        with ExitStack() as stack:
            stack.enter_context(opened)
            first, *_ = sort_journals(self.files)
            self.correct = sum(row.correct for row in first.values())
            self._journals = [stack.enter_context(Journal(file)) for file in self.files]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def missing(self) -> list[int]:
        """The images to certify that a kind of certificate lacks."""
        return missing_images(self.settings, [journal.done for journal in self._journals])

    def write(self, outcome: Outcome) -> None:
        """Add an image. Its rows are on the disk when this returns."""
        if outcome.device not in self._devices:
            record_device(self.run, outcome.device)
            self._devices.add(outcome.device)
        for journal, certificate in zip(self._journals, outcome.certificates, strict=True):
            if outcome.index not in journal.done:
                journal.write(outcome.index, outcome.label, certificate, outcome.seconds)

    def finish(self) -> None:
        """Put the rows in the order of the images, and write certificates.mat."""
        kinds = sort_journals(self.files)
        names = [kind.name for kind in self.settings.kinds]
        write_original_mat(dict(zip(names, kinds, strict=True)), self.run.mat_file)


def sort_journals(files: Sequence[Path]) -> list[dict[int, Row]]:
    """Put the rows of each journal in the order of the images, and return them by image."""
    kinds = [read_journal(file) for file in files]
    for file, rows in zip(files, kinds, strict=True):
        write_journal(file, rows)
    return kinds


def missing_images(settings: CertificationSettings, kinds: Sequence[Container[int]]) -> list[int]:
    """Return the images to certify that are not among those done of every kind of certificate."""
    return [index for index in settings.indices if any(index not in done for done in kinds)]


def write_original_mat(kinds: Mapping[str, Mapping[int, Row]], file: Path) -> None:
    """Write the radii of finished journals, by kind, as the original program does: -1 where the prediction is wrong."""
    radii = {}
    for kind, rows in kinds.items():
        radii[kind] = np.array([rows[idx].radius if rows[idx].correct else -1.0 for idx in sorted(rows)])
    write_mat(file, radii)
