"""macer demo."""

from pathlib import Path
from typing import Annotated

import typer

from macer.files.printable import Terminal
from macer.results import tables
from macer.results.compare import compare


def demo_command(
    out: Annotated[Path, typer.Option(help="Directory of the runs, the figure and the report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of both trainings and certifications.")] = 0,
) -> None:
    """Train two ways on handwritten digits, certify both and compare.

    The ways are Gaussian augmentation, and MACER with Consistency. This takes two to three minutes on two idle cores,
    and needs no download.
    """
    from macer.experiments.demo import run_demo  # matplotlib and scikit-learn are slow to import

    console = Terminal()
    baseline, ours = run_demo(out, seed=seed, console=console)
    tables.print_table(console, tables.results_table([baseline, ours]))
    console.print(str(compare(ours, baseline)))
    console.print(f"certificates (.tsv, .mat) and the figure are in {out}")
    console.print(f"open the report in a browser: {out / 'report.html'}")
