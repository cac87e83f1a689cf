"""macer compare."""

from pathlib import Path
from typing import Annotated

import typer

from macer.cli.results import Form, FormOption, Out, Radii, parse_radii, warn, write_table
from macer.errors import SettingsError
from macer.results.compare import FACTS, comparison_table, read_comparable


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("compare")(compare_command)


def compare_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="A run's directory, .tsv or .mat file; more of them count as --with."),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="What to compare it with: a run, a file, or a directory of them."),
    ] = None,
    despite: Annotated[
        str | None,
        typer.Option(
            help=f"What may differ or be unknown, of {','.join(FACTS)}; with images, those that all have are compared."
        ),
    ] = None,
    sigma: Annotated[float | None, typer.Option(help="Sigma of files that do not say theirs.")] = None,
    n: Annotated[int | None, typer.Option(help="n of files that do not say theirs, as published ones.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Alpha of files that do not say theirs.")] = None,
    radii: Radii = None,
    form: FormOption = Form.TERMINAL,
    out: Out = None,
) -> None:
    """Compare a run with others, image by image: certified accuracy and ACR, and the paired differences.

    Where images, sigma, n or alpha differ, or are not known to agree, it refuses and says why; see --despite.
    """
    all_others = [*(others or []), *paths[1:]]  # --with published/*.tsv is one option and further arguments
    if not all_others:
        raise SettingsError(f"say what to compare {paths[0]} with: --with FILE")
    all_records, notes = read_comparable(paths[0], all_others, sigma=sigma, n=n, alpha=alpha)
    facts = [fact.strip() for fact in despite.split(",")] if despite else []
    table = comparison_table(all_records, parse_radii(radii), despite=facts)
    warn(notes)
    write_table(table, form, out)
