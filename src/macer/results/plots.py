"""Plots of certified accuracy against radius, drawn from records."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from macer.errors import SettingsError, needs
from macer.files.replacing import replacing
from macer.results.looks import look_numbers
from macer.results.metrics import band_end, certified_accuracy_curve
from macer.results.records import Records, by_sigma

with needs("report"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart by every kind of colour vision; line styles tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


_CHARACTERS = 13
"""How many characters of a legend an inch has room for."""
_FILES: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "macer"}
"""TrueType fonts, which journals ask for instead of Type 3, and the same bytes every time."""


class Picture(Figure):
    """A figure that a notebook shows, although it was made without pyplot and its global state."""

    def savefig(self, *arguments: Any, **options: Any) -> None:
        """Write the picture as matplotlib does, with TrueType fonts in PDF files."""
        with matplotlib.rc_context(_FILES):
            super().savefig(*arguments, **options)

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def radius_accuracy_figure(
    all_records: Sequence[Records],
    title: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    width: float | None = None,
    short_legend: bool = False,
) -> Picture:
    """Draw certified accuracy against radius: one panel per sigma, one curve per network, Wilson's 95% bands.

    A curve is the exact step function: the share of images that are correct and have a radius of at least r. The known
    methods look the same in every panel, and so do runs whose names differ in sigma only; no other curve looks like
    them. A band ends at the largest possible radius, where that is unknown at the largest one in the file.

    Args:
        all_records: one or more.
        title: title above the panels.
        labels: a name for the legend per record; by default its own. Records of one label look the same in all panels.
        width: width of the picture in inches, by default 6.4, or more for several panels.
        short_legend: name each look once, without ACR, images and sigma.

    Raises:
        SettingsError: the number of labels is not that of the records, or an impossible width.
    """
    if labels is not None and len(labels) != len(all_records):
        raise SettingsError(f"{len(labels)} labels for {len(all_records)} curves")
    if width is not None and not 1 <= width <= 100:
        raise SettingsError(f"the width of a picture is a number of inches from 1 to 100, not {width:g}")
    names = {id(records): name for records, name in zip(all_records, labels or (), strict=False)}
    panels = [[_Curve(records, names.get(id(records))) for records in panel] for panel in by_sigma(all_records)]
    for panel, looks in zip(panels, look_numbers([_subjects(panel) for panel in panels]), strict=True):
        for curve, look in zip(panel, looks, strict=True):
            curve.look = look
    entries = _short_entries(panels) if short_legend else _full_entries(panels)
    wide = width or max(6.4, 4.4 * len(panels))
    fitting = int(wide * _CHARACTERS / (max(len(label) for _, label in entries) + 8))
    across = max(1, min(len(entries), fitting)) if short_legend else len(panels)
    lines = sum(label.count("\n") + 1 for _, label in entries) / across
    height = 3.6 if width is None else min(3.6, 0.75 * width / len(panels) + 1.1)
    size = wide, height + 0.2 * lines
    space = " " if wide / len(panels) > 3 else "\n"
    # Constrained layout keeps the legend out of the panels.
    figure = Picture(figsize=size, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
        axes.set_xlabel(f"L2 radius, in units{space}of [0, 1] pixels")
        if len(panels) > 1:
            axes.set_title(_sigma(panel))
    figure.axes[0].set_ylabel("certified accuracy")
    handles, texts = zip(*entries, strict=True)
    legend = figure.legend(
        handles, texts, loc="outside lower left", ncols=across, frameon=False, fontsize="small", handlelength=2.8
    )
    for text in (*legend.get_texts(), *([figure.suptitle(title)] if title else [])):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    return figure


@dataclass
class _Curve:
    """A curve of a panel: its certificates, the name that it was given, and how it looks."""

    records: Records
    label: str | None
    look: int = 0

    @property
    def name(self) -> str:
        return self.label or self.records.name

    @property
    def drawn(self) -> dict[str, Any]:
        return {"color": _COLOURS[self.look % len(_COLOURS)], "linestyle": _STYLES[self.look % len(_STYLES)]}

    @property
    def line(self) -> Line2D:
        return Line2D([], [], **self.drawn)


def _subjects(panel: Sequence[_Curve]) -> list[tuple[Hashable, str | None]]:
    """Return what each curve of a panel is of, which is the same in other panels, and its method."""
    seen: Counter[str] = Counter()
    subjects: list[tuple[Hashable, str | None]] = []
    for curve in panel:
        name = curve.label or _without_sigma(curve.records)
        subjects.append(((name, seen[name]), curve.records.method))
        seen[name] += 1
    return subjects


def _without_sigma(records: Records) -> str:
    """Return a name without the noise level in it: what is left is the same for one method at several sigma."""
    if records.sigma is None:
        return records.name
    numbers = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
    return numbers.sub(lambda found: "" if float(found[0]) == records.sigma else found[0], records.name)


def _draw_panel(axes: Axes, panel: Sequence[_Curve]) -> None:
    largest = max(float(curve.records.certified_radius.max()) for curve in panel) or 1.0
    alpha = min(0.15, 0.4 / len(panel))  # many bands on one another would hide the curves
    for curve in panel:
        records = curve.records
        limit = band_end(records)
        radii = accuracy_steps(records, largest * 1.03 if records.at_least is None else limit)
        accuracy, _, _ = certified_accuracy_curve(records, radii)
        axes.plot(radii, accuracy, drawstyle="steps-pre", **curve.drawn)
        radii = np.unique(np.append(radii, limit))
        _, low, high = certified_accuracy_curve(records, radii)
        within = radii <= limit
        axes.fill_between(
            radii[within], low[within], high[within], step="pre", color=curve.drawn["color"], alpha=alpha, linewidth=0
        )
    axes.set(xlim=(0, largest * 1.03), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _sigma(panel: Sequence[_Curve]) -> str:
    """Return a panel's title."""
    sigma = panel[0].records.sigma
    return "σ not recorded" if sigma is None else f"σ = {sigma:g}"


