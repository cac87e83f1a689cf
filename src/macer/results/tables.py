"""Tables of results: made once from records, shown in a terminal or a notebook, or as Markdown, LaTeX or CSV."""

import csv
import html
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import rich.table
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from macer.errors import RecordsError, SettingsError
from macer.files.printable import printable
from macer.results.metrics import average_certified_radius, certified_accuracy, default_radii, why_no_interval
from macer.results.records import Records, by_sigma, method_name

ACR = "ACR [95%]"
"""The title of the column of average certified radii."""

_ENDS = " [95%]"
_INTERVAL = re.compile(r"(\S+) \[(\S+), (\S+)\]")
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")


@dataclass(frozen=True, repr=False)
class Table:
    """Cells of text under a header, with notes below. A notebook shows it in HTML, `print` as in a terminal.

    Every text in it is printable and has no line breaks.

    Attributes:
        header: the columns' titles.
        rows: the cells.
        shared: name and value of each fact that all rows share.
        notes: what else a reader must know.
        best: row and column, from 0, of each cell that is the best of its column and is shown in bold.
        breaks: the rows, from 0, above which a new group begins.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shared: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    breaks: frozenset[int] = frozenset()

    @property
    def lines_below(self) -> tuple[str, ...]:
        """The shared facts on one line, then the notes."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.shared)
        return (facts, *self.notes) if facts else self.notes

    def without(self, titles: Collection[str]) -> "Table":
        """Return the table without some columns, such as abstained, seconds, ACR or a radius.

        Raises:
            SettingsError: there is no such column, or it says which images the rows are of.
        """
        short = {title.split(" [")[0].lower(): number for number, title in enumerate(self.header) if number}
        for title in titles:
            if title.lower() not in short or title.lower() == "images":
                known = ", ".join(name for name in short if name != "images")
                raise SettingsError(f"columns that can be left out are {known}; not {title!r}")
        left_out = {short[title.lower()] for title in titles}
        return self.with_columns([number for number in range(len(self.header)) if number not in left_out])

    def with_columns(self, columns: Sequence[int]) -> "Table":
        """Return the table of these of its columns, from 0, in this order."""
        return replace(
            self,
            header=tuple(self.header[column] for column in columns),
            rows=tuple(tuple(row[column] for column in columns) for row in self.rows),
            best=frozenset((row, columns.index(column)) for row, column in self.best if column in columns),
        )

    def __repr__(self) -> str:
        stream = io.StringIO()
        print_table(Console(file=stream, force_jupyter=False, force_terminal=False), self)
        return stream.getvalue()

    def _repr_html_(self) -> str:
        return to_html(self)


def results_table(all_records: Sequence[Records], radii: Sequence[float] | None = None) -> Table:
    """Return certified accuracy at some radii, ACR with its interval, abstentions and seconds, one row per network.

    If sigma differs, rows are grouped by it and ordered by method. The best values of a sigma are marked, unless its
    rows are not `alike`.

    Args:
        all_records: one or more.
        radii: where to give certified accuracy; by default 0.00, 0.25, ... up to the largest certified radius. Images
            that were certified at one radius or not at all have a number at that radius only, and no ACR.
    """
    whole = [records for records in all_records if records.at_least is None]
    radii = shown_radii(all_records) if radii is None else radii
    groups = by_sigma(all_records)
    all_records = [records for group in groups for records in group]
    shared, differing = split_facts([_facts(records) for records in all_records])
    header = ("", *differing, *map(radius_title, radii), *((ACR,) if whole else ()), "abstained", "seconds")
    rows = tuple(tuple(map(printable, _row(records, differing, radii, acr=bool(whole)))) for records in all_records)
    positions, breaks = rows_of_groups(groups)
    best = set()
    for group, places in zip(groups, positions, strict=True):
        if alike(group):
            best |= best_cells(rows, places, range(1 + len(differing), len(header) - 2), max)
    return Table(header, rows, shared, notes_on(all_records), frozenset(best), breaks)


