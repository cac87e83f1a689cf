"""macer train."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from macer import data
from macer.certification import CertificationDuringTraining
from macer.cli.options import with_options
from macer.errors import SettingsError
from macer.models import NETWORKS
from macer.objectives import OBJECTIVES
from macer.pretrained import zoo
from macer.pretrained.find import find_network
from macer.recipes import read_recipe
from macer.runs.run import Run
from macer.runs.settings import take
from macer.training import TrainingSettings, fabric_for, resolve, train


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("train")(train_command)


@with_options(TrainingSettings, *OBJECTIVES.values(), CertificationDuringTraining, names={"init": ("--resume-ckpt",)})
def train_command(
    recipe: Annotated[str | None, typer.Option(help="Start from these published settings; see macer recipes.")] = None,
    method: Annotated[
        str | None, typer.Option(help=f"Training method: {', '.join(OBJECTIVES)}.", show_default="macer")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--ckptdir", help="Directory of the run.", show_default="runs/DATASET-METHOD-SIGMA"),
    ] = None,
    *,
    chosen: dict[str, Any],
) -> None:
    """Train a network. The same command again goes on where it stopped.

    Options left out take the recipe's values, or the original's defaults, given in brackets.
    """
    certification, chosen = take(CertificationDuringTraining, chosen)
    settings = resolve(
        read_recipe(recipe) if recipe else {},
        method,
        chosen,
        where=f"recipe {recipe}" if recipe else "the command line",
    )
    if zoo.is_of_zoo(settings.network):
        name = zoo.card(settings.network.removeprefix(zoo.PREFIX))["training"]["network"]
        raise SettingsError(
            f"{settings.network} has weights: to start from them, --network {name} --init {settings.network}"
        )
    images = data.load(settings.dataset, settings.root, "train")
    certification.check(settings.dataset, settings.root, range(1, settings.epochs + 1))
    name = f"{settings.dataset}-{settings.objective.name}-{settings.objective.sigma:g}"
    directory = out or Path("runs") / name
    fabric = fabric_for(settings)
    console = Console(markup=False, quiet=not fabric.is_global_zero)
    initial = None
    if settings.init:
        found = find_network(settings.init, settings.network, settings.normalisation)
        initial = found.to_start_from(settings.normalisation)
        console.print(f"starting from {found.description}", highlight=False, soft_wrap=True)
    file = train(
        settings,
        images,
        directory,
        console=console,
        title=f"training {name}",
        initial=initial,
        after_epoch=partial(
            certification.certify,
            directory=Run(directory).certification.path,
            network=settings.network,
            device=settings.device,
            console=console,
        ),
        fabric=fabric,
    )
    own_code = "" if settings.network in NETWORKS else f" --network {settings.network}"
    console.print(f"trained: {file}; next: macer certify {directory}{own_code}", highlight=False, soft_wrap=True)
