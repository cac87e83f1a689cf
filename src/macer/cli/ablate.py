"""macer ablate."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from macer.certification.during_training import FewImages
from macer.cli.options import with_options
from macer.cli.results import print_results
from macer.compute.launchers import find_launched
from macer.experiments.ablation import (
    RECIPE,
    ablation_points,
    describe_budget,
    run_ablation,
    write_table,
)
from macer.files.printable import Terminal
from macer.objectives.macer import Macer
from macer.recipes import read_recipe
from macer.runs.settings import require, take
from macer.training import TrainingSettings, resolve
from macer.training.processes import with_precision


@with_options(TrainingSettings, Macer, FewImages, except_={"teacher", "classifier", "devices", "num_nodes"})
def ablate_command(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe with the settings that are varied; `macer recipes` lists them.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the runs, the table and the figure.", show_default="runs/ablation-DATASET-SIGMA"
        ),
    ] = None,
    *,
    chosen: dict[str, Any],
) -> None:
    """Vary the parameters of MACER one by one.

    Train, certify and plot for values of k, lambda, gamma and beta, as in figure 3 of the paper.

    The same command resumes where it was stopped. --epochs and --num-img set the cost, which is printed first.
    """
    launched = find_launched(os.environ)
    require(
        launched is None or launched.size == 1, "macer ablate runs in one process: start it without torchrun or srun"
    )
    certification, chosen = take(FewImages, chosen)
    where = f"recipe {recipe}" if recipe else "macer ablate"
    settings = resolve(read_recipe(recipe) if recipe else {}, None, chosen, where=where)
    directory = out or Path("runs") / f"ablation-{settings.dataset}-{settings.objective.sigma:g}"
    settings = with_precision(settings, directory / RECIPE)
    points = ablation_points(settings)
    console = Terminal()
    console.print(describe_budget(points, certification, directory))
    all_records = run_ablation(points, certification, directory, console=console)
    write_table(points, all_records, directory / "ablation.csv")

    from macer.experiments.ablation_plot import ablation_figure  # matplotlib is slow to import
    from macer.results.plots import save_figure

    title = (
        f"{settings.dataset}, {settings.network}, sigma = {settings.objective.sigma:g}, {settings.epochs} epochs; "
        f"test images: {all_records[0].images}; n = {certification.n:,}"
    )
    files = [directory / "ablation.png", directory / "ablation.svg"]
    save_figure(ablation_figure(points, all_records, title), files)
    print_results(console, [directory / run for run in dict.fromkeys(point.run for point in points)])
    console.print(f"table and figure: {directory}/ablation.csv, .png, .svg")
