"""macer certify."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from macer import zoo
from macer.certification import CertificationSettings, certify_images, prepare
from macer.cli.options import with_options
from macer.cli.results import print_results
from macer.models.normalization import NORMALISATIONS
from macer.pretrained import find_network
from macer.settings import require


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("certify")(certify_command)


@with_options(CertificationSettings)
def certify_command(
    target: Annotated[Path | None, typer.Argument(help="A run's directory, a checkpoint, or zoo:NAME.")] = None,
    resume_ckpt: Annotated[Path | None, typer.Option(help="The same, as the original spells it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--matdir", help="Directory of the certificates [RUN/certificates]."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set [the one trained on].")] = None,
    network: Annotated[str | None, typer.Option(help="Network [the checkpoint's]; zoo:NAME is a target, too.")] = None,
    normalisation: Annotated[
        str | None, typer.Option(help=f"Layer in front of a published network: {', '.join(NORMALISATIONS)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="What computes: auto, cpu, cuda.")] = "auto",
    *,
    chosen: dict[str, Any],
) -> None:
    """Certify images: for each, the class and the L2 radius in which it provably is the answer.

    The same command again goes on where it stopped. Sigma and data set are those of training unless given.
    """
    given = [each for each in (target, resume_ckpt) if each is not None]
    if network is not None and network.startswith(zoo.PREFIX):
        given.append(Path(network))
        network = None
    require(len(given) == 1, "say what to certify, once: macer certify TARGET, or --resume-ckpt FILE")
    source = given[0]
    console = Console(markup=False)
    found = find_network(source, network, normalisation)
    console.print(f"found {found.description}", highlight=False, soft_wrap=True)
    plan = prepare(found, dataset=dataset, device=device, chosen=chosen)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    if str(source).startswith(zoo.PREFIX):
        home = Path("runs", "zoo", str(source)[len(zoo.PREFIX) :])
    else:
        home = source if source.is_dir() else source.parent
    directory = out or home / "certificates"
    certify_images(
        plan.settings, plan.network, plan.images, directory, console=console, title=f"certifying {directory}"
    )
    print_results(console, [directory])
    console.print(f"certificates: {directory}", highlight=False, soft_wrap=True)
