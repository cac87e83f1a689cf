"""macer table, macer times, macer plot."""

from collections.abc import Iterable, Sequence
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from macer.errors import RecordsError, SettingsError
from macer.files.replacing import replacing
from macer.pretrained import zoo
from macer.results import tables
from macer.results.reading import read_files, with_facts
from macer.results.records import Records
from macer.results.times import read_times, read_zoo_times, times_table
from macer.runs.run import Run, epoch_of

Paths = Annotated[list[Path], typer.Argument(help="Run directories, .tsv and .mat files, zoo:NAME, in any mix.")]


Runs = Annotated[list[Path], typer.Argument(help="Directories of training runs, zoo:NAME.")]


class Form(str, Enum):
    """How a table is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("table")(table_command)
    app.command("times")(times_command)
    app.command("plot")(plot_command)


FormOption = Annotated[Form, typer.Option("--format", help="How to write it.")]
Out = Annotated[Path | None, typer.Option(help="Write to this file.")]
Sigma = Annotated[float | None, typer.Option(help="Sigma of files that do not say theirs, such as a .mat.")]
Radii = Annotated[
    str | None, typer.Option(help="Radii, like 0,0.5,1.", show_default="0.00, 0.25, ... as far as any reaches")
]


def table_command(
    paths: Paths,
    radii: Radii = None,
    sigma: Sigma = None,
    form: FormOption = Form.TERMINAL,
    out: Out = None,
) -> None:
    """Certified accuracy at radii, ACR with a bootstrap interval, abstentions, and which images these are of.

    Where sigma differs, rows are grouped by it; the best of each column is bold.
    """
    write_table(tables.results_table(_read(paths, sigma), parse_radii(radii)), form, out)


def times_command(runs: Runs, form: FormOption = Form.TERMINAL, out: Out = None) -> None:
    """What training took: seconds an epoch, epochs, hours and device, beside the ACR it led to."""
    times, left = [], []
    for run in runs:
        if zoo.is_of_zoo(run):
            times += [read_zoo_times(name) for name in zoo.matching(run)]
        elif Run(run).settings_file.is_file() and "certification" not in Run(run).settings():
            times.append(read_times(run))
        else:
            left.append(run)
    if not times:
        raise RecordsError(f"{left[0]}: not the directory of a training run (no {Run(left[0]).settings_file.name})")
    warn(f"left out, not the directory of a training run: {run}" for run in left)
    write_table(times_table(times), form, out)


def write_table(table: tables.Table, form: Form, out: Path | None) -> None:
    """Show a table, or write it to a file. What a form leaves out is said beside it."""
    if form is Form.CSV:
        warn(table.notes)
    if form is Form.TERMINAL and out is None:
        tables.print_table(Console(), table)
        return
    text = _text(table, form)
    if out is None:
        typer.echo(text, nl=False)
        return
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _text(table: tables.Table, form: Form) -> str:
    if form is Form.TERMINAL:
        stream = StringIO()
        tables.print_table(Console(file=stream), table)
        return stream.getvalue()
    return {Form.MARKDOWN: tables.to_markdown, Form.LATEX: tables.to_latex, Form.CSV: tables.to_csv}[form](table)


def warn(notes: Iterable[str]) -> None:
    """Say what a reader must know where it is in nobody's way."""
    for note in notes:
        typer.echo(f"warning: {tables.printable(note)}", err=True)


def plot_command(
    paths: Paths,
    out: Annotated[
        list[Path] | None, typer.Option(help="Picture to write: .png, .svg or .pdf; may be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the picture.")] = None,
    sigma: Sigma = None,
) -> None:
    """Draw radius-accuracy curves, a panel a sigma: MACER solid, Cohen dashed, SmoothAdv dotted."""
    from macer.results.plots import radius_accuracy_figure, save_figure  # matplotlib is slow to import

    files = out or [Path("radius-accuracy.png"), Path("radius-accuracy.svg")]
    all_records = _read(paths, sigma)
    save_figure(radius_accuracy_figure(all_records, title), files)
    warn(tables.notes_on(all_records))
    typer.echo(f"drawn: {', '.join(map(str, files))}")


def print_results(console: Console, paths: Sequence[Path]) -> None:
    """The table of results for a terminal."""
    tables.print_table(console, tables.results_table(_read(paths)))


def _read(paths: Sequence[Path], sigma: float | None = None) -> list[Records]:
    """All certificates; of runs whose finished network has some, without those between epochs."""
    all_records = []
    for path in paths:
        found = read_files(path)
        finished = {_home(file) for file, _ in found if epoch_of(file) is None}
        kept = [records for file, records in found if epoch_of(file) is None or _home(file) not in finished]
        if len(kept) < len(found):
            left = len(found) - len(kept)
            warn(
                [f"left out: {left} files of {path} that were made between epochs; name their directories to see them"]
            )
        all_records += kept
    return [with_facts(records, sigma=sigma) for records in all_records]


def _home(file: Path) -> Path:
    """The directory that has all certificates of a run in it."""
    return file.parent if epoch_of(file) is None else file.parents[1]


def parse_radii(text: str | None) -> list[float] | None:
    """The radii of an option like 0,0.5,1.

    Raises:
        SettingsError: it has something else.
    """
    if text is None:
        return None
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--radii takes numbers like 0,0.5,1, not {text!r}") from None
    if not all(0 <= radius < float("inf") for radius in radii):
        raise SettingsError(f"radii are not negative and finite: {text!r}")
    return radii
