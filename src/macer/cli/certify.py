"""macer certify."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from macer.certification import CertificationSettings, certify_images, prepare
from macer.certification.settings import parse_shard
from macer.cli.options import with_options
from macer.cli.results import print_results
from macer.compute.device import started_processes
from macer.compute.engine import Engine
from macer.models.normalization import NORMALISATIONS
from macer.pretrained import zoo
from macer.pretrained.find import find_network
from macer.runs.settings import require


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("certify")(certify_command)


@with_options(CertificationSettings)
def certify_command(
    target: Annotated[
        Path | None,
        typer.Argument(help="A run's directory, a checkpoint, zoo:NAME, or a program (TorchScript, .pt2, .onnx)."),
    ] = None,
    resume_ckpt: Annotated[
        Path | None, typer.Option("--checkpoint", "--resume-ckpt", help="The target, given as an option.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--matdir", help="Directory of the certificates.", show_default="RUN/certificates"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set.", show_default="the one trained on")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Name of the network, or package.module:function.", show_default="the checkpoint's"),
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option(help=f"Layer in front of a published network: {', '.join(NORMALISATIONS)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="What computes: auto, cpu or cuda.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, each with a GPU or a share of the cores.")
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Certify on the workers of this Dask scheduler: its address or scheduler file."),
    ] = None,
    *,
    chosen: dict[str, Any],
) -> None:
    """Certify images: find the class and the certified radius of each.

    Give the same command again to continue an interrupted certification. Sigma and the data set are those of training
    unless they are given.
    """
    require(
        started_processes() == (1, 1),
        "torchrun or srun started several processes, which would all certify the same images: give each a --shard, or "
        "start one, with --devices or --scheduler",
    )
    given = [each for each in (target, resume_ckpt) if each is not None]
    if network is not None and zoo.is_of_zoo(network):
        given.append(Path(network))
        network = None
    code = network is not None and ":" in network
    require(
        len(given) == 1 or (code and not given),
        "say what to certify, once: macer certify TARGET, or --checkpoint FILE, or --network package.module:function",
    )
    source = given[0] if given else None
    found = find_network(source, network, normalisation)
    engine = Engine(device, devices, scheduler)
    console = Console(markup=False)
    console.print(f"found {found.description}", highlight=False, soft_wrap=True)
    plan = prepare(found, dataset=dataset, chosen=chosen)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    if source is None:
        home = Path("runs", found.network.replace(":", "-"))
    elif zoo.is_of_zoo(source):
        home = Path("runs", "zoo", str(source)[len(zoo.PREFIX) :])
    else:
        home = source if source.is_dir() else source.parent
    directory = out or home / "certificates"
    if plan.settings.shard is not None:
        directory /= "shard-{}-of-{}".format(*parse_shard(plan.settings.shard))
    certify_images(
        plan.settings,
        plan.network,
        plan.images,
        directory,
        console=console,
        title=f"certifying {directory}",
        engine=engine,
    )
    print_results(console, [directory])
    console.print(f"certificates: {directory}", highlight=False, soft_wrap=True)
