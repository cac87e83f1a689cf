"""Records: what was certified for each image, as arrays. Every table and plot is a pure function of these."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from macer.data.own import PREFIX
from macer.runs.certificates import Row

_ENOUGH = 20
"""Answers from which on it is worth a note that all are the same."""

METHODS = {
    "cohen": "Gaussian",
    "smoothadv": "SmoothAdv",
    "macer": "MACER",
    "macer+consistency": "MACER + Consistency",
    "smoothadv+consistency": "SmoothAdv + Consistency",
    "consistency": "Consistency",
    "stability": "Stability",
    "smoothmix": "SmoothMix",
    "cat-rs": "CAT-RS",
    "hard-data": "hard data",
    "denoised": "denoised",
}
"""The training methods in the order of tables, the paper's three in its order and then later ones, and what papers call
them; last a classifier behind a denoiser, however it was trained."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """The certificates of one kind of one network, over some images.

    Attributes:
        run: the name of the run, or of the file where nothing else is known.
        kind: "hard" (votes) or "soft" (mean scores).
        idx: the images' indices in their data set, ascending; None where the file does not tell (.mat).
        radius: certified L2 radius in units of [0, 1] pixels; 0 where the classifier abstained. Where only the radii of
            correct predictions are known (.mat), 0 elsewhere.
        correct: whether the prediction is the label.
        label: the images' classes; None where unknown.
        predict: predicted classes, -1 where the classifier abstained; None where unknown.
        p_a_lower: lower bound on the class's probability (hard) or mean score (soft); None where unknown.
        seconds: time per image; None where unknown.
        sigma: the noise level; None where unknown.
        n: samples per certificate; None where unknown.
        alpha: failure probability of each certificate; None where unknown.
        at_least: the radius at which images were certified or not at all; None where certificates have radii.
        within: the share of a radius to within which it was known when sampling stopped; None where all n were drawn.
        bound: the bound of the certificates where it is not the usual one: that of one class for votes, the empirical
            Bernstein bound for mean scores; also that no samples selected the class (n0 = 0), and that rounding in
            floating-point arithmetic is not covered.
        beta: the inverse temperature of the softmax of soft certificates; None of hard ones, and where unknown.
        precision: the arithmetic of the network where it is not float32.
        total: the number of images in the whole split; None where unknown.
        seed: the seed of the noise; None where unknown.
        dataset: the data set's name; None where unknown.
        split: "train" or "test": which of its images; None where unknown.
        method: the training method; None where unknown.
        image: the digests of the images, see `macer.smoothing.images.image_digest`; None where unknown.
        file: the names that a person knows the images by; None where they have none.
        class_names: the names of the classes, in the order of their labels; None where these are just numbers.
        shape: (channels, height, width) of an image; None where unknown.
        from_name: which of "sigma" and "method" are known from the file's name alone, as for published files.
        notes: what a reader must know, such as lines that were left out or images that are missing.
        place: folders and name of the file, without suffix, the last of which make the name; empty where no file is.
    """

    run: str
    kind: str = "hard"
    idx: Int64[np.ndarray, " images"] | None
    radius: Float64[np.ndarray, " images"]
    correct: Bool[np.ndarray, " images"]
    label: Int64[np.ndarray, " images"] | None = None
    predict: Int64[np.ndarray, " images"] | None = None
    p_a_lower: Float64[np.ndarray, " images"] | None = None
    seconds: Float64[np.ndarray, " images"] | None = None
    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    at_least: float | None = None
    within: float | None = None
    bound: str | None = None
    beta: float | None = None
    precision: str | None = None
    total: int | None = None
    seed: int | None = None
    dataset: str | None = None
    split: str | None = None
    method: str | None = None
    image: np.ndarray | None = None
    file: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    shape: tuple[int, int, int] | None = None
    from_name: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    place: tuple[str, ...] = ()

    @classmethod
    def from_rows(
        cls, run: str, kind: str, rows: Sequence[Row], *, uncertified: Collection[int] = (), **facts: Any
    ) -> "Records":
        """Return the records of rows with ascending indices.

        Args:
            run: the name of the run.
            kind: "hard" or "soft".
            rows: one per image; nan seconds where the file does not tell them.
            uncertified: the images whose prediction is right and still does not count as correct.
            facts: further attributes of `Records`, such as sigma and n.
        """
        seconds = np.array([row.seconds for row in rows], dtype=np.float64)
        bounds = np.array([row.p_a_lower for row in rows], dtype=np.float64)  # nan where None
        return cls(
            run=run,
            kind=kind,
            idx=np.array([row.idx for row in rows], dtype=np.int64),
            radius=np.array([row.radius for row in rows], dtype=np.float64),
            correct=np.array([row.correct and row.idx not in uncertified for row in rows], dtype=bool),
            label=np.array([row.label for row in rows], dtype=np.int64),
            predict=np.array([row.predict for row in rows], dtype=np.int64),
            p_a_lower=None if np.isnan(bounds).any() else bounds,
            seconds=None if np.isnan(seconds).any() else seconds,
            image=np.array([row.image for row in rows], dtype=object) if all(row.image for row in rows) else None,
            file=np.array([row.file for row in rows], dtype=object) if any(row.file for row in rows) else None,
            **facts,
        )

    @property
    def name(self) -> str:
        """The name in tables and legends: that of the run, followed by the kind unless it is hard."""
        return self.run if self.kind == "hard" else f"{self.run} {self.kind}"

    @property
    def is_of_own_images(self) -> bool:
        """Whether they are of a person's own images, which their digests tell apart better than the data set's name.

        A pair of arrays and a Dataset of the same images have different names.
        """
        return self.image is not None and (self.dataset or "").startswith(PREFIX)

    @property
    def data(self) -> str:
        """The data set's name, and that it is the training split, which no table may hide; empty where unknown."""
        return " ".join(filter(None, [self.dataset, "(training images)" if self.split == "train" else None]))

    def with_longer_name(self) -> "Records":
        """Return the same records with one more folder of the file's place in front of the name, if there is one."""
        return replace(self, run="/".join(self.place[-self.run.count("/") - 2 :]) or self.run)

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def certified_radius(self) -> Float64[np.ndarray, " images"]:
        """The radius where the prediction is correct, else 0: the average certified radius is the mean of this."""
        return np.where(self.correct, self.radius, 0.0)

    @property
    def linf_per_l2(self) -> float | None:
        """1 / sqrt(channels * height * width), rounded down; None where the shape is unknown.

        Changes of less than R times this to each value of an image have an L2 norm of less than R. Root, division and
        a product or two err by at most 2^-51 of the result.
        """
        return None if self.shape is None else (1 - 2**-50) / math.sqrt(math.prod(self.shape))

    @property
    def radius_linf(self) -> Float64[np.ndarray, " images"] | None:
        """The certified L-infinity radius, R / sqrt(channels * height * width); None where the shape is unknown."""
        return None if self.linf_per_l2 is None else self.radius * self.linf_per_l2

    @property
    def abstained(self) -> int | None:
        """The number of images on which the classifier abstained; None where unknown."""
        return None if self.predict is None else int((self.predict == -1).sum())

    @property
    def images(self) -> str:
        """Which images these are, in words, so that a table never hides that it covers 500 of 10,000."""
        return describe_images(self.idx, len(self), self.total)


