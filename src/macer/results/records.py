"""Records: what was certified of each image, as arrays. Every table and plot is a pure function of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

METHODS = ("cohen", "smoothadv", "macer", "consistency")
"""The training methods in the order of tables: the paper's three in its order, then later ones."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """The certificates of one network over some images.

    Attributes:
        name: what to call it in tables and legends.
        idx: the images' indices in their data set, ascending; None where the file does not say (.mat).
        radius: certified L2 radius; 0 where it abstained. Where only `correct` radii are known (.mat), 0 elsewhere.
        correct: whether the prediction is the label.
        label: the images' classes; None where unknown.
        predict: predicted classes, -1 where it abstained; None where unknown.
        seconds: time each took; None where unknown.
        sigma: the noise level; None where the file does not say.
        n: samples a certificate; None where the file does not say.
        alpha: failure probability of each certificate; None where the file does not say.
        total: how many images the whole split has; None where unknown.
        dataset: the data set's name; None where unknown.
        method: how the network was trained; None where unknown.
        from_name: which of "sigma" and "method" only the file's name tells, as published files' do.
        notes: what a reader must know: lines left out, images still missing.
    """

    name: str
    idx: Int64[np.ndarray, " images"] | None
    radius: Float64[np.ndarray, " images"]
    correct: Bool[np.ndarray, " images"]
    label: Int64[np.ndarray, " images"] | None = None
    predict: Int64[np.ndarray, " images"] | None = None
    seconds: Float64[np.ndarray, " images"] | None = None
    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    total: int | None = None
    dataset: str | None = None
    method: str | None = None
    from_name: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.radius)

    @property
    def certified_radius(self) -> Float64[np.ndarray, " images"]:
        """The radius where the prediction is correct, else 0: what the average certified radius averages."""
        return np.where(self.correct, self.radius, 0.0)

    @property
    def abstained(self) -> int | None:
        """How many images got no answer; None where the file does not say."""
        return None if self.predict is None else int((self.predict == -1).sum())

    @property
    def images(self) -> str:
        """Which images these are, in words: a table never hides that it covers 500 of 10,000."""
        return describe_images(self.idx, len(self), self.total)


def by_sigma(all_records: Sequence[Records]) -> list[list[Records]]:
    """Groups of one sigma, ascending, the unknown last; in each, the paper's methods come first, in its order.

    Records of a single sigma stay in the order in which they were given.
    """
    sigmas = sorted({records.sigma for records in all_records}, key=lambda sigma: (sigma is None, sigma or 0.0))
    if len(sigmas) == 1:
        return [list(all_records)]
    ordered = sorted(all_records, key=lambda records: method_order(records.method))
    return [[records for records in ordered if records.sigma == sigma] for sigma in sigmas]


def method_order(method: str | None) -> int:
    """The place of a method in the paper's tables; behind all of them for any other."""
    return METHODS.index(method) if method in METHODS else len(METHODS)


def describe_images(idx: Int64[np.ndarray, " images"] | None, count: int, total: int | None) -> str:
    """The choice of images in words, such as "all 10,000", "500 to 999 (500 of 10,000)" or "every 20th (500)"."""
    of_total = f"{count:,} of {total:,}" if total is not None else f"{count:,}"
    if idx is None:
        return f"{of_total}, not recorded which"
    first, last = int(idx[0]), int(idx[-1])
    if count == total == last + 1:
        return f"all {total:,}"
    steps = np.unique(np.diff(idx))
    if len(steps) > 1:
        return f"a choice between {first} and {last} ({of_total})"
    if len(steps) == 0:
        return f"image {first} ({of_total})"
    if steps[0] == 1:
        return f"{first} to {last} ({of_total})"
    step = int(steps[0])
    suffix = "th" if 10 <= step % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th")
    return f"every {step}{suffix} from {first} to {last} ({of_total})"


def is_radius(value: Any) -> Any:
    """Whether a number, or each of an array, can be an L2 radius: 1e6 would need images of 10^12 pixels in [0, 1]."""
    return (value >= 0) & (value < 1e6)
