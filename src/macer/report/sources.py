"""From paths to what the page is about: certificates, how they were made, and the trainings of their networks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from macer.errors import MacerError, RecordsError
from macer.files.printable import printable
from macer.report.looks import UNKNOWN, Look, run_looks
from macer.results.reading import read_files, settings_beside
from macer.results.records import Records, distinct
from macer.results.times import Training
from macer.runs.metrics import Metrics
from macer.runs.run import CertificationRun, Run, epoch_of, read_table

_NO_RADII = "left out: certified at one radius or not at all, of which the page shows nothing (macer table does)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Records, and what lies beside their file.

    Attributes:
        records: the certificates.
        file: where they are.
        certification: the table [certification] beside them; empty for published files.
        environment: the table [environment] beside them.
        training: the training whose run they lie in; None where they lie in none.
        published: whether they are shown for comparison, behind the runs.
        look: how they are drawn.
    """

    records: Records
    file: Path
    certification: dict[str, Any]
    environment: dict[str, Any]
    training: Training | None = None
    published: bool = False
    look: Look = UNKNOWN

    @property
    def epoch(self) -> int | None:
        """The epoch after which these certificates were made; None for those of the trained network."""
        return epoch_of(self.file)

    @property
    def sound(self) -> bool:
        """Whether the noise was such that the certificates hold in floating-point arithmetic."""
        return self.certification.get("sound") is True

    @property
    def network(self) -> Path:
        """What certificates of one network share: for a run's hard and soft ones their directory, else the file."""
        own = CertificationRun(self.file.parent).journal(self.records.kind) == self.file
        return self.file.parent if own else self.file


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All that the page shows.

    Attributes:
        sources: certificates of trained networks, in the order given.
        during_training: those made between epochs, by epoch, for each run.
        warnings: what a reader must know, one line each.
    """

    sources: list[Source]
    during_training: dict[Run, list[Source]]
    warnings: list[str]

    @property
    def main(self) -> list[Source]:
        """One per network: the hard certificates where there are any."""
        hard = {source.network for source in self.sources if source.records.kind == "hard"}
        return [source for source in self.sources if source.records.kind == "hard" or source.network not in hard]

    @property
    def trainings(self) -> list[Training]:
        """The trainings, each once."""
        found = {source.training.run: source.training for source in self.sources if source.training is not None}
        return list(found.values())


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the certificates in runs' directories and files, with their settings and training curves.

    Certificates that were made between epochs are shown as part of the training, unless a run has no others.

    Raises:
        MacerError: there are no certificates, or a file cannot be read.
    """
    warnings: list[str] = []
    trainings: dict[Run, Training | None] = {}
    found: dict[tuple[Path, str], Source] = {}
    for path in paths:
        for file, records in read_files(path):
            run = Run.around(file)
            if run is not None and run not in trainings:
                trainings[run] = _training(run, warnings)
            source = source_of(file, records, None if run is None else trainings[run])
            found[file.resolve(), records.name] = source
    sources = [source for source in found.values() if source.epoch is None]
    during: dict[Run, list[Source]] = {}
    for source in found.values():
        if source.epoch is not None and source.training is not None and source.records.kind == "hard":
            during.setdefault(source.training.run, []).append(source)
    for run, each in during.items():
        each.sort(key=lambda source: source.epoch or 0)
        if not any(source.training is not None and source.training.run == run for source in sources):
            sources.append(each[-1])
            warnings.append(f"{run}: has no certificates but those made during training; the last of them are shown")
    warnings += [note for source in found.values() for note in source.records.notes]
    if sources and not (sources := with_radii(sources, warnings)):
        raise RecordsError(printable(warnings[-1]))
    names = distinct(source.records for source in sources)
    looks = run_looks([(source.network, source.records.method) for source in sources])
    sources = [
        replace(source, records=records, look=look) for source, records, look in zip(sources, names, looks, strict=True)
    ]
    return Gathered(sources=sources, during_training=during, warnings=list(map(printable, warnings)))


def with_radii(sources: Sequence[Source], warnings: list[str]) -> list[Source]:
    """Return the certificates that have radii: of others, the page's curves, ACR and differences mean nothing."""
    warnings += [f"{source.file}: {_NO_RADII}" for source in sources if source.records.at_least is not None]
    return [source for source in sources if source.records.at_least is None]


def source_of(file: Path, records: Records, training: Training | None = None, *, published: bool = False) -> Source:
    """Return records with the tables beside their file."""
    beside = settings_beside(file)
    return Source(
        records=replace(records, run=printable(records.run)),
        file=file,
        certification=read_table(beside, "certification"),
        environment=read_table(beside, "environment"),
        training=training,
        published=published,
    )


def _training(run: Run, warnings: list[str]) -> Training | None:
    curves: Metrics = {}
    try:
        curves = run.metrics()
    except MacerError as error:
        warnings.append(str(error))
    training = Training.from_file(run.settings_file, run.name, run, curves)
    if curves and training.epochs_done < training.epochs:
        done = f"{training.epochs_done} of {training.epochs}"
        warnings.append(f"{run}: training is not finished: {done} epochs are done")
    return training if training.settings else None
