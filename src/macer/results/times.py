"""What training took: from the files of runs to the paper's table of training times."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from macer.errors import RecordsError
from macer.files.printable import printable
from macer.objectives import method_of
from macer.pretrained import zoo
from macer.results.metrics import average_certified_radius
from macer.results.reading import read_records
from macer.results.records import Records, method_name, method_order
from macer.results.tables import Table, acr_cell, alike, best_cells, notes_on, rows_of_groups, split_facts
from macer.runs.metrics import Metrics
from macer.runs.run import Run, read_table


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network was trained, as the files of its run record it.

    Attributes:
        name: the name of the run, or of the network in the zoo.
        run: its directory; of a network of the zoo only what it is called on the command line.
        settings: the table [training], under today's names.
        objective: the table [objective], under today's names.
        environment: the table [environment].
        curves: the columns of the metrics file; empty where there is none.
        notes: what a reader must know.
    """

    name: str
    run: Run
    settings: dict[str, Any]
    objective: dict[str, Any]
    environment: dict[str, Any]
    curves: Metrics
    notes: tuple[str, ...] = ()

    @classmethod
    def from_file(cls, file: Path, name: str, run: Run, curves: Metrics) -> "Training":
        """Read the three tables of a settings file or of a card of the zoo.

        Raises:
            RecordsError: a value has an impossible type.
            SettingsError: the file cannot be read.
        """
        return cls(
            name=printable(name),
            run=run,
            settings=read_table(file, "training", {"dataset": str, "network": str, "epochs": int}),
            objective=read_table(file, "objective", {"name": str, "sigma": (float, int)}),
            environment=read_table(file, "environment", {"device": str, "threads": str}),
            curves=curves,
        )

    def beside(self, certified: Records | None, certification: Mapping[str, Any]) -> "Trained":
        """Return the training with the certificates of its network, or with none if they are of an earlier epoch.

        Args:
            certified: the certificates.
            certification: the table [certification] beside them.
        """
        epoch = certification.get("epoch")
        if epoch is None or max(self.curves.get("epoch", ()), default=0) <= epoch:
            return self, certified
        note = f"{self.name}: its certificates, of the network after epoch {epoch}, are left out"
        return replace(self, notes=(*self.notes, note)), None

    @property
    def epochs_done(self) -> int:
        """The number of epochs that are finished."""
        return len(next(iter(self.curves.values()), ()))

    @property
    def epochs(self) -> int:
        """The number of epochs that the settings ask for."""
        return self.settings.get("epochs", self.epochs_done) - self.settings.get("start_epoch", 0)

    @property
    def device(self) -> str:
        """What computed, in words; empty where it is not recorded."""
        device, threads = (str(self.environment.get(key, "")) for key in ("device", "threads"))
        return f"{device}, threads: {threads}" if device.startswith("cpu") and threads else device


TIMES = (
    *("seconds per epoch", "epochs", "hours", "million noisy images"),
    *("hours certifying", "ACR [95%]", "ACR per hour"),
)
"""The titles of the table's columns of numbers."""

Trained = tuple[Training, Records | None]
"""A training, and certificates of its network."""


def read_times(directory: Path) -> Trained:
    """Read the training in a run's directory, and the network's hard certificates where there are any.

    Certificates of the network at an earlier epoch are left out, with a note.

    Raises:
        RecordsError: it is no run, no epoch is done, or one of its files cannot be read.
    """
    run = Run(directory)
    if not run.settings_file.is_file():
        raise RecordsError(f"{directory}: not the directory of a training run (no {run.settings_file.name})")
    curves = run.metrics()
    if "seconds" not in curves or not np.all(curves["seconds"] >= 0):
        raise RecordsError(f"{run.metrics_file}: no column of seconds, or negative ones")
    training = Training.from_file(run.settings_file, run.name, run, curves)
    hard = run.certification.journal("hard")
    certified = read_records(hard)[0] if hard.is_file() else None
    return training.beside(certified, run.certification.recorded("certification", {"epoch": int}))