def distinct(all_records: Iterable[Records]) -> list[Records]:
    """Return the records under names of their own: the shortest end of the path that tells their files apart.

    Where none does, as for the same file twice, the second gets a number: macer (2).
    """
    found = list(all_records)
    while alike := _alike(found):
        found = [records.with_longer_name() if records.run in alike else records for records in found]
    named: dict[str, Records] = {}
    for records in found:
        number, unique = 1, records
        while unique.name in named:
            number += 1
            unique = replace(records, run=f"{records.run} ({number})")
        named[unique.name] = unique
    return list(named.values())


def _alike(all_records: Sequence[Records]) -> set[str]:
    """Return the names that stand for files at different places and can be made longer."""
    places: dict[str, set[tuple[str, ...]]] = {}
    for records in all_records:
        places.setdefault(records.run, set()).add(records.place)
    return {run for run, each in places.items() if len(each) > 1 and max(map(len, each)) > run.count("/") + 1}


def by_sigma(all_records: Sequence[Records]) -> list[list[Records]]:
    """Return the records grouped by sigma, ascending, those of unknown sigma last.

    Within a group the paper's methods come first, in the order of its tables. Records of a single sigma stay in the
    order in which they were given.
    """
    sigmas = sorted({records.sigma for records in all_records}, key=lambda sigma: (sigma is None, sigma or 0.0))
    if len(sigmas) == 1:
        return [list(all_records)]
    ordered = sorted(all_records, key=lambda records: method_order(records.method))
    return [[records for records in ordered if records.sigma == sigma] for sigma in sigmas]


def note_on_answers(name: str, rows: Sequence[Row]) -> list[str]:
    """Return a note if a classifier gives the same answer wherever it gives one, and mostly a wrong one, or none."""
    doubt = (
        "was the network not trained with this noise, is its normalisation missing, or are its images on another scale?"
    )
    answered = [row for row in rows if row.predict != -1]
    if not answered and sum(row.n != 0 for row in rows) >= _ENOUGH:
        return [f"{name}: it abstains on every image: are there too few samples, {doubt}"]
    wrong = sum(not row.correct for row in answered)
    if len(answered) < _ENOUGH or len({row.predict for row in answered}) > 1 or wrong < len(answered) / 2:
        return []
    return [
        f"{name}: the answer is class {answered[0].predict} on every image that has one, whatever its label: {doubt}"
    ]


def method_order(method: str | None) -> int:
    """Return the position of a method in the paper's tables; any other method comes after them."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def method_name(method: str | None) -> str:
    """Return what papers call a training method; another one's own name."""
    return METHODS.get(method or "", method or "")


def describe_images(idx: Int64[np.ndarray, " images"] | None, count: int, total: int | None) -> str:
    """Describe which images these are, such as "all 10,000", "500 to 999 (500 of 10,000)" or "every 20th (500)"."""
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
