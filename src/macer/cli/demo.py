"""macer demo."""

from pathlib import Path
from typing import Annotated

import typer

from macer.files.printable import Terminal
from macer.results import tables


def register(app: typer.Typer) -> None:
    app.command("demo")(demo_command)


def demo_command(
    out: Annotated[Path, typer.Option(help="Directory of the runs, the figure and the report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of both trainings and certifications.")] = 0,
) -> None:
    """Train, certify and compare two methods on handwritten digits.

    This takes about two minutes and needs no download.
    """
    from macer.experiments.demo import run_demo  # matplotlib and scikit-learn are slow to import

    console = Terminal()
    tables.print_table(console, tables.results_table(run_demo(out, seed=seed, console=console)))
    console.print(f"certificates (.tsv, .mat) and the figure are in {out}", highlight=False)
    console.print(f"open the report in a browser: {out / 'report.html'}", highlight=False, soft_wrap=True)
