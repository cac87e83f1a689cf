"""macer report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("report")(report_command)


def report_command(
    paths: Annotated[list[Path], typer.Argument(help="Run directories, .tsv and .mat files, in any mix.")],
    published: Annotated[
        list[Path] | None,
        typer.Option(help="Published certificates to show behind them: a file, or a directory with some; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Page to write, .html.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default="the names of the runs")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Directory of the pictures' data set.", show_default="where it was")
    ] = None,
    votes: Annotated[int, typer.Option(help="Noisy copies to count votes on, for each picture; 0: no votes.")] = 200,
    device: Annotated[str, typer.Option(help="What counts the votes: auto, cpu, cuda.")] = "auto",
) -> None:
    """Write one page about runs that opens offline in any browser.

    Curves, table, paired differences, the images themselves, classes, training, cost, and the commands to get it again.
    """
    from macer.report import write_report  # the data sets and networks behind it are slow to import

    console = Console(markup=False)
    warnings = write_report(
        paths, out, published=published or [], root=root, votes=votes, device=device, title=title, console=console
    )
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    console.print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)
