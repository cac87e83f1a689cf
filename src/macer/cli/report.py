"""macer report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from macer.files.printable import Terminal


def report_command(
    paths: Annotated[list[Path], typer.Argument(help="Runs' directories, .tsv and .mat files, zoo:NAME, in any mix.")],
    published: Annotated[
        list[Path] | None,
        typer.Option(help="Published certificates to show for comparison: a file or a directory. Repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Page to write, .html.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default="the names of the runs")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Directory of the data set, for pictures.", show_default="as when certified")
    ] = None,
    votes: Annotated[int, typer.Option(help="Noisy copies per picture on which to count votes; 0: none.")] = 200,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device that counts the votes.")] = "auto",
) -> None:
    """Write one HTML page about runs.

    It opens offline in any browser and shows curves, tables, paired differences, the images themselves, classes,
    training, cost, and the commands to repeat all of it.
    """
    from macer.report import write_report  # the data sets and networks behind it are slow to import

    console = Terminal()
    warnings = write_report(
        paths, out, published=published or [], root=root, votes=votes, device=device, title=title, console=console
    )
    for warning in warnings:
        console.print(f"warning: {warning}")
    console.print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")
