"""Plots of certified accuracy against radius, drawn from records."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from macer.errors import SettingsError, needs
from macer.files.replacing import replacing
from macer.results.looks import look_numbers
from macer.results.metrics import certified_accuracy_curve
from macer.results.records import Records, by_sigma

with needs("report"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

# Okabe and Ito's colours, told apart by every kind of colour vision; line styles tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


class Picture(Figure):
    """A figure that a notebook shows, although it was made without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        stream = BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def radius_accuracy_figure(all_records: Sequence[Records], title: str | None = None) -> Picture:
    """Draw certified accuracy against radius: one panel per sigma, one curve per network, Wilson's 95% bands.

    A curve is the exact step function: the share of images that are correct and have a radius of at least r. The known
    methods look the same in every panel, and no other curve looks like them.
    """
    panels = by_sigma(all_records)
    methods = {records.method for records in all_records}
    looks = [look_numbers(list(enumerate(records.method for records in panel)), methods) for panel in panels]
    lines = max(map(len, panels))
    lines = lines if len(panels) == 1 else 2 * lines + 1
    # Constrained layout keeps the legend, one column per panel, out of the panels.
    figure = Picture(figsize=(max(6.4, 4.4 * len(panels)), 3.6 + 0.2 * lines), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel, panel_looks in zip(all_axes, panels, looks, strict=True):
        _draw_panel(axes, panel, panel_looks)
        if len(panels) > 1:
            axes.set_title(_sigma(panel))
    all_axes[0].set_ylabel("certified accuracy")
    legend = _add_legend(figure, panels)
    heading = [figure.suptitle(title)] if title else []
    for text in (*legend.get_texts(), *heading):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    return figure


def _draw_panel(axes: Axes, panel: Sequence[Records], looks: Sequence[int]) -> None:
    largest = max(float(records.certified_radius.max()) for records in panel) or 1.0
    for records, look in zip(panel, looks, strict=True):
        radii = accuracy_steps(records, largest * 1.03)
        accuracy, low, high = certified_accuracy_curve(records, radii)
        colour = _COLOURS[look % len(_COLOURS)]
        axes.plot(radii, accuracy, drawstyle="steps-pre", color=colour, linestyle=_STYLES[look % len(_STYLES)])
        axes.fill_between(radii, low, high, step="pre", color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="L2 radius, in units of [0, 1] pixels", xlim=(0, largest * 1.03), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _sigma(panel: Sequence[Records]) -> str:
    """Return a panel's title."""
    sigma = panel[0].sigma
    return "σ not recorded" if sigma is None else f"σ = {sigma:g}"


def _add_legend(figure: Figure, panels: Sequence[Sequence[Records]]) -> Legend:
    """Add name, ACR and images of each curve below the panels, in one column per panel, all of the same length."""
    entries = []
    for axes, panel in zip(figure.axes, panels, strict=True):
        several = len(panels) > 1
        if several:
            entries.append((Line2D([], [], color="none"), _sigma(panel)))
        for line, records in zip(axes.lines, panel, strict=True):
            facts = f"ACR {records.certified_radius.mean():.3f}; images: {records.images}"
            # a label that begins with _ would not be shown
            name = f" {records.name}" + (" (σ by file name)" if "sigma" in records.from_name else "")
            entries.append((line, name + ("\n " if several else "; ") + facts))
        entries += [(Line2D([], [], color="none"), " ")] * (max(map(len, panels)) - len(panel))
    handles, labels = zip(*entries, strict=True)
    return figure.legend(
        handles, labels, loc="outside lower left", ncols=len(panels), frameon=False, fontsize="small", handlelength=2.8
    )


def accuracy_steps(records: Records, end: float) -> Float64[np.ndarray, " radii"]:
    """Return the radii at which certified accuracy falls, from 0 to `end`."""
    return np.concatenate([[0.0], np.unique(records.radius[records.correct]), [end]])


def save_figure(figure: Figure, files: Sequence[Path]) -> None:
    """Write a figure to each file, in the format of its suffix (.png, .svg, .pdf). The bytes are the same every time.

    Raises:
        SettingsError: a suffix is none of these.
        OSError: a file cannot be written; the older file is then still there.
    """
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in files:
        if file.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
            raise SettingsError(f"{file}: a picture's name ends in .png, .svg or .pdf")
    with matplotlib.rc_context({"svg.hashsalt": "macer"}):
        for file in files:
            suffix = file.suffix.lower()
            drawn = BytesIO()  # on a full disk matplotlib would leave a PDF open
            figure.savefig(drawn, format=suffix[1:], dpi=160, bbox_inches="tight", metadata=undated.get(suffix))
            with replacing(file) as temporary:
                temporary.write_bytes(drawn.getvalue())
