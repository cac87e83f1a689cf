"""The page's plots in plotly's format: plain dictionaries, computed from records.

A colour is the name of one of the page's CSS variables, such as "--run-1"; the page replaces it by its value, which is
different in dark mode.
"""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from macer.files.printable import printable
from macer.report.classes import proved_bounds
from macer.report.looks import Look, pair_look
from macer.report.sources import Gathered, Source
from macer.results.metrics import (
    average_certified_radius,
    band_end,
    certified_accuracy_curve,
    paired_accuracy_difference,
)
from macer.results.records import Records
from macer.results.times import Training

Figure = dict[str, Any]

_POINTS = 400
_LONGEST_NAME = 42


def radius_accuracy(sources: Sequence[Source]) -> Figure:
    """Return certified accuracy against radius with Wilson's 95% bands, exact at radii that all curves share.

    Soft certificates of a network that has hard ones, too, are hidden until a reader clicks their name.
    """
    everything = [source.records for source in sources]
    radii = _radii(everything)
    traces: list[dict[str, Any]] = []
    networks = {source.network for source in sources if source.records.kind == "hard"}
    for number, source in enumerate(sources):
        records, look = source.records, source.look
        hidden = records.kind == "soft" and source.network in networks
        accuracy, low, high = certified_accuracy_curve(records, radii)
        counts = [f"{round(value * len(records)):,} of {len(records):,} images" for value in accuracy]
        texts = [
            f"{value:.3f} [{down:.3f}, {up:.3f}], {count}"
            for value, down, up, count in zip(accuracy, low, high, counts, strict=True)
        ]
        name = _text(records.name)
        group = {"legendgroup": str(number), **({"visible": "legendonly"} if hidden else {})}
        if not source.published:
            within = radii <= band_end(records)
            traces += _band(radii[within], low[within], high[within], look, group)
        traces.append(
            {
                **_line(radii, accuracy, name, look, texts),
                **group,
                "opacity": 0.75 if source.published else 0.6 if hidden else 1,
                "legendrank": 1001 if source.published else 1000,  # drawn first, named last
                "line": {
                    "color": look.colour,
                    "dash": "dot" if hidden else look.dash,
                    "width": 1.6 if source.published or hidden else 2.4,
                    "shape": "vh",  # steps: the value at a radius holds from just above the radius before
                },
            }
        )
    published_first = sorted(traces, key=lambda trace: trace.get("line", {}).get("color") != "--published")
    return _figure(
        published_first,
        x={"title": _title("L2 radius, in units of [0, 1] pixels"), "range": [0, radii[-1]], "hoverformat": ".3f"},
        y={"title": _title("certified accuracy"), "range": [0, 1.02]},
        heading="radius %{x:.3f}",
    )


def accuracy_differences(pairs: Sequence[tuple[Source, Source]]) -> Figure | None:
    """Return certified accuracy of the first of a pair minus that of the second, with 95% bands, at every radius.

    All but the first pair are hidden until a reader clicks their names. Return None if there are no pairs.
    """
    if not pairs:
        return None
    radii = _radii([source.records for pair in pairs for source in pair])
    traces: list[dict[str, Any]] = []
    for number, (one, other) in enumerate(pairs):
        look = pair_look(number)
        estimates = [paired_accuracy_difference(one.records, other.records, radius) for radius in radii]
        values = np.array([estimate.value for estimate in estimates])
        low = np.array([estimate.low for estimate in estimates])
        high = np.array([estimate.high for estimate in estimates])
        texts = [estimate.in_words(sign="+") for estimate in estimates]
        name = f"{_text(one.records.name)} − {_text(other.records.name)}"
        group = {"legendgroup": str(number), **({} if number == 0 else {"visible": "legendonly"})}
        line = {"color": look.colour, "dash": look.dash, "width": 2.2, "shape": "vh"}
        traces += _band(radii, low, high, look, group)
        traces.append({**_line(radii, values, name, look, texts), **group, "line": line})
    return _figure(
        traces,
        x={"title": _title("L2 radius, in units of [0, 1] pixels"), "range": [0, radii[-1]], "hoverformat": ".3f"},
        y={"title": _title("difference in certified accuracy"), "zeroline": True},
        heading="radius %{x:.3f}",
    )


def p_a_distribution(sources: Sequence[Source]) -> Figure | None:
    """Return the distribution function of the bounds on p_A from 1/2 on; a wrong or missing answer counts as 0.

    Sun et al. 2024 (arXiv 2410.06895) ask for the distribution of p_A, the accuracy on noisy copies, in place of ACR,
    which depends mostly on a few easy images. Return None if no bounds are known.
    """
    shares = np.round(np.linspace(0.5, 1.0, 251), 4)
    traces: list[dict[str, Any]] = []
    for source in sources:
        look = source.look
        bounds = proved_bounds(source.records)
        if bounds is None:
            continue
        bounds = np.where(source.records.correct, bounds, 0.0)
        below = np.searchsorted(np.sort(bounds), shares, side="right") / len(bounds)
        texts = [f"{value:.3f}, {round(value * len(bounds)):,} of {len(bounds):,} images" for value in below]
        line = {"color": look.colour, "dash": look.dash, "width": 1.6 if source.published else 2.4, "shape": "hv"}
        traces.append({**_line(shares, below, _text(source.records.name), look, texts), "line": line})
    if not traces:
        return None
    # If most images are easy, the curves differ far below 1.
    top = min(1.02, 1.3 * max(trace["y"][int(0.96 * len(shares))] for trace in traces))
    return _figure(
        traces,
        x={"title": _title("bound on p<sub>A</sub>"), "range": [0.5, 1.0]},
        y={"title": _title("share of images at or below"), "range": [0, top]},
        heading="p<sub>A</sub> at most %{x:.3f}",
    )


