"""macer train."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from macer.certification import CertificationDuringTraining
from macer.cli.options import with_options
from macer.files.printable import Terminal
from macer.front.train import train
from macer.models import NETWORKS
from macer.objectives import OBJECTIVES, Denoise
from macer.pretrained import zoo
from macer.training import TrainingSettings


@with_options(TrainingSettings, *OBJECTIVES.values(), CertificationDuringTraining)
def train_command(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe whose settings are used; `macer recipes` lists all.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"Training method: {', '.join(OBJECTIVES)}; or package.module:Class of your own.", show_default="macer"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the run.", show_default="runs/DATASET-METHOD-SIGMA"),
    ] = None,
    *,
    chosen: dict[str, Any],
) -> None:
    """Train a network, or resume a training that was stopped.

    Options that are not given have the recipe's values, or else the defaults in brackets.
    """
    console = Terminal()
    run = train(recipe, method=method, out=out, progress=console, **chosen)
    if console.quiet:  # another process speaks for all
        return
    tables = run.settings()
    network, classifier = tables["training"]["network"], tables["training"].get("classifier", "CLASSIFIER")
    words = [str(run)] if network in NETWORKS else [str(run), "--network", network]
    if tables["objective"]["name"] == Denoise.name:
        of_code = ":" in classifier and not zoo.is_of_zoo(classifier)
        words = [*["--network"] * of_code, classifier, "--denoiser", str(run)]
    console.print(f"trained: {run.checkpoint_file}; next: {shlex.join(['macer', 'certify', *words])}")
