"""The ablation of MACER: one number varied at a time, the others as in a recipe (Zhai et al. 2020, figure 3)."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from macer.certification import certify_run
from macer.certification.during_training import FewImages
from macer.certification.settings import CertificationSettings
from macer.files.replacing import replacing
from macer.objectives.macer import Macer
from macer.pretrained.find import find_network
from macer.results import Records, average_certified_radius, certified_accuracy, read_records
from macer.results.metrics import default_radii
from macer.runs.run import Run
from macer.runs.settings import require
from macer.training import TrainingSettings, train

VALUES: dict[str, tuple[int | float, ...]] = {
    "gauss_num": (1, 2, 8, 16),
    "lbd": (0.0, 1.0, 4.0, 16.0),
    "gamma": (4.0, 8.0, 12.0, 16.0),
    "beta": (2.0, 4.0, 8.0, 16.0),
}
"""The values of each number in the four panels of the figure."""

RECIPE = "recipe"
"""The name of the run with the recipe's own values, which all panels show."""


@dataclass(frozen=True)
class Point:
    """One curve of the figure.

    Attributes:
        parameter: the name of the number that is varied.
        value: its value.
        settings: of the training.
        run: the name of the run's directory, which points with the same settings share.
    """

    parameter: str
    value: int | float
    settings: TrainingSettings
    run: str


def ablation_points(base: TrainingSettings) -> list[Point]:
    """Return the sixteen curves around a recipe, panel by panel.

    Raises:
        SettingsError: the recipe's method is not MACER.
    """
    objective = base.objective
    require(isinstance(objective, Macer), f"an ablation varies the numbers of macer, not of {objective.name}")
    points = []
    for parameter, values in VALUES.items():
        for value in values:
            settings = replace(base, objective=replace(objective, **{parameter: value}))
            points.append(Point(parameter, value, settings, RECIPE if settings == base else f"{parameter}-{value:g}"))
    return points


def describe_budget(points: Sequence[Point], certification: FewImages, directory: Path) -> str:
    """Return one line with the cost of the ablation, and how many of its runs are finished in `directory`.

    Raises:
        SettingsError: images to certify do not exist.
        DataError: the data is not there.
    """
    runs = {point.run: point.settings for point in points}
    base = points[0].settings
    train_images, test_images = (len(base.load(split)) for split in ("train", "test"))
    count = certification.count(test_images, f"{base.dataset} test")
    training = sum(
        (each.epochs - each.start_epoch) * len(each.training_indices(train_images)) * each.objective.samples
        for each in runs.values()
    )
    certifying = len(runs) * count * (CertificationSettings.n0 + certification.n)
    done = sum(_is_done(directory / run) for run in runs)
    return (
        f"{len(runs)} runs of {base.epochs} epochs: {training:,} noisy images to train; each certified on "
        f"{count} test images, n = {certification.n:,}: {certifying:,} noisy images; done: {done} runs"
    )


def run_ablation(
    points: Sequence[Point], certification: FewImages, directory: Path, *, console: Console
) -> list[Records]:
    """Train and certify each run, or resume where an earlier process stopped.

    Args:
        points: the curves.
        certification: of each run.
        directory: for one directory per run.
        console: where progress is shown.

    Returns:
        The hard certificates of each point.

    Raises:
        SettingsError: a directory holds a run of other settings.
        Interrupted: a signal asked to stop.
    """
    runs = {point.run: point.settings for point in points}
    base = points[0].settings
    images = base.load("train")
    initial = find_network(base.init, base.network).to_start_from(base.normalisation) if base.init else None
    for number, (run, settings) in enumerate(runs.items(), start=1):
        which = f"{run} ({number} of {len(runs)})"
        train(settings, images, directory / run, console=console, title=f"training {which}", initial=initial)
        certify_run(
            directory / run,
            Run(directory / run).certification.path,
            certification.chosen(),
            network=settings.network,
            console=console,
            title=f"certifying {which}",
            device=settings.device,
        )
    return [read_records(Run(directory / point.run).certification.journal("hard"))[0] for point in points]


def write_table(points: Sequence[Point], all_records: Sequence[Records], file: Path) -> None:
    """Write one CSV line per curve: run, images, ACR with 95% interval, certified accuracy at some radii."""
    radii = default_radii(all_records)
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        columns = ("parameter", "value", "run", "images", "acr", "acr_low", "acr_high")
        writer.writerow([*columns, *(f"{radius:.2f}" for radius in radii)])
        for point, records in zip(points, all_records, strict=True):
            acr = average_certified_radius(records)
            numbers = [acr.value, acr.low, acr.high, *(certified_accuracy(records, radius) for radius in radii)]
            cells = (point.parameter, f"{point.value:g}", point.run, records.images)
            writer.writerow([*cells, *(f"{number:.4f}" for number in numbers)])


def _is_done(run: Path) -> bool:
    return Run(run).certification.mat_file.exists()  # the last file that a certification writes
