"""macer table, macer times, macer plot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from macer.errors import RecordsError, SettingsError
from macer.files.printable import Terminal, printable
from macer.files.replacing import replacing
from macer.pretrained import zoo
from macer.results.latex import to_latex
from macer.results.reading import read_trained, with_facts
from macer.results.records import Records, distinct
from macer.results.tables import (
    Table,
    checked_radii,
    linf_table,
    notes_on,
    print_table,
    results_table,
    to_csv,
    to_markdown,
)
from macer.results.times import read_times, read_zoo_times, times_table
from macer.runs.run import Run
from macer.runs.settings import require

Form = Literal["terminal", "markdown", "latex", "csv"]
_FORMS: dict[Form, Callable[[Table], str]] = {
    "terminal": repr,
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}
_SUFFIXES: dict[str, Form] = {"": "terminal", ".txt": "terminal", ".md": "markdown", ".tex": "latex", ".csv": "csv"}

Paths = Annotated[list[Path], typer.Argument(help="Runs' directories, .tsv and .mat files, zoo:NAME, in any mix.")]
FormOption = Annotated[
    Form | None,
    typer.Option(
        "--format",
        help="Form of the table; latex needs the packages booktabs and graphicx.",
        show_default="by the suffix of --out: .txt, .md, .tex or .csv",
    ),
]
Without = Annotated[
    str | None,
    typer.Option(help="Columns to leave out, by their titles, such as ACR.", metavar="TITLES"),
]
Label = Annotated[
    list[str] | None, typer.Option(help="Name to show for a path. Repeatable: one per path, in their order.")
]
Out = Annotated[Path | None, typer.Option(help="File to write the table to.", show_default="standard output")]
Sigma = Annotated[float | None, typer.Option(help="Sigma of files that do not record it, such as .mat files.")]
Radii = Annotated[
    str | None,
    typer.Option(
        help="L2 radii at which to give certified accuracy, such as 0,0.5,1, in units of [0, 1] pixels.",
        show_default="0.00, 0.25, ... up to the largest",
    ),
]


def table_command(
    paths: Paths,
    radii: Radii = None,
    sigma: Sigma = None,
    label: Label = None,
    without: Without = None,
    form: FormOption = None,
    out: Out = None,
    linf: Annotated[
        bool,
        typer.Option(
            "--linf",
            help="Give all radii, those of --radii as well, in the L-infinity norm, in units of 1/255: R / sqrt(d) of "
            "L2 radii R.",
        ),
    ] = False,
) -> None:
    """Print certified accuracy and average certified radius (ACR).

    ACR has a 95% bootstrap interval. The table also tells abstentions, time, and which images the rows are of. If sigma
    differs, rows are grouped by it; the best value of each column is bold.
    """
    form = form_of_table(form, out)
    make = linf_table if linf else results_table
    all_records, labels = _read_labelled(paths, sigma, label)
    if labels:
        all_records = [replace(records, run=name) for records, name in zip(all_records, labels, strict=True)]
    write_table(make(all_records, parse_radii(radii)), form, out, without)


def times_command(
    runs: Annotated[list[Path], typer.Argument(help="Directories of training runs, zoo:NAME.")],
    without: Without = None,
    form: FormOption = None,
    out: Out = None,
) -> None:
    """Print training times, and the ACR that they led to.

    These are seconds per epoch, epochs, hours, noisy images and hours of certification, with the device that computed.
    """
    form = form_of_table(form, out)
    trained, left = [], []
    for path in runs:
        run = Run(path)
        require(run.path.exists() or zoo.is_of_zoo(path), f"{path}: no such directory")
        if zoo.is_of_zoo(path):
            trained += [read_zoo_times(name) for name in zoo.matching(path)]
        elif run.settings_file.is_file() and "certification" not in run.settings():
            trained.append(read_times(path))
        else:
            left.append(run)
    if not trained:
        found = "certificates alone" if left[0].settings_file.is_file() else f"no {left[0].settings_file.name}"
        raise RecordsError(f"{left[0]}: not the directory of a training run ({found})")
    warn(f"left out, not the directory of a training run: {run}" for run in left)
    write_table(times_table(trained), form, out, without)


def plot_command(
    paths: Paths,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Picture to write: .png, .svg or .pdf. Repeatable.", show_default="radius-accuracy.png and .svg"
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the picture.")] = None,
    label: Label = None,
    short_legend: Annotated[bool, typer.Option("--short-legend", help="Only names in the legend, each once.")] = False,
    width: Annotated[
        float | None, typer.Option(help="Width of the picture in inches, such as a column's.", show_default="as needed")
    ] = None,
    sigma: Sigma = None,
) -> None:
    """Draw certified accuracy against radius.

    There is one panel per sigma, with 95% bands. Each training method looks the same in every picture: MACER solid,
    Cohen dashed, SmoothAdv dotted.
    """
    from macer.results.plots import radius_accuracy_figure, save_figure  # matplotlib is slow to import

    files = out or [Path("radius-accuracy.png"), Path("radius-accuracy.svg")]
    all_records, labels = _read_labelled(paths, sigma, label)
    figure = radius_accuracy_figure(all_records, title, labels=labels, width=width, short_legend=short_legend)
    save_figure(figure, files, exact=width is not None)
    warn(notes_on(all_records))
    typer.echo(printable(f"drawn: {', '.join(map(str, files))}"))


def print_results(console: Console, paths: Sequence[Path]) -> None:
    """Print the table of results."""
    print_table(console, results_table(read_paths(paths)))


def form_of_table(form: Form | None, out: Path | None) -> Form:
    """Return the form that was asked for, or else that of the file's suffix.

    Raises:
        SettingsError: there is no form with this suffix.
    """
    suffix = "" if out is None else out.suffix.lower()
    if form is None and suffix not in _SUFFIXES:
        raise SettingsError(f"{out}: a table's name ends in .txt, .md, .tex or .csv, or give --format")
    return form or _SUFFIXES[suffix]


def write_table(table: Table, form: Form, out: Path | None, without: str | None = None) -> None:
    """Print a table, without some columns, or write it to a file. Notes that the form has no room for are warnings."""
    if without:
        table = table.without([title.strip() for title in without.split(",")])
    if form == "csv":
        warn(table.notes)
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(_FORMS[form](table), encoding="utf-8")
    elif form == "terminal":
        print_table(Terminal(), table)  # in bold, too
    else:
        typer.echo(_FORMS[form](table), nl=False)


def warn(notes: Iterable[str]) -> None:
    """Print notes as warnings on standard error."""
    for note in notes:
        typer.echo(f"warning: {printable(note)}", err=True)


def parse_radii(text: str | None) -> list[float] | None:
    """Return the radii of an option such as 0,0.5,1.

    Raises:
        SettingsError: it is written otherwise.
    """
    if text is None:
        return None
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--radii takes numbers such as 0,0.5,1, not {text!r}") from None
    return checked_radii(radii)


def read_paths(paths: Sequence[Path]) -> list[Records]:
    """Read the certificates of trained networks at some paths, under names of their own; warn of what is left out."""
    return [records for group in _read_each(paths) for records in group]


def _read_labelled(
    paths: Sequence[Path], sigma: float | None, label: Sequence[str] | None
) -> tuple[list[Records], list[str] | None]:
    """Read the certificates at some paths; return them, and what to call each if there is a label for each path."""
    if label and len(label) != len(paths):
        raise SettingsError(f"give one --label per path: {len(label)} for {len(paths)}")
    groups = _read_each(paths, sigma)
    labels = [name for name, group in zip(label, groups, strict=True) for _ in group] if label else None
    return [records for group in groups for records in group], labels


def _read_each(paths: Sequence[Path], sigma: float | None = None) -> list[list[Records]]:
    """Read the certificates at each path; no two of them have the same name."""
    groups = []
    for path in paths:
        found, notes = read_trained(path)
        warn(notes)
        groups.append([with_facts(records, sigma=sigma) for records in found])
    named = iter(distinct(records for group in groups for records in group))
    return [[next(named) for _ in group] for group in groups]