def rows_of_groups(groups: Sequence[Sized]) -> tuple[list[range], frozenset[int]]:
    """Return the rows of each group, and the rows above which one begins: none where every group has a single row."""
    edges = [0, *accumulate(map(len, groups))]
    rows = [range(*edge) for edge in pairwise(edges)]
    return rows, frozenset(edges[1:-1] if len(groups) < edges[-1] else ())


def linf_table(all_records: Sequence[Records], radii: Sequence[float] | None = None) -> Table:
    """Return `results_table` in L-infinity radii, in units of 1/255: R / sqrt(d) of the L2 radii R, d values per image.

    Args:
        all_records: one or more.
        radii: where to give certified accuracy, in units of 1/255; by default 0, 1, ... up to the largest certified
            radius, or 0, 0.25, ... where that is less than 2.5.

    Raises:
        RecordsError: the shape of some records' images is unknown.
    """
    in_linf = list(map(_in_linf, all_records))
    if radii is None:
        largest = max(float(records.certified_radius.max()) for records in in_linf)
        radii = shown_radii(in_linf, step=0.25 if largest < 2.5 else 1.0)
    table = results_table(in_linf, radii)
    titles = {radius_title(radius): f"{radius:g}/255" for radius in radii} | {ACR: ACR.replace("ACR", "ACR * 255")}
    unit = ("radii", "L-infinity, R / sqrt(d), which follows from the L2 radius R")
    return replace(
        table, header=tuple(titles.get(title, title) for title in table.header), shared=(*table.shared, unit)
    )


def _in_linf(records: Records) -> Records:
    """Return records with L-infinity radii in units of 1/255 in place of L2 radii."""
    if records.linf_per_l2 is None:
        raise RecordsError(f"{records.name}: L-infinity radii need the shape of the images, which is not recorded")
    scale = 255 * records.linf_per_l2
    at_least = None if records.at_least is None else records.at_least * scale
    return replace(records, radius=records.radius * scale, at_least=at_least)


def notes_on(all_records: Sequence[Records]) -> tuple[str, ...]:
    """Return what a reader must know before comparing rows: the records' own notes, and how the rows differ."""
    notes = [printable(note) for records in all_records for note in records.notes]
    notes += [
        printable(f"{records.name}: {why}, which therefore has no interval")
        for records in all_records
        if records.at_least is None and (why := why_no_interval(records))  # else, no ACR is shown
    ]
    if len({records.n for records in all_records}) > 1:
        notes.append("n differs between these rows, or is not recorded: ACR is not comparable across n")
    if len({records.beta for records in all_records if records.kind == "soft"}) > 1:
        notes.append("beta differs between these soft certificates: they are of different smoothed classifiers")
    if not of_same_images(all_records):
        notes.append("these rows are of different images, or of unknown ones")
    return tuple(dict.fromkeys(notes))


def of_same_images(all_records: Sequence[Records]) -> bool:
    """Return whether records are of the same images, as far as they say which: by indices and, where known, digests."""
    if len(all_records) == 1:
        return True
    names = {"" if each.is_of_own_images else each.data for each in all_records}
    choices = {each.idx.tobytes() for each in all_records if each.idx is not None}
    labels = {each.label.tobytes() for each in all_records if each.label is not None}
    digests = {tuple(each.image) for each in all_records if each.image is not None}
    known = all(each.idx is not None for each in all_records)
    return known and max(len(names), len(choices), len(labels), len(digests)) <= 1


def alike(all_records: Sequence[Records]) -> bool:
    """Return whether one of these may be called the best: they are of the same images and were made in the same way."""
    ways = {(each.kind, each.sigma, each.n, each.within, each.alpha, each.bound, each.beta) for each in all_records}
    return of_same_images(all_records) and len(ways) <= 1


