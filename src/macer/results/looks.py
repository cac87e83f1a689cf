"""Which colour and line style each curve gets: the same in every plot, for paper and page."""

from collections.abc import Hashable, Sequence
from itertools import count

_IN_ORDER = (
    *("macer", "cohen", "smoothadv", "consistency", "stability", "smoothmix", "cat-rs", "hard-data"),
    *("macer+consistency", "smoothadv+consistency"),
)
_METHODS = {method: number for number, method in enumerate(_IN_ORDER)}
"""The training methods that always look the same, such as MACER in the first colour and solid."""


def look_numbers(panels: Sequence[Sequence[tuple[Hashable, str | None]]]) -> list[list[int]]:
    """Return a number for each curve of each panel, which stands for its colour and line style.

    In every panel, what is first of a method that has a look of its own gets that. All else gets a number that none of
    these methods has, the same one in every panel, so that nothing else looks like it.

    Args:
        panels: for each curve what it is of and the method of training. Curves of the same thing look the same.
    """
    reserved = {_METHODS[method] for panel in panels for _, method in panel if method in _METHODS}
    free = (number for number in count() if number not in reserved)
    numbers: dict[Hashable, int] = {}
    looks = []
    for panel in panels:
        first = {method: subject for subject, method in reversed(panel) if method in _METHODS}
        for subject, method in panel:
            if first.get(method or "") != subject and subject not in numbers:
                numbers[subject] = next(free)
        looks.append(
            [
                _METHODS[method or ""] if first.get(method or "") == subject else numbers[subject]
                for subject, method in panel
            ]
        )
    return looks
