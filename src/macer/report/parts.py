"""The page's tables and sentences, computed from what was gathered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from macer.files.printable import printable
from macer.report.classes import ClassResult, class_results, confusion
from macer.report.commands import certify_command, train_command, typed_command
from macer.report.sources import Source
from macer.results.compare import unlike_certificates
from macer.results.metrics import (
    Estimate,
    average_certified_radius,
    certified_accuracy_interval,
    default_radii,
    difference_in_words,
    obstacles,
    paired_difference,
)
from macer.results.records import Records, by_sigma, method_name
from macer.results.tables import ACR, Table, results_table, split_facts
from macer.results.times import TIMES, times_table

_RUNS_IN_ALL_PAIRS = 5
_CLASSES_IN_A_MATRIX = 20
_MOST_CLASSES = 1000
_MOST_MISTAKES = 30


def page_radii(all_records: Sequence[Records]) -> list[float]:
    """Return radii for certified accuracy: 0.00, 0.25, ... as in published tables, closer if none reaches 0.75."""
    largest = max(float(records.certified_radius.max()) for records in all_records)
    if largest >= 0.75:
        return default_radii(all_records)
    step = next((step for step in (0.1, 0.05, 0.02) if largest / step > 3 - 1e-9), 0.01)
    return [round(number * step, 2) for number in range(int(largest / step + 1e-9) + 1)][:10]


@dataclass(frozen=True)
class Differences:
    """The paired differences.

    Attributes:
        sentences: one per pair that may be compared.
        pairs: these pairs, the one with the larger ACR first.
        refused: one per pair that may not be compared, with the reason.
    """

    sentences: list[str]
    pairs: list[tuple[Source, Source]]
    refused: list[str]


def differences(sources: Sequence[Source]) -> Differences:
    """Compare each pair of networks on the same images; of many networks, the first with each of the others."""
    every = list(combinations(sources, 2))
    if len(sources) > _RUNS_IN_ALL_PAIRS:
        every = every[: len(sources) - 1]
    sentences, pairs, refused = [], [], []
    for pair in every:
        one, other = sorted(pair, key=lambda source: -float(source.records.certified_radius.mean()))
        name, other_name = one.records.name, other.records.name
        unlike = unlike_certificates(one.records, other.records)
        if found := obstacles(one.records, other.records):
            refused.append(printable(f"{name} and {other_name} are not compared: {'; '.join(found.values())}."))
            continue
        pairs.append((one, other))
        difference = difference_in_words(name, other_name, paired_difference(one.records, other.records))
        sentences.append(f"{'; '.join([difference, *unlike])}.")
    return Differences(sentences, pairs, refused)


@dataclass(frozen=True)
class PageTable:
    """A table as the page shows it: numbers first, because a phone shows the first columns only.

    Attributes:
        table: names, then numbers, then what distinguishes the rows.
        numbers: how many columns after the first hold numbers.
        sources: the certificates of each row; empty where rows have no colour of their own.
    """

    table: Table
    numbers: int
    sources: list[Source]


def _numbers_first(table: Table, numbers: int, sources: Sequence[Source] = ()) -> PageTable:
    """Move the columns between the names and the last `numbers` ones to the end."""
    first = len(table.header) - numbers
    order = [0, *range(first, len(table.header)), *range(1, first)]
    return PageTable(table.with_columns(order), numbers, list(sources))


def result_table(sources: Sequence[Source], radii: Sequence[float], clean: Mapping[str, float]) -> PageTable:
    """Return certified accuracy at some radii, ACR with its interval, abstentions and time, one row per network.

    Args:
        sources: one or more.
        radii: where to give certified accuracy.
        clean: accuracy without noise by the name of certificates that are not published ones.
    """
    table = results_table([source.records for source in sources], radii)
    of = {id(source.records): source for source in sources}  # a published file may have the name of a run
    ordered = [of[id(records)] for group in by_sigma([source.records for source in sources]) for records in group]
    numbers = len(radii) + (3 if ACR in table.header else 2)  # abstained, seconds
    if clean:
        seen = [None if source.published else clean.get(source.records.name) for source in ordered]
        cells = ["" if accuracy is None else f"{accuracy:.3f}" for accuracy in seen]
        rows = tuple((*row, cell) for row, cell in zip(table.rows, cells, strict=True))
        table = replace(table, header=(*table.header, "without noise"), rows=rows)
        numbers += 1
    return _numbers_first(table, numbers, ordered)


def facts(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Return what all certificates share, by name: data, network, method, sigma, n, alpha, images, versions."""
    shared, _ = split_facts([_facts(source) for source in sources])
    return list(shared)


def _facts(source: Source) -> dict[str, str]:
    records, table = source.records, source.certification
    split = table.get("split", "test") if table else None
    return {
        "data": f"{records.dataset} ({split} images)" if records.dataset and split else records.dataset or "",
        "network": str(table.get("network", "")),
        "method": method_name(records.method),
        "σ": "" if records.sigma is None else f"{records.sigma:g}",
        "n": "" if records.n is None else f"{records.n:,}",
        "α": "" if records.alpha is None else f"{records.alpha:g}",
        "images": records.images,
        "certified on": str(source.environment.get("started", ""))[:10],
        "versions": ", ".join(
            f"{name} {source.environment[name]}" for name in ("macer", "torch") if name in source.environment
        ),
    }