def best_cells(
    rows: Sequence[Sequence[str]], positions: Iterable[int], columns: Iterable[int], choose: Callable
) -> set[tuple[int, int]]:
    """Return row and column of the best number of each column, with ties as printed; none if all are the same.

    Args:
        rows: the cells; text after a number is ignored, and so are empty cells.
        positions: the rows to compare.
        columns: the columns to look at.
        choose: max or min.
    """
    best = set()
    for column in columns:
        values = {
            position: float(rows[position][column].split()[0]) for position in positions if rows[position][column]
        }
        if len(set(values.values())) > 1:
            best |= {(position, column) for position, value in values.items() if value == choose(values.values())}
    return best


def _facts(records: Records) -> dict[str, str]:
    """Return how certificates were made, by name."""
    sigma = "" if records.sigma is None else f"{records.sigma:g}"
    return {
        "method": "" if "method" in records.from_name else method_name(records.method),
        "sigma": f"{sigma} (file name)" if "sigma" in records.from_name else sigma,
        "n": "" if records.n is None else f"{records.n:,}",
        "alpha": "" if records.alpha is None else f"{records.alpha:g}",
        "within": "" if records.within is None else f"{records.within:g}",
        "bound": records.bound or "",
        "precision": records.precision or "",
        "data": records.data,
        "images": records.images,
    }


def split_facts(every: Sequence[dict[str, str]]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Return the facts that all rows share, and the names of those that need a column."""
    shared = {name: value for name, value in every[0].items() if all(facts[name] == value for facts in every)}
    told = tuple((name, printable(value)) for name, value in shared.items() if value)
    return told, [name for name in every[0] if name not in shared]


def checked_radii(radii: Sequence[float]) -> list[float]:
    """Return the radii that are asked for.

    Raises:
        SettingsError: one is negative or not finite.
    """
    if not all(0 <= radius < math.inf for radius in radii):
        raise SettingsError(f"radii must be finite and not negative: {', '.join(map(str, radii))}")
    return list(radii)


def shown_radii(all_records: Sequence[Records], step: float = 0.25) -> list[float]:
    """Return `default_radii`, and those at which images were certified or not at all."""
    whole = [records for records in all_records if records.at_least is None]
    asked = {records.at_least for records in all_records if records.at_least is not None}
    return sorted({*(default_radii(whole, step) if whole else ()), *asked})


def radius_title(radius: float) -> str:
    """Return a radius with two digits behind the point, or with more if it has them."""
    return f"{radius:.2f}" if round(radius, 2) == radius else f"{radius:g}"


def _row(records: Records, differing: Sequence[str], radii: Sequence[float], *, acr: bool) -> tuple[str, ...]:
    facts = _facts(records)
    shown = (records.at_least in (None, radius) for radius in radii)
    return (
        records.name,
        *(facts[name] for name in differing),
        *(f"{certified_accuracy(records, at):.3f}" if says else "" for at, says in zip(radii, shown, strict=True)),
        *((acr_cell(records),) if acr else ()),
        "" if records.abstained is None else str(records.abstained),
        "" if records.seconds is None else f"{records.seconds.sum():.0f}",
    )


def acr_cell(records: Records) -> str:
    """Return ACR with its interval, or nothing where images were certified at one radius or not at all."""
    return average_certified_radius(records).in_words() if records.at_least is None else ""


def print_table(console: Console, table: Table) -> None:
    """Print a table to a terminal. One that is wider continues below itself, with the first column again.

    Names longer than a third of the terminal are then broken into lines; other cells if they do not fit beside them.
    """
    every = range(len(table.header))
    longest = None if _width(console, _view(table, every)) <= console.width else max(console.width // 3, 10)
    for columns in _fitting(console, table, longest):
        console.print(_view(table, columns, longest))
    for note in table.lines_below:
        console.print(f"  {note}", soft_wrap=True, markup=False)


def _fitting(console: Console, table: Table, longest: int | None) -> Iterator[list[int]]:
    """Yield the columns, from 0, that fit beside the first one: each once, in their order."""
    left = list(range(1, len(table.header)))
    while True:
        count = len(left)
        while count > 1 and _width(console, _view(table, [0, *left[:count]], longest)) > console.width:
            count -= 1
        yield [0, *left[:count]]
        left = left[count:]
        if not left:
            return


def _width(console: Console, view: rich.table.Table) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), view).maximum


def _view(table: Table, columns: Sequence[int], longest: int | None = None) -> rich.table.Table:
    """Return some columns for a terminal, the names of the first one in at most so many characters per line."""
    view = rich.table.Table(box=rich.table.box.SIMPLE_HEAD)
    for column in columns:
        justify, most = ("right", None) if column else ("left", longest)
        view.add_column(Text(table.header[column]), overflow="fold", justify=justify, max_width=most)
    for number, row in enumerate(table.rows):
        if number in table.breaks:
            view.add_section()
        # names may contain brackets, which are no markup
        view.add_row(*(Text(row[column], "bold" if (number, column) in table.best else "") for column in columns))
    return view


def to_markdown(table: Table) -> str:
    """Return a pipe table."""
    lines = [
        _pipes(map(_markdown_text, table.header)),
        _pipes("---:" if position else "---" for position in range(len(table.header))),
        *(_pipes(row) for row in marked(table, _markdown_text, "**{}**")),
    ]
    return "\n".join([*lines, *(f"\n{_markdown_text(note)}" for note in table.lines_below)]) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def marked(table: Table, escape: Callable[[str], str], bold: str) -> Iterator[list[str]]:
    """Yield the rows, escaped, with their best cells in bold."""
    for number, row in enumerate(table.rows):
        yield [
            bold.format(escape(cell)) if (number, column) in table.best else escape(cell)
            for column, cell in enumerate(row)
        ]


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|<*`])", r"\\\1", text)


def to_html(table: Table) -> str:
    """Return a table for a page or a notebook, with the notes below it."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in table.header)
    rows = ["".join(f"<td>{cell}</td>" for cell in row) for row in marked(table, html.escape, "<b>{}</b>")]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in table.lines_below)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}"


