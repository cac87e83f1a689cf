"""Tables of results: made once from records, shown in a terminal or written as Markdown, LaTeX or CSV."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.text import Text

from macer.results.metrics import average_certified_radius, certified_accuracy, default_radii
from macer.results.records import Records


@dataclass(frozen=True)
class Table:
    """Cells of text under a header, with notes below, all of them printable and on one line.

    Attributes:
        header: the columns' titles.
        rows: their cells.
        shared: name and value of each fact that all rows share.
        notes: what else a reader must know.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shared: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lines_below(self) -> tuple[str, ...]:
        """The shared facts on one line, then the notes."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.shared)
        return (facts, *self.notes) if facts else self.notes


def results_table(all_records: Sequence[Records], radii: Sequence[float] | None = None) -> Table:
    """Certified accuracy at radii, ACR with its interval, abstentions, seconds: a row for each of the records.

    Args:
        all_records: one or more.
        radii: where to give certified accuracy; by default 0.00, 0.25, ... as far as any radius reaches.
    """
    radii = default_radii(all_records) if radii is None else radii
    shared, differing = _split_facts(all_records)
    header = ("", *differing, *(f"{radius:.2f}" for radius in radii), "ACR [95%]", "abstained", "seconds")
    rows = tuple(tuple(map(_printable, _row(records, differing, radii))) for records in all_records)
    notes = [_printable(note) for records in all_records for note in records.notes]
    if len({records.n for records in all_records}) > 1:
        notes.append("these certificates differ in n, or do not say it: ACR is not comparable across n")
    if len({(records.dataset, None if records.idx is None else tuple(records.idx)) for records in all_records}) > 1:
        notes.append("these rows are about different images, or do not say which")
    return Table(
        header, rows, tuple((fact, _printable(value)) for fact, value in shared.items() if value), tuple(notes)
    )


def _printable(text: str) -> str:
    """Names of files can hold anything: line ends, terminal commands, bytes that are no text."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _facts(records: Records) -> dict[str, str]:
    """What a certificate is about, beside its radius."""
    return {
        "sigma": "" if records.sigma is None else f"{records.sigma:g}",
        "n": "" if records.n is None else f"{records.n:,}",
        "alpha": "" if records.alpha is None else f"{records.alpha:g}",
        "data": records.dataset or "",
        "images": records.images,
    }


def _split_facts(all_records: Sequence[Records]) -> tuple[dict[str, str], list[str]]:
    """The facts that all rows share, to be said once, and the names of those that need a column."""
    every = [_facts(records) for records in all_records]
    shared = {name: value for name, value in every[0].items() if all(facts[name] == value for facts in every)}
    return shared, [name for name in every[0] if name not in shared]


def _row(records: Records, differing: Sequence[str], radii: Sequence[float]) -> tuple[str, ...]:
    facts = _facts(records)
    acr = average_certified_radius(records)
    return (
        records.name,
        *(facts[name] for name in differing),
        *(f"{certified_accuracy(records, radius):.3f}" for radius in radii),
        f"{acr.value:.3f} [{acr.low:.3f}, {acr.high:.3f}]",
        "" if records.abstained is None else str(records.abstained),
        "" if records.seconds is None else f"{records.seconds.sum():.0f}",
    )


def print_table(console: Console, table: Table) -> None:
    """Show a table in a terminal, every cell on one line even where the terminal is narrower than the table."""
    view = rich.table.Table(box=rich.table.box.SIMPLE_HEAD)
    for position, title in enumerate(table.header):
        view.add_column(title, justify="right" if position else "left", no_wrap=True)
    for row in table.rows:
        view.add_row(*map(Text, row))  # not markup: a name in brackets is a name
    needed = Measurement.get(console, console.options.update(max_width=10_000), view).maximum
    options = console.options.update(width=max(needed, console.width))  # print itself takes no more than it has
    console.print(Segments(console.render(view, options)), crop=False)
    for note in table.lines_below:
        console.print(f"  {note}", highlight=False, soft_wrap=True, markup=False)


def to_markdown(table: Table) -> str:
    """A pipe table."""
    lines = [
        _pipes(table.header),
        _pipes(tuple("---:" if position else "---" for position in range(len(table.header)))),
        *(_pipes(row) for row in table.rows),
    ]
    return "\n".join([*lines, *(f"\n{_markdown_text(note)}" for note in table.lines_below)]) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown_text, cells)) + " |"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|<*`])", r"\\\1", text)


def to_latex(table: Table) -> str:
    """A tabular for the booktabs package."""
    width = len(table.header)
    body = [" & ".join(map(_latex_text, row)) + r" \\" for row in (table.header, *table.rows)]
    return (
        "\n".join(
            [
                rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
                r"\toprule",
                body[0],
                r"\midrule",
                *body[1:],
                r"\bottomrule",
                *(rf"\multicolumn{{{width}}}{{l}}{{{_latex_text(note)}}} \\" for note in table.lines_below),
                r"\end{tabular}",
            ]
        )
        + "\n"
    )


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    special |= {"[": "{[}"}  # at the beginning of a row it would be an argument of the line break above
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def to_csv(table: Table) -> str:
    """Comma-separated values; facts that all rows share are columns here, and notes are left to the other forms."""
    stream = io.StringIO()
    names, values = zip(*table.shared, strict=True) if table.shared else ((), ())
    csv.writer(stream, lineterminator="\n").writerows([table.header + names, *(row + values for row in table.rows)])
    return stream.getvalue()
