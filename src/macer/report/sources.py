"""From paths to what the page is about: certificates, how they were made, and the trainings behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from macer.errors import MacerError, RecordsError
from macer.report.looks import UNKNOWN, Look, run_looks
from macer.results.reading import epoch_of, read_files, read_table, settings_beside
from macer.results.records import Records, distinct
from macer.results.tables import printable
from macer.results.times import curve_lines


@dataclass(frozen=True, kw_only=True)
class Training:
    """The run in which a network was trained.

    Attributes:
        directory: the run's.
        settings: its table [training].
        objective: its table [objective].
        environment: its table [environment].
        curves: the columns of metrics.tsv by their names, "epoch" first; empty where there is none.
    """

    directory: Path
    settings: dict[str, Any]
    objective: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, Float64[np.ndarray, " epochs"]]

    @property
    def name(self) -> str:
        """The directory's name."""
        return printable(self.directory.resolve().name)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Records, and what stands beside their file.

    Attributes:
        records: the certificates.
        file: where they are.
        certification: the table [certification] beside them; empty for published files.
        environment: the table [environment] beside them.
        training: the run that they lie in; None where they lie in none.
        published: whether they are shown to compare with, behind the runs.
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
        """The epoch after which these certificates were made, if training was not over then."""
        return epoch_of(self.file)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """All that the page shows.

    Attributes:
        sources: certificates of finished networks, in the order given.
        during_training: those made between epochs, by epoch, for each run's directory.
        warnings: what a reader must know, a line each.
    """

    sources: list[Source]
    during_training: dict[Path, list[Source]]
    warnings: list[str]

    @property
    def main(self) -> list[Source]:
        """One for each certification: the hard certificates where there are any."""
        return [source for source in self.sources if source.file.stem != "soft" or not self._has_hard(source)]

    def _has_hard(self, soft: Source) -> bool:
        return any(source.file == soft.file.with_stem("hard") for source in self.sources)

    @property
    def trainings(self) -> list[Training]:
        """The runs, each once."""
        found = {source.training.directory: source.training for source in self.sources if source.training is not None}
        return list(found.values())


def gather(paths: Sequence[Path]) -> Gathered:
    """The certificates in runs' directories and files, with their settings and training curves.

    Certificates that were made between epochs are shown as part of the training, unless a run has no others.

    Raises:
        MacerError: there are no certificates, or a file cannot be read.
    """
    warnings: list[str] = []
    trainings: dict[Path, Training | None] = {}
    found: dict[tuple[Path, str], Source] = {}
    for path in paths:
        for file, records in read_files(path):
            run = _run_of(file)
            if run is not None and run not in trainings:
                trainings[run] = _training(run, warnings)
            source = source_of(file, records, None if run is None else trainings[run])
            found[file.resolve(), records.name] = source
    sources = [source for source in found.values() if source.epoch is None]
    during: dict[Path, list[Source]] = {}
    for source in found.values():
        if source.epoch is not None and source.training is not None and source.file.stem == "hard":
            during.setdefault(source.training.directory, []).append(source)
    for run, each in during.items():
        each.sort(key=lambda source: source.epoch or 0)
        if not any(source.training is not None and source.training.directory == run for source in sources):
            sources.append(each[-1])
            warnings.append(f"{run}: has no certificates but those made during training; the last of them are shown")
    warnings += [note for source in found.values() for note in source.records.notes]
    names = distinct([source.records for source in sources])
    looks = run_looks((_network(source), source.records.method) for source in sources)
    sources = [
        replace(source, records=records, look=look) for source, records, look in zip(sources, names, looks, strict=True)
    ]
    return Gathered(sources=sources, during_training=during, warnings=list(map(printable, warnings)))


def _network(source: Source) -> Path:
    """What certificates of one network share: the directory of a run's hard and soft ones; of others the file."""
    return source.file.parent if source.file.stem in ("hard", "soft") else source.file


def source_of(file: Path, records: Records, training: Training | None = None, *, published: bool = False) -> Source:
    """Records with the tables that stand beside their file."""
    return Source(
        records=replace(records, run=printable(records.run)),
        file=file,
        certification=read_table(settings_beside(file), "certification", {}),
        environment=read_table(file.with_name("settings.toml"), "environment", {}),
        training=training,
        published=published,
    )


def _run_of(file: Path) -> Path | None:
    """The directory of the training run whose `certificates/` hold a file."""
    for parent in [*file.parents, *file.resolve().parents]:
        run = parent.parent
        if parent.name == "certificates" and (run / "settings.toml").is_file():
            return run
    return None


def _training(run: Path, warnings: list[str]) -> Training | None:
    settings = run / "settings.toml"
    tables = [read_table(settings, name, {}) for name in ("training", "objective", "environment")]
    if not tables[0]:
        return None
    curves: dict[str, Float64[np.ndarray, " epochs"]] = {}
    try:
        curves = read_curves(run / "metrics.tsv")
    except MacerError as error:
        warnings.append(str(error))
    epochs, done = tables[0].get("epochs"), len(curves.get("epoch", ()))
    if curves and isinstance(epochs, int) and done < epochs:
        warnings.append(f"{run}: training is not finished: {done} of {epochs} epochs are done")
    return Training(directory=run, settings=tables[0], objective=tables[1], environment=tables[2], curves=curves)


def read_curves(file: Path) -> dict[str, Float64[np.ndarray, " epochs"]]:
    """The columns of a metrics.tsv.

    Raises:
        RecordsError: the file cannot be read, or is not one line of finite numbers for each epoch from 1 on.
    """
    names, lines = curve_lines(file)
    if names[0] != "epoch" or len(set(names)) < len(names):
        raise RecordsError(f"{file}: no training curve (its columns are epoch and others, each of its own name)")
    rows = []
    for epoch, line in enumerate(lines, start=1):
        try:
            row = [float(cell) for cell in line.split("\t")]
        except ValueError:
            row = []
        if len(row) != len(names) or row[0] != epoch or not all(map(math.isfinite, row)):
            raise RecordsError(f"{file}, line {epoch + 1}: not {len(names)} finite numbers of epoch {epoch}")
        rows.append(row)
    if not rows:
        raise RecordsError(f"{file}: no epoch is done")
    return dict(zip(names, np.array(rows).T, strict=True))