def _title(title: str) -> str:
    """Return a title whose column has no intervals."""
    return title.removesuffix(_ENDS)


def to_csv(table: Table) -> str:
    """Return comma-separated values. Facts that all rows share are columns here, and notes are left out.

    Cells are numbers for programs: an interval has two columns of its own, and nothing separates thousands.
    """
    stream = io.StringIO()
    names, values = zip(*table.shared, strict=True) if table.shared else ((), ())
    first, *others = zip(table.header + names, *(row + values for row in table.rows), strict=True)
    named = [_title(cell) if cell == ACR else cell for cell in first]
    columns: list[list[str]] = [named]
    for number, (title, *cells) in enumerate(others, start=1):
        has_ends = title.endswith(_ENDS) or (ACR in first and number < len(table.header))  # a network, compared
        columns += _with_ends(title, cells) if has_ends else [[title, *map(_plain, cells)]]
    csv.writer(stream, lineterminator="\n").writerows(zip(*columns, strict=True))
    return stream.getvalue()


def _with_ends(title: str, cells: Sequence[str]) -> list[list[str]]:
    """Return three columns of CSV: the values, and both ends of their intervals where they have one."""
    found = [_INTERVAL.fullmatch(cell) for cell in cells]
    parts = [each.groups() if each else (cell, "", "") for each, cell in zip(found, cells, strict=True)]
    titles = (_title(title), *(f"{_title(title)} {end}" for end in ("low", "high")))
    return [[name, *values] for name, values in zip(titles, zip(*parts, strict=True), strict=True)]


def _plain(cell: str) -> str:
    """Return a number without separators of thousands; any other text as it is."""
    return cell.replace(",", "") if _THOUSANDS.fullmatch(cell) else cell
