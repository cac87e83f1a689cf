"""macer compare."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from macer.cli.results import FormOption, Out, Radii, Sigma, form_of_table, parse_radii, warn, write_table
from macer.errors import SettingsError
from macer.results.compare import FACTS, comparison_table, read_comparable


def compare_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="A run's directory, .tsv or .mat file, or zoo:NAME; further ones are like --with."
        ),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="What to compare it with: a run, a file, or a directory of files. Repeatable."),
    ] = None,
    despite: Annotated[
        str | None,
        typer.Option(
            help=f"What may differ or be unknown: any of {','.join(FACTS)}. With images, the common ones are compared."
        ),
    ] = None,
    sigma: Sigma = None,
    n: Annotated[int | None, typer.Option(help="Samples per certificate of files that do not record it.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Failure probability of files that do not record it.")] = None,
    radii: Radii = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Name to show for a network. Repeatable: one for each, in their order.")
    ] = None,
    form: FormOption = None,
    out: Out = None,
) -> None:
    """Compare networks image by image.

    It prints certified accuracy and ACR of each, and the paired differences with their 95% intervals. If images, sigma,
    n or alpha differ or are unknown, the command refuses and says why, unless --despite allows it.
    """
    form = form_of_table(form, out)
    all_others = [*(others or []), *paths[1:]]  # --with published/*.tsv is one option and then further arguments
    if not all_others:
        raise SettingsError(f"give what to compare {paths[0]} with: --with FILE")
    all_records, notes = read_comparable(paths[0], all_others, sigma=sigma, n=n, alpha=alpha)
    if label:
        if len(label) != len(all_records):
            raise SettingsError(f"give one --label per network, in their order: {len(label)} for {len(all_records)}")
        if len(set(label)) < len(label):
            raise SettingsError("give each network a --label of its own")
        all_records = [replace(records, run=name) for records, name in zip(all_records, label, strict=True)]
    facts = [fact.strip() for fact in despite.split(",")] if despite else []
    table = comparison_table(all_records, parse_radii(radii), despite=facts)
    warn(notes)
    write_table(table, form, out)
