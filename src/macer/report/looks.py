"""How runs look: one colour and dash each, the same in every plot and table of the page."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

DASHES = {
    "solid": "none",
    "dash": "6 3",
    "dot": "2 2",
    "dashdot": "6 2 2 2",
    "longdash": "10 3",
    "longdashdot": "10 2 2 2",
}
"""Plotly's names of dashes, and what SVG calls them."""

_NAMES = tuple(DASHES)
_COLOURS = 6
_METHODS = {"macer": 0, "cohen": 1, "smoothadv": 2, "consistency": 3, "stability": 4}
"""As in `macer plot`: MACER solid, Cohen dashed, and so on."""


@dataclass(frozen=True)
class Look:
    """How a curve is drawn.

    Attributes:
        colour: the name of one of the page's CSS variables, which has a value for light and one for dark.
        dash: one of DASHES.
    """

    colour: str
    dash: str


UNKNOWN = Look("--ink", "solid")


def run_looks(runs: Iterable[tuple[Hashable, str | None]]) -> list[Look]:
    """A look for each (run, method): the paper's methods have their own, others get the next that is free.

    The same run has the same look wherever it occurs; from the seventh run on, colours come again with other dashes.
    """
    every = list(runs)
    kept = {_METHODS[method] for _, method in every if method in _METHODS}
    free = (number for number in count() if number not in kept)
    numbers: dict[Hashable, int] = {}
    for run, method in every:
        if run not in numbers:
            own = _METHODS.get(method or "")
            numbers[run] = next(free) if own is None or own in numbers.values() else own
    return [_look(numbers[run]) for run, _ in every]


def _look(number: int) -> Look:
    return Look(f"--run-{number % _COLOURS + 1}", _NAMES[(number + number // _COLOURS) % len(_NAMES)])


def published_looks(published: Sequence[object]) -> list[Look]:
    """Grey for all, told apart by their dashes."""
    return [Look("--published", _NAMES[1 + number % (len(_NAMES) - 1)]) for number in range(len(published))]


def pair_look(number: int) -> Look:
    """The look of a pair of runs, which has neither's colour."""
    return Look("--ink", _NAMES[number % len(_NAMES)])
