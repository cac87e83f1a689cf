"""macer teacher."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from macer import data
from macer.certification.teacher import count_teacher_votes
from macer.compute.engine import Engine
from macer.errors import SettingsError
from macer.files.printable import Terminal
from macer.pretrained.find import find_network
from macer.runs.settings import require


def teacher_command(
    network: Annotated[
        Path, typer.Argument(help="The teacher: a run's directory, a checkpoint, zoo:NAME, or a program.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write, named .safetensors; `macer train --teacher` takes it.")
    ] = Path("teacher.safetensors"),
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set.", show_default="the one trained on")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Directory of the data set.", show_default="that of the training")
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Votes per training image; CAT-RS was published with 10,000.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, or auto: a GPU if there is one.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, each with a GPU or a share of the cores.")
    ] = 1,
) -> None:
    """Count a teacher's votes on noisy training images, for CAT-RS.

    The noise has the sigma that the network was trained with. Give the same command again to continue after an
    interruption.
    """
    require(out.suffix == ".safetensors", f"{out}: the name of a teacher's file ends in .safetensors")
    console = Terminal()
    found = find_network(network)
    console.print(f"found {found.description}")
    trained = found.trained
    name = dataset or trained.dataset
    if name is None or found.sigma is None:
        raise SettingsError(f"{found.source} does not say what data and which sigma it was trained with")
    options = trained.where(name)
    trained_root = options.pop("root", None)
    images = data.load(name, root or trained_root, "train", **options)
    built = found.build(images.num_classes, images.shape)
    for warning in found.classes_unlike(images):
        console.print(f"warning: {warning}", soft_wrap=True)
    engine = Engine(device, devices)
    count_teacher_votes(built, images, out, sigma=found.sigma, n=n, seed=seed, console=console, engine=engine)
    known = {"dataset": name, "root": root or trained_root, "network": trained.network, "teacher": out}
    options = [word for key, value in known.items() if value for word in (f"--{key}", str(value))]
    console.print(
        f"teacher: {out}; next: {shlex.join(['macer', 'train', '--method', 'cat-rs', *options])}", soft_wrap=True
    )
