"""macer verify."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from macer.certification.source import Places
from macer.certification.verify import verify
from macer.compute.engine import Engine
from macer.files.printable import Terminal
from macer.pretrained import zoo

_FAILURES_SHOWN = 10


def verify_command(
    run: Annotated[Path, typer.Argument(help="A run's directory, a directory of certificates, or zoo:NAME.")],
    images: Annotated[
        int, typer.Option(min=0, help="Images to certify again with the recorded noise; 0: arithmetic alone.")
    ] = 5,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The network's file or run.", show_default="where the settings say")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="package.module:function that returns the network, if it is code; naming it allows that it is run."
        ),
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option(help="Denoiser, as for macer certify.", show_default="where the settings say")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Directory of the data set.", show_default="where the settings say")
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, or auto: a GPU if there is one.")] = "auto",
) -> None:
    """Check certificates, your own or a stranger's.

    All are checked by arithmetic, some by evaluating the network again. Every row is held against its checksum, the
    settings, the bound that its votes give and the digest of its image. The network is held against its digest, and
    some images, drawn at random, are certified again. The exit code is 1 if a certificate does not hold.
    """
    console = Terminal()
    places = Places(checkpoint=checkpoint, network=network, denoiser=denoiser, root=root)
    with zoo.certification(run) if zoo.is_of_zoo(run) else nullcontext(run) as directory:
        found = verify(directory, images, places, console=console, engine=Engine(device))
    for line in (*found.checked, *found.failed[:_FAILURES_SHOWN]):
        console.print(line.replace(str(directory), str(run)))
    if (more := len(found.failed) - _FAILURES_SHOWN) > 0:
        console.print(f"and {more:,} more like these")
    by_arithmetic = "" if images else " by arithmetic alone: neither network nor images were looked at"
    console.print("does not hold" if found.failed else f"holds{by_arithmetic}")
    if found.failed:
        raise typer.Exit(1)