@dataclass(frozen=True)
class Card:
    """A run in four numbers."""

    source: Source
    acr: Estimate
    accuracy: Estimate
    largest: float
    abstained: int | None


def card(source: Source) -> Card:
    """Return ACR, certified accuracy at radius 0, largest radius and abstentions."""
    records = source.records
    largest = math.floor(1000 * records.certified_radius.max()) / 1000  # shown with three digits, none of them too much
    accuracy = certified_accuracy_interval(records, 0.0)
    return Card(source, average_certified_radius(records), accuracy, largest, records.abstained)


def cost_table(sources: Sequence[Source]) -> PageTable | None:
    """Return what training and certifying took, for certificates whose training left its curves; None without any."""
    trained = [
        source.training.beside(source.records, source.certification)
        for source in sources
        if source.training is not None and "seconds" in source.training.curves
    ]
    return _numbers_first(times_table(trained), len(TIMES)) if trained else None


@dataclass(frozen=True)
class Making:
    """How certificates were made.

    Attributes:
        name: the name of the records.
        commands: commands that repeat it, and those that were typed, each with a few words before it.
        trained: facts about the training, by name.
        certified: facts about the certification, by name.
    """

    name: str
    commands: list[tuple[str, str]]
    trained: list[tuple[str, str]]
    certified: list[tuple[str, str]]


def making(source: Source) -> Making:
    """Return settings, versions, date and commands of a run and its certificates."""
    training, table = source.training, source.certification
    commands = []
    trained: dict[str, Any] = {}
    typed = typed_command(source.environment)
    if training is not None:
        commands.append(("train again", train_command(training)))
        typed_training = typed_command(training.environment)
        if typed_training != typed:
            commands.append(("typed then, to train", typed_training))
        trained = {**training.objective, **training.settings, **_surroundings(training.environment)}
    commands += [("certify again", certify_command(source)), ("typed then", typed)]
    return Making(
        source.records.name,
        [(words, command) for words, command in commands if command is not None],
        _told(trained),
        _told({"file": source.file, "images": source.records.images, **table, **_surroundings(source.environment)}),
    )


def _surroundings(environment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in environment.items() if key != "command"}


def _told(table: dict[str, Any]) -> list[tuple[str, str]]:
    return [(printable(key), printable(str(value))) for key, value in table.items()]


@dataclass(frozen=True)
class ClassView:
    """The classes of one run at one radius.

    Attributes:
        run: the number of the run.
        radius: the number of the radius.
        results: one result per class.
        matrix: images by label and prediction, -1 for those without a certificate; None if there are many classes.
        answers: the matrix's columns.
        mistakes: (label, prediction, images) of wrong predictions, the most frequent first.
    """

    run: int
    radius: int
    results: list[ClassResult]
    matrix: dict[tuple[int, int], int] | None
    answers: list[int]
    mistakes: list[tuple[int, int, int]]


def says_which(records: Records) -> bool:
    """Return whether records have indices, labels and predictions; those of .mat files do not."""
    return not any(column is None for column in (records.idx, records.label, records.predict))


def left_out(sources: Sequence[Source]) -> list[str]:
    """Return what the page does not show of some certificates, one line each."""
    silent = [source.records.name for source in sources if not says_which(source.records)]
    many = [source.records.name for source in sources if _classes(source.records) > _MOST_CLASSES]
    return [
        *(f"{name}: without labels and predictions, so no images or classes of it are shown" for name in silent),
        *(f"{name}: has more than {_MOST_CLASSES:,} classes, which are not shown one by one" for name in many),
    ]


def class_radii(radii: Sequence[float], sources: Sequence[Source]) -> list[float]:
    """Return the radii at which classes are shown: fewer if there are many classes, to limit the page's size."""
    many = max((_classes(source.records) for source in sources), default=0) > _CLASSES_IN_A_MATRIX
    return list(radii[:: max(1, (len(radii) + 2) // 3)] if many else radii)


def class_views(sources: Sequence[Source], radii: Sequence[float]) -> list[ClassView]:
    """Return a view for each run with at most a thousand classes, and each radius."""
    return [
        _class_view(source.records, run, number, radius)
        for run, source in enumerate(sources)
        if _classes(source.records) <= _MOST_CLASSES
        for number, radius in enumerate(radii)
    ]


def _class_view(records: Records, run: int, number: int, radius: float) -> ClassView:
    results = class_results(records, radius)
    counts = confusion(records, radius)
    mistakes = [(label, answer, images) for (label, answer), images in counts.items() if answer not in (label, -1)]
    mistakes.sort(key=lambda mistake: -mistake[2])
    answers = sorted({*(result.label for result in results), *(answer for _, answer, _ in mistakes)})
    small = len(answers) <= _CLASSES_IN_A_MATRIX
    return ClassView(run, number, results, counts if small else None, answers, mistakes[:_MOST_MISTAKES])


def _classes(records: Records) -> int:
    return 0 if records.label is None else len(set(records.label.tolist()))
