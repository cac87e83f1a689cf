"""macer main: the original program's command line, unchanged."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from macer.certification import CertificationDuringTraining
from macer.cli.results import print_results
from macer.runs.settings import require


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("main")(main_command)


def main_command(
    task: Annotated[str, typer.Option(help="train or test.")] = "train",
    root: Annotated[str, typer.Option(help="Directory of the data set.")] = "data",
    dataset: Annotated[str, typer.Option(help="Data set.")] = "cifar10",
    resume_ckpt: Annotated[str, typer.Option(help="Checkpoint to start from, or to certify.")] = "none",
    ckptdir: Annotated[str, typer.Option(help="Directory for EPOCH.pth.")] = "none",
    matdir: Annotated[str, typer.Option(help="Directory for EPOCH.mat.")] = "none",
    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 440,
    gauss_num: Annotated[int, typer.Option(help="k: noise samples an image.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise.")] = 0.25,
    lbd: Annotated[float, typer.Option(help="Weight of the robustness loss.")] = 12.0,
    gamma: Annotated[float, typer.Option(help="Hinge of the robustness loss.")] = 8.0,
    beta: Annotated[float, typer.Option(help="Inverse temperature of the softmax.")] = 16.0,
    start_img: Annotated[int, typer.Option(help="Index of the first image.")] = 500,
    num_img: Annotated[int, typer.Option(help="Number of images.")] = 500,
    skip: Annotated[int, typer.Option(help="Step from one image to the next.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Directory of our own records.", show_default="beside the .pth or .mat")
    ] = None,
) -> None:
    """Run the original program's command line: main.py's options, defaults and files.

    A script for it works with `python main.py` replaced by `macer main`.
    """
    from macer.experiments.original import original_test, original_train

    require(task in ("train", "test"), f"--task must be train or test, not {task!r}")
    folders = {name: None if value == "none" else Path(value) for name, value in (("c", ckptdir), ("m", matdir))}
    checkpoint = None if resume_ckpt == "none" else Path(resume_ckpt)
    console = Console(markup=False)
    if task == "train":
        beside = folders["c"] or folders["m"]
        run = out or (beside / "run" if beside else Path("runs") / f"main-{dataset}-{sigma:g}")
        chosen = {
            **{"dataset": dataset, "root": root, "epochs": epochs, "batch_size": batch_size, "lr": lr},
            **{"sigma": sigma, "gauss_num": gauss_num, "lbd": lbd, "gamma": gamma, "beta": beta},
        }
        certification = CertificationDuringTraining(from_epoch=200, start_img=start_img, num_img=num_img, skip=1)
        original_train(
            chosen,
            certification,
            run=run,
            ckptdir=folders["c"],
            matdir=folders["m"],
            resume_ckpt=checkpoint,
            console=console,
        )
        return
    require(checkpoint is not None, "--task test needs --resume_ckpt FILE")
    assert checkpoint is not None
    images = {"start_img": start_img, "num_img": num_img, "skip": skip, "root": root}
    run = original_test(
        {**images, "sigma": sigma, "beta": beta},
        dataset=dataset,
        run=out,
        matdir=folders["m"],
        resume_ckpt=checkpoint,
        console=console,
    )
    print_results(console, [run])
