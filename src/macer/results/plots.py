"""Radius-accuracy curves, drawn from records."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from macer.errors import SettingsError
from macer.results.metrics import wilson_interval
from macer.results.records import Records

# Okabe and Ito's colours, told apart by every kind of colour vision; line styles tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("solid", "dashed", "dotted", "dashdot", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


def radius_accuracy_figure(all_records: Sequence[Records], title: str | None = None) -> Figure:
    """Certified accuracy against radius, a curve for each of the records, with Wilson's 95% bands at each radius.

    The curve is the exact step function: the share of images that are correct with a radius of at least r.
    """
    figure = Figure(figsize=(6.4, 3.6 + 0.2 * len(all_records)), layout="constrained")  # a legend line a curve
    axes = figure.add_subplot()
    largest = max(float(records.certified_radius.max()) for records in all_records) or 1.0
    for number, records in enumerate(all_records):
        radii, accuracy = _steps(records, largest)
        colour = _COLOURS[number % len(_COLOURS)]
        acr = records.certified_radius.mean()
        axes.plot(
            radii,
            accuracy,
            drawstyle="steps-pre",
            color=colour,
            linestyle=_STYLES[number % len(_STYLES)],
            label=f" {records.name}; ACR {acr:.3f}; images: {records.images}",  # one that begins with _ is not shown
        )
        low, high = wilson_interval(accuracy, len(records))
        axes.fill_between(radii, low, high, step="pre", color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="L2 radius, in units of [0, 1] pixels", ylabel="certified accuracy", ylim=(0, 1.02))
    axes.set_xlim(0, largest * 1.03)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside lower left", frameon=False, fontsize="small")
    for text in (*legend.get_texts(), axes.set_title(title or "")):
        text.set_parse_math(False)  # a dollar in a name is a dollar
    return figure


def _steps(records: Records, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """The radii at which certified accuracy falls, and its value up to each."""
    certified = np.sort(records.radius[records.correct])
    radii = np.concatenate([[0.0], np.unique(certified), [largest * 1.03]])
    return radii, (len(certified) - np.searchsorted(certified, radii, side="left")) / len(records)


def save_figure(figure: Figure, files: Sequence[Path]) -> None:
    """Write a figure to each file, in the format that its suffix names (png, svg, pdf); the same bytes every time.

    Raises:
        SettingsError: a suffix names no format.
    """
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in files:
        if file.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
            raise SettingsError(f"{file}: a picture's name ends in .png, .svg or .pdf")
    with matplotlib.rc_context({"svg.hashsalt": "macer"}):
        for file in files:
            figure.savefig(file, dpi=160, bbox_inches="tight", metadata=undated.get(file.suffix.lower()))
