"""The demo: train two methods on embedded data, certify, compare, report; small enough for a laptop."""

from pathlib import Path

from rich.console import Console

from macer.certification import certify_run
from macer.recipes import read_recipe
from macer.report import write_report
from macer.results import Records, read_records
from macer.results.plots import radius_accuracy_figure, save_figure
from macer.runs.run import Run
from macer.training import resolve, train

RECIPES = ("digits/cohen-0.5", "digits/macer-consistency-0.5")
TITLE = "Handwritten digits, trained two ways"
CERTIFICATION = {"n": 10_000, "mode": "both"}


def run_demo(directory: Path, *, seed: int, console: Console) -> list[Records]:
    """Train and certify Gaussian augmentation, and MACER with Consistency, at one sigma on as many noisy digits.

    Args:
        directory: for one run per method, the figure, and report.html.
        seed: of both trainings and certifications, so that the demo can be repeated.
        console: where progress is shown.

    Returns:
        The certificates of both, baseline first.
    """
    all_records, runs = [], []
    for recipe in RECIPES:
        method = recipe.split("/")[1].rsplit("-", 1)[0]
        settings = resolve(read_recipe(recipe), None, {"seed": seed, "device": "cpu"}, where=recipe)
        run = directory / method
        runs.append(run)
        train(settings, settings.load("train"), run, console=console, title=f"training {method}")
        certify_run(
            run,
            Run(run).certification.path,
            {**CERTIFICATION, "seed": seed},
            console=console,
            title=f"certifying {method}",
            device="cpu",
        )
        all_records += [records for records in read_records(run) if records.kind == "hard"]
    figure = radius_accuracy_figure(all_records, f"Handwritten digits (8 x 8), sigma = {all_records[0].sigma}")
    save_figure(figure, [directory / "radius-accuracy.png", directory / "radius-accuracy.svg"])
    write_report(runs, directory / "report.html", device="cpu", title=TITLE, console=console)
    return all_records