def _full_entries(panels: Sequence[Sequence[_Curve]]) -> list[tuple[Line2D, str]]:
    """Return name, ACR and images of each curve, in one column per panel, all of the same length."""
    entries, several = [], len(panels) > 1
    for panel in panels:
        if several:
            entries.append((Line2D([], [], color="none"), _sigma(panel)))
        for curve in panel:
            records = curve.records
            facts = f"images: {records.images}"
            if records.at_least is None:
                facts = f"ACR {records.certified_radius.mean():.3f}; {facts}"
            # a label that begins with _ would not be shown
            name = f" {curve.name}" + (" (σ by file name)" if "sigma" in records.from_name else "")
            entries.append((curve.line, name + ("\n " if several else "; ") + facts))
        entries += [(Line2D([], [], color="none"), " ")] * (max(map(len, panels)) - len(panel))
    return entries


def _short_entries(panels: Sequence[Sequence[_Curve]]) -> list[tuple[Line2D, str]]:
    """Return the name of each look once."""
    named: dict[tuple[str, int], _Curve] = {}
    for curve in (curve for panel in panels for curve in panel):
        named.setdefault((curve.label or _without_sigma(curve.records), curve.look), curve)
    several = len(panels) > 1
    return [(curve.line, f" {name.strip(' _-/') if several else curve.name}") for (name, _), curve in named.items()]


def accuracy_steps(records: Records, end: float) -> Float64[np.ndarray, " radii"]:
    """Return the radii at which certified accuracy falls, from 0 to `end`."""
    return np.concatenate([[0.0], np.unique(records.radius[records.correct]), [end]])


def save_figure(figure: Figure, files: Sequence[Path], *, exact: bool = False) -> None:
    """Write a figure to each file, in the format of its suffix (.png, .svg, .pdf). The bytes are the same every time.

    Args:
        figure: the figure.
        files: where to write it.
        exact: keep the size of the figure; by default it is cut, or made larger, to what is drawn.

    Raises:
        SettingsError: a suffix is none of these.
        OSError: a file cannot be written; the older file is then still there.
    """
    undated = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in files:
        if file.suffix.lower() not in undated:
            raise SettingsError(f"{file}: a picture's name ends in .png, .svg or .pdf")
    for file in files:
        suffix = file.suffix.lower()
        drawn = BytesIO()  # on a full disk matplotlib would leave a PDF open
        box = None if exact else "tight"
        with matplotlib.rc_context(_FILES):
            figure.savefig(drawn, format=suffix[1:], dpi=160, bbox_inches=box, metadata=undated[suffix])
        with replacing(file) as temporary:
            temporary.write_bytes(drawn.getvalue())