_TITLES = {
    "seconds": "seconds per epoch",
    "learning_rate": "learning rate",
    "acr_estimate": "ACR estimate on images held back",
}
"""Titles for columns of the metrics file whose names say too little."""


def training_figures(gathered: Gathered) -> dict[str, Figure]:
    """Return a plot against the epoch for each quantity that the trainings recorded, by its title."""
    looks = {source.training.run: source.look for source in gathered.sources if source.training is not None}
    found: dict[str, list[Figure]] = {}
    for run, sources in gathered.during_training.items():
        found.setdefault("ACR between epochs", []).append(_estimates_line(sources, looks[run]))
    for training in gathered.trainings:
        for name, values in training.curves.items():
            if name not in ("epoch", "noisy_images"):
                title = _TITLES.get(name, name)
                found.setdefault(printable(title), []).append(_training_line(training, values, looks[training.run]))
    return {title: _small_figure(traces) for title, traces in found.items()}


def _estimates_line(sources: Sequence[Source], look: Look) -> Figure:
    """Return ACR of the certificates that a run made between its epochs."""
    estimates = [average_certified_radius(source.records) for source in sources]
    texts = [
        f"{estimate.in_words()}, images: {_text(source.records.images)}"
        for estimate, source in zip(estimates, sources, strict=True)
    ]
    epochs = np.array([source.epoch or 0 for source in sources])
    name = "" if sources[0].training is None else sources[0].training.name
    line = _line(epochs, np.array([estimate.value for estimate in estimates]), _text(name), look, texts)
    return {**line, "mode": "lines+markers"}


def _training_line(training: Training, values: Float64[np.ndarray, " epochs"], look: Look) -> Figure:
    return _line(training.curves["epoch"], values, _text(training.name), look, [f"{value:.4g}" for value in values])


def _radii(all_records: Sequence[Records]) -> Float64[np.ndarray, " radii"]:
    """Return evenly spaced radii from 0 to slightly above the largest, and those after which a curve or band is 0."""
    ends = [float(records.certified_radius.max()) for records in all_records]
    end = (max(ends) or 1.0) * 1.03
    ends += [limit for records in all_records if (limit := band_end(records)) < end]
    # rounded down, so that the accuracy at the last radius of a curve is the one before it falls to 0
    return np.unique([*np.linspace(0, end, _POINTS).round(4), *(np.floor(np.array(ends) * 1e4) / 1e4)])


def _line(x: np.ndarray, y: np.ndarray, name: str, look: Look, texts: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x.tolist(),
        "y": [float(f"{value:.6g}") for value in y],
        "name": name,
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "text": list(texts),
        "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
    }


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, look: Look, group: dict[str, Any]) -> list[Figure]:
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": x.tolist(),
        "line": {"width": 0, "shape": "vh", "color": look.colour},
        "hoverinfo": "skip",
        "showlegend": False,
        **group,
    }
    fill = {"fill": "tonexty", "fillcolor": f"{look.colour} faint"}
    return [{**edge, "y": low.round(4).tolist()}, {**edge, **fill, "y": high.round(4).tolist()}]


def _figure(traces: list[dict[str, Any]], *, x: dict[str, Any], y: dict[str, Any], heading: str) -> Figure:
    axis = {
        "gridcolor": "--rule",
        "linecolor": "--muted",
        "zeroline": False,
        "zerolinecolor": "--muted",
        "tickfont": {"color": "--muted"},
    }
    spike = {"spikecolor": "--muted", "spikethickness": 1, "spikedash": "dot"}
    return {
        "data": traces,
        "layout": {
            "xaxis": {**axis, **spike, "showline": True, "unifiedhovertitle": {"text": heading}, **x},
            "yaxis": {**axis, "automargin": True, **y},
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": "--paper", "bordercolor": "--rule", "font": {"color": "--ink"}},
            "hoverdistance": 60,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "margin": {"l": 58, "r": 12, "t": 12, "b": 48},
            "paper_bgcolor": "--paper",
            "plot_bgcolor": "--paper",
            "font": {"color": "--ink"},
            "showlegend": True,
        },
    }


def _small_figure(traces: list[dict[str, Any]]) -> Figure:
    figure = _figure(traces, x={"title": _title("epoch")}, y={}, heading="epoch %{x}")
    figure["layout"] |= {"showlegend": False, "margin": {"l": 52, "r": 8, "t": 8, "b": 40}}
    return figure


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"color": "--muted"}}


def _text(name: str) -> str:
    """Return a name that plotly, which reads tags and entities, shows literally; cut to fit into a legend."""
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return html.escape(short, quote=False)
