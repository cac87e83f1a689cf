"""What training took: from the records of runs to the paper's table of training times."""

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from macer.errors import RecordsError
from macer.pretrained import zoo
from macer.results.reading import read_records, read_table, settings_beside
from macer.results.records import Records, method_order
from macer.results.tables import Table, acr_cell, best_cells, notes_on, printable, split_facts


@dataclass(frozen=True, kw_only=True)
class TrainingTimes:
    """What the epochs of a run took.

    Attributes:
        name: the run's directory.
        seconds: time in training steps of each epoch that is done; not of certification between epochs.
        epochs: how many there are to be.
        method: how it trains; None where not recorded, as all that follows.
        sigma: the noise level of training.
        dataset: the data set's name.
        network: the network's name.
        device: what computed.
        certified: the hard certificates in the run; None where there are none.
    """

    name: str
    seconds: Float64[np.ndarray, " done"]
    epochs: int
    method: str | None = None
    sigma: float | None = None
    dataset: str | None = None
    network: str | None = None
    device: str | None = None
    certified: Records | None = None


def read_times(run: Path) -> TrainingTimes:
    """The times of a run, from its settings.toml and metrics.tsv.

    Raises:
        RecordsError: it is no run, no epoch is done, or one of its files cannot be read.
    """
    if not (run / "settings.toml").is_file():
        raise RecordsError(f"{run}: not the directory of a training run (no settings.toml)")
    hard = run / "certificates" / "hard.tsv"
    return _times(
        run.resolve().name,
        run / "settings.toml",
        read_seconds(run / "metrics.tsv"),
        read_records(hard)[0] if hard.is_file() else None,
    )


def read_zoo_times(name: str) -> TrainingTimes:
    """The times of a network of the zoo, whose card has the sum over its epochs.

    Raises:
        SettingsError: there is none of this name.
    """
    made = zoo.card(name)["network"]
    seconds = np.full(made["epoch"], made["training_seconds"] / made["epoch"])
    file = zoo.certificates_file(name)
    return _times(name, settings_beside(file), seconds, read_records(Path(f"{zoo.PREFIX}{name}"))[0])


def _times(name: str, file: Path, seconds: Float64[np.ndarray, " done"], certified: Records | None) -> TrainingTimes:
    """What a settings.toml or a card says of how the network was trained, with the rest."""
    training = read_table(file, "training", {"dataset": str, "network": str, "epochs": int})
    objective = read_table(file, "objective", {"name": str, "sigma": (float, int)})
    environment = read_table(file, "environment", {"device": str, "threads": str})
    device, threads = environment.get("device"), environment.get("threads")
    return TrainingTimes(
        name=name,
        seconds=seconds,
        epochs=training.get("epochs", len(seconds)),
        method=objective.get("name"),
        sigma=objective.get("sigma"),
        dataset=training.get("dataset"),
        network=training.get("network"),
        device=f"{device}, threads: {threads}" if device and device.startswith("cpu") and threads else device,
        certified=certified,
    )


def read_seconds(file: Path) -> Float64[np.ndarray, " done"]:
    """The column `seconds` of a training curve.

    Raises:
        RecordsError: the file cannot be read as one, or no epoch is done.
    """
    columns, lines = curve_lines(file)
    if columns[0] != "epoch" or "seconds" not in columns:
        raise RecordsError(f"{file}: no training curve (columns epoch and seconds)")
    seconds = []
    for epoch, line in enumerate(lines, start=1):
        cells = line.split("\t")
        try:
            seconds.append(float(cells[columns.index("seconds")]))
        except (IndexError, ValueError):
            seconds.append(-1.0)
        if cells[0] != str(epoch) or not 0 <= seconds[-1] < math.inf:
            raise RecordsError(f"{file}, line {epoch + 1}: not the number and seconds of epoch {epoch}")
    if not seconds:
        raise RecordsError(f"{file}: no epoch is done")
    return np.array(seconds)


def curve_lines(file: Path) -> tuple[list[str], list[str]]:
    """The columns' names of a metrics.tsv, and its lines; a last one without its end is a write that was cut off.

    Raises:
        RecordsError: the file cannot be read as text.
    """
    try:
        header, *lines = file.read_text(encoding="utf-8").split("\n")[:-1] or [""]
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsError(f"{file}: not a text file") from error
    return header.split("\t"), lines


def times_table(runs: list[TrainingTimes]) -> Table:
    """Seconds an epoch, epochs, hours and ACR: a row a run, by data set, network, sigma and method.

    The best of one data set, network and sigma is marked: the times if one device took them, ACR if it is of the same
    images and n.
    """
    runs = sorted(runs, key=lambda run: (*_group(run), method_order(run.method)))
    shared, differing = split_facts([_facts(run) for run in runs])
    header = ("", *differing, "seconds an epoch", "epochs", "hours", "ACR [95%]")
    rows = tuple(tuple(map(printable, _row(run, differing))) for run in runs)
    best, breaks, first = set(), set(), 0
    width = len(header)
    for _, each in groupby(runs, key=_group):
        group = list(each)
        positions = range(first, first + len(group))
        breaks.add(first)
        if len({run.device for run in group}) == 1:
            best |= best_cells(rows, positions, (width - 4, width - 2), min)
        if len({(facts["images"], facts["n"]) for facts in map(_facts, group)}) == 1:
            best |= best_cells(rows, positions, (width - 1,), max)
        first += len(group)
    breaks = breaks - {0} if len(breaks) < len(rows) else ()
    return Table(header, rows, shared, _notes(runs), frozenset(best), frozenset(breaks))


def _group(run: TrainingTimes) -> tuple[Any, ...]:
    """What runs must share to be compared."""
    return run.dataset or "", run.network or "", math.inf if run.sigma is None else run.sigma


def _facts(run: TrainingTimes) -> dict[str, str]:
    n = None if run.certified is None else run.certified.n
    return {
        "method": run.method or "",
        "data": run.dataset or "",
        "network": run.network or "",
        "sigma": "" if run.sigma is None else f"{run.sigma:g}",
        "device": run.device or "",
        "images": "" if run.certified is None else run.certified.images,
        "n": "" if n is None else f"{n:,}",
    }


def _row(run: TrainingTimes, differing: list[str]) -> tuple[str, ...]:
    facts, done = _facts(run), len(run.seconds)
    return (
        run.name,
        *(facts[name] for name in differing),
        _time(run.seconds.mean()),
        str(done) if done >= run.epochs else f"{done} of {run.epochs}",
        _time(run.seconds.sum() / 3600),
        "" if run.certified is None else acr_cell(run.certified),
    )


def _time(value: float) -> str:
    """Two digits behind the point, or more where those would say little."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _notes(runs: list[TrainingTimes]) -> tuple[str, ...]:
    notes = [f"{run.name}: training is not finished" for run in runs if len(run.seconds) < run.epochs]
    if len({run.device for run in runs}) > 1:
        notes.append("these runs were trained on different devices: their times are not comparable")
    certified = [run.certified for run in runs if run.certified is not None]
    return (*map(printable, notes), *notes_on(certified))
