"""macer certify."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from macer.certification import CertificationSettings
from macer.certification.settings import parse_shard
from macer.cli.options import with_options
from macer.compute.launchers import find_launched
from macer.errors import SettingsError
from macer.files.printable import Terminal
from macer.front.certify import certify
from macer.models.normalization import NORMALISATIONS
from macer.pretrained import zoo
from macer.pretrained.find import named
from macer.results.tables import print_table
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import DATA, require


@with_options(CertificationSettings)
def certify_command(
    target: Annotated[
        Path | None,
        typer.Argument(
            help="A run's directory, a checkpoint, zoo:NAME, a program (TorchScript, .pt2, .onnx), or "
            "package.module:function, which returns a network with its weights."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the certificates.", show_default="RUN/certificates, of another file FILE.certificates"
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Name of the data set, or hf:NAME.", show_default="the one trained on", rich_help_panel=DATA),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Name of the network, or package.module:function.", show_default="the checkpoint's"),
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option(help=f"Layer in front of a published network: {', '.join(NORMALISATIONS)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, or auto: a GPU if there is one.")] = "auto",
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
    _refuse_several_processes()
    source, network = _source(target, network)
    directory = CertificationRun(out) if out else _home(source, network)
    if "shard" in chosen:
        directory = directory.of_shard(*parse_shard(chosen["shard"]))
    console = Terminal()
    results = certify(
        source,
        dataset,
        network=network,
        normalisation=normalisation,
        out=directory,
        device=device,
        devices=devices,
        scheduler=scheduler,
        progress=console,
        **chosen,
    )
    print_table(console, results.table())
    console.print(f"certificates: {directory}")


def _refuse_several_processes() -> None:
    launched = find_launched(os.environ)
    if launched and launched.size > 1:
        raise SettingsError(
            f"{launched.by} started {launched.size} processes, which would all certify the same images: give each a "
            "--shard, or start one, with --devices or --scheduler"
        )


def _source(target: Path | None, network: str | None) -> tuple[Path | None, str | None]:
    """Return what is certified and its network. Code that is certified by itself has no source."""
    if network is not None and zoo.is_of_zoo(network):
        require(target is None, f"say what to certify, once: {target} or {network}")
        target, network = Path(network), None
    if target is None:
        if network is None:
            raise SettingsError("say what to certify: macer certify TARGET")
        require(
            ":" in network,
            f"{network} is a network without weights: say what to certify (macer certify TARGET --network {network}), "
            "or name a function that returns a network with weights (--network package.module:function)",
        )
        return None, network
    source, network = named(target, network)
    return None if source is None else Path(source), network


def _home(source: Path | None, network: str | None) -> CertificationRun:
    """Return where a network's certificates are put: into its run, or, of another file, beside it."""
    if source is None:
        return Run(Path("runs", str(network).replace(":", "-"))).certification
    if zoo.is_of_zoo(source):
        return Run(Path("runs", "zoo", str(source).removeprefix(zoo.PREFIX))).certification
    if source.is_dir():
        return Run(source).certification
    run = Run.of_checkpoint(source)
    if run is not None and run.settings_file.is_file():
        return run.certification
    return CertificationRun(source.with_name(f"{source.name}.certificates"))