def read_zoo_times(name: str) -> Trained:
    """Read the training of a network of the zoo. Its card records sums over all epochs.

    Raises:
        SettingsError: there is no network of this name.
    """
    made = zoo.card(name)["network"]
    sums = {"seconds": made["training_seconds"], "noisy_images": made.get("noisy_images")}  # older cards lack these
    curves = {curve: np.full(made["epoch"], each / made["epoch"]) for curve, each in sums.items() if each is not None}
    place, card = Path(f"{zoo.PREFIX}{name}"), zoo.certificates_file(name).with_suffix(".toml")
    return Training.from_file(card, name, Run(place), curves), read_records(place)[0]


def times_table(trained: Sequence[Trained]) -> Table:
    """Return time, noisy images and ACR: one row per network, ordered by data set, network, sigma and method.

    The best of one data set, network and sigma is marked: the times if one device took them all, ACR if the
    certificates are `alike`. Hours of training do not include certification between epochs.
    """
    trained = sorted(trained, key=lambda pair: (*_group(pair), method_order(method_of(pair[0].objective))))
    shared, differing = split_facts([_facts(*pair) for pair in trained])
    header = ("", *differing, *TIMES)
    rows = tuple(tuple(map(printable, _row(*pair, differing))) for pair in trained)
    groups = [list(group) for _, group in groupby(trained, key=_group)]
    positions, breaks = rows_of_groups(groups)
    best, column = set(), header.index
    for group, places in zip(groups, positions, strict=True):
        if len({training.device for training, _ in group}) == 1:
            best |= best_cells(rows, places, (column("seconds per epoch"), column("hours")), min)
        certified = [records for _, records in group if records is not None]
        if len(certified) == len(group) and alike(certified):
            best |= best_cells(rows, places, (column("ACR [95%]"),), max)
    return Table(header, rows, shared, _notes(trained), frozenset(best), breaks)


def _group(pair: Trained) -> tuple[Any, ...]:
    """Return what networks must share to be compared."""
    training, _ = pair
    sigma = training.objective.get("sigma", math.inf)
    return training.settings.get("dataset", ""), training.settings.get("network", ""), sigma


def _facts(training: Training, certified: Records | None) -> dict[str, str]:
    n = None if certified is None else certified.n
    sigma = training.objective.get("sigma")
    return {
        "method": method_name(method_of(training.objective)),
        "data": training.settings.get("dataset", "") if certified is None else certified.data,
        "network": training.settings.get("network", ""),
        "sigma": "" if sigma is None else f"{sigma:g}",
        "device": training.device,
        "images": "" if certified is None else certified.images,
        "n": "" if n is None else f"{n:,}",
    }


def _row(training: Training, certified: Records | None, differing: list[str]) -> tuple[str, ...]:
    facts, done = _facts(training, certified), training.epochs_done
    hours = float(training.curves["seconds"].sum()) / 3600
    noisy = training.curves.get("noisy_images")
    seconds = None if certified is None else certified.seconds
    whole = None if certified is None or certified.at_least is not None else certified
    acr = None if whole is None or hours == 0 else average_certified_radius(whole).value / hours
    return (
        training.name if certified is None else certified.name,
        *(facts[name] for name in differing),
        _time(float(training.curves["seconds"].mean())),
        str(done) if done >= training.epochs else f"{done} of {training.epochs}",
        _time(hours),
        "" if noisy is None else f"{noisy.sum() / 1e6:.3g}",
        "" if seconds is None else _time(float(seconds.sum()) / 3600),
        "" if certified is None else acr_cell(certified),
        "" if acr is None else f"{acr:.3g}" if acr < 1000 else f"{acr:,.0f}",
    )


def _time(value: float) -> str:
    """Return two digits behind the point, or more where those would say little."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _notes(trained: Sequence[Trained]) -> tuple[str, ...]:
    unfinished = [training.name for training, _ in trained if training.epochs_done < training.epochs]
    notes = [f"{name}: training is not finished" for name in dict.fromkeys(unfinished)]
    if len({training.device for training, _ in trained}) > 1:
        notes.append("these networks were trained on different devices: their times are not comparable")
    for training, records in trained:
        sigma = training.objective.get("sigma")
        if records is not None and None not in (records.sigma, sigma) and records.sigma != sigma:
            notes.append(f"{training.name}: trained with sigma {sigma:g}, certified with {records.sigma:g}")
    notes += [note for training, _ in trained for note in training.notes]
    return (*map(printable, notes), *notes_on([certified for _, certified in trained if certified is not None]))
