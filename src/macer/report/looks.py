"""How runs look: one colour and dash each, the same in every plot and table of the page."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from macer.results.looks import look_numbers

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


def run_looks(runs: Sequence[tuple[Hashable, str | None]]) -> list[Look]:
    """Return a look for each (run, method), the same for the same run, and as in `macer plot` for known methods.

    From the seventh run on, colours come again with other dashes.
    """
    return [_look(number) for number in look_numbers([runs])[0]]


def _look(number: int) -> Look:
    return Look(f"--run-{number % _COLOURS + 1}", _NAMES[(number + number // _COLOURS) % len(_NAMES)])


def published_looks(published: Sequence[object]) -> list[Look]:
    """Return looks for published certificates: grey for all, with different dashes."""
    return [Look("--published", _NAMES[1 + number % (len(_NAMES) - 1)]) for number in range(len(published))]


def pair_look(number: int) -> Look:
    """Return the look of a pair of runs, which is in neither's colour."""
    return Look("--ink", _NAMES[number % len(_NAMES)])
