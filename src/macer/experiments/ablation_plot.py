"""The figure of an ablation: four panels, each with the curves of one of MACER's numbers."""

from collections.abc import Sequence

import numpy as np

from macer.errors import needs
from macer.experiments.ablation import Point
from macer.results import Records
from macer.results.metrics import certified_accuracy_curve
from macer.results.plots import accuracy_steps

with needs("report"):
    import matplotlib
    from matplotlib.figure import Figure

_NAMES = {"gauss_num": "k", "lbd": "lambda", "gamma": "gamma", "beta": "beta"}
_STYLES = ("solid", "dashed", "dashdot", "dotted")  # from the smallest value to the largest, as the colours from dark


def ablation_figure(points: Sequence[Point], all_records: Sequence[Records], title: str) -> Figure:
    """Plot certified accuracy against radius, with one panel per number and one curve per value.

    Args:
        points: the curves, panel by panel, with ascending values.
        all_records: the certificates of each.
        title: above all panels.
    """
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    largest = max(float(records.certified_radius.max()) for records in all_records) or 1.0
    for axes, parameter in zip(panels.flat, dict.fromkeys(point.parameter for point in points), strict=True):
        curves = [pair for pair in zip(points, all_records, strict=True) if pair[0].parameter == parameter]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(curves)))
        for number, (point, records) in enumerate(curves):
            radii = accuracy_steps(records, largest * 1.03)
            accuracy, _, _ = certified_accuracy_curve(records, radii)
            label = f"{_NAMES[parameter]} = {point.value:g}; ACR {records.certified_radius.mean():.3f}"
            look = {"color": colours[number], "linestyle": _STYLES[number]}
            axes.plot(radii, accuracy, drawstyle="steps-pre", label=label, **look)
        axes.set(title=_NAMES[parameter], ylim=(0, 1.02), xlim=(0, largest * 1.03))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    figure.supxlabel("L2 radius, in units of [0, 1] pixels")
    figure.supylabel("certified accuracy")
    figure.suptitle(title, fontsize="medium", wrap=True).set_parse_math(False)
    return figure
