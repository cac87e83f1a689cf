"""Which colour and line style each curve gets: the same in every plot, for paper and page."""

from collections.abc import Collection, Hashable, Sequence
from itertools import count

_IN_ORDER = ("macer", "cohen", "smoothadv", "consistency", "stability", "smoothmix", "cat-rs", "hard-data")
_METHODS = {method: number for number, method in enumerate(_IN_ORDER)}
"""The training methods that always look the same, such as MACER in the first colour and solid."""


def look_numbers(curves: Sequence[tuple[Hashable, str | None]], methods: Collection[str | None]) -> list[int]:
    """Return a number for each curve, which stands for its colour and line style.

    The first curve of a method that has a look of its own gets that. Every other curve gets the next number that none
    of these methods has, so that nothing else looks like them.

    Args:
        curves: for each curve what it is of and the method of training. Curves of the same thing get the same number.
        methods: all methods in the picture, which may have further panels.
    """
    reserved = {_METHODS[method] for method in methods if method in _METHODS}
    free = (number for number in count() if number not in reserved)
    numbers: dict[Hashable, int] = {}
    for subject, method in curves:
        if subject not in numbers:
            own = _METHODS.get(method or "")
            numbers[subject] = next(free) if own is None or own in numbers.values() else own
    return [numbers[subject] for subject, _ in curves]
