"""Certified accuracy and average certified radius, of one network or between two: pure functions of records."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri, stdtrit

from macer.errors import RecordsError
from macer.results.records import Records
from macer.smoothing.bounds import wilson_interval
from macer.smoothing.radius import largest_radius

_FEWEST = 6
"""Images of which the bootstrap may say anything: that all of five differ to the same side has a chance of 1 in 16."""

_FEW = 100
"""Images below which the bootstrap's percentiles lie too close together by 2% and more."""

_AT_ONCE = 2**22
"""Images that are drawn at once, in all resamples together: 32 MiB of indices."""

_BEYOND = 50
"""Resampled means beyond either end of an interval, so that the seed does not decide where it ends."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, over the choice of images.

    The bootstrap of numbers that are all the same has no width: that says nothing about other images, so no interval is
    shown. Nor is one of fewer than six images that differ, of which nothing can be said at 95%: it has no ends.
    """

    value: float
    low: float
    high: float

    def in_words(self, decimals: int = 3, sign: str = "") -> str:
        """Return value and interval, such as "0.343 [0.331, 0.354]"; the value alone where there is no interval."""
        value, low, high = (f"{number:{sign}.{decimals}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]" if self.has_interval else value

    @property
    def has_interval(self) -> bool:
        """Whether the interval says anything."""
        return 0 < self.high - self.low < math.inf


def certified_accuracy(records: Records, radius: float) -> float:
    """Return the share of images that are classified correctly and certified at `radius` or more."""
    return float(np.mean(records.correct & (records.radius >= radius)))


def certified_accuracy_interval(records: Records, radius: float) -> Estimate:
    """Return certified accuracy with Wilson's 95% score interval (Wilson 1927), for images drawn at random."""
    accuracy, low, high = certified_accuracy_curve(records, np.array([radius]))
    return Estimate(float(accuracy[0]), float(low[0]), float(high[0]))


def largest_possible_radius(records: Records) -> float | None:
    """Return the radius that n of n votes certify, beyond which every network has accuracy 0; None where unknown."""
    if records.sigma is None or records.n is None or records.alpha is None:
        return None
    limit = largest_radius(records.sigma, records.n, records.alpha)
    return max(limit, float(records.radius.max()))  # radii in published files are rounded


def band_end(records: Records) -> float:
    """Return the radius at which a plot's band ends: the largest possible one, where unknown the largest there is.

    Of images that were certified at one radius or not at all, nothing is known beyond that radius.
    """
    if records.at_least is not None:
        return max(records.at_least, float(records.radius.max()))
    limit = largest_possible_radius(records)
    return float(records.radius.max()) if limit is None else limit


def certified_accuracy_curve(
    records: Records, radii: Float64[np.ndarray, " radii"]
) -> tuple[Float64[np.ndarray, " radii"], Float64[np.ndarray, " radii"], Float64[np.ndarray, " radii"]]:
    """Return certified accuracy at each radius, and the ends of its Wilson interval.

    Beyond the largest possible radius the accuracy is known to be 0, and so are both ends.
    """
    certified = np.sort(records.radius[records.correct])
    accuracy = (len(certified) - np.searchsorted(certified, radii, side="left")) / len(records)
    low, high = wilson_interval(accuracy, len(records))
    limit = largest_possible_radius(records)
    return accuracy, low, high if limit is None else np.where(radii > limit, 0.0, high)


def average_certified_radius(records: Records, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the mean over the images of the radius where correct, else 0 (ACR), with a 95% bootstrap interval.

    Zhai et al. 2020, section 5. ACR depends on n: never compare it across n. The interval is widened where fewer than a
    hundred images have a radius that is neither 0 nor shared by most of the others, as the largest possible one often
    is, and has no ends where fewer than six have.

    Args:
        records: the certificates.
        resamples: number of bootstrap resamples of the images, at least.
        seed: seed of the resampling.
    """
    return _bootstrap_mean(records.certified_radius, _telling(records), resamples, seed)


def why_no_interval(records: Records) -> str | None:
    """Return why the average certified radius has no interval, or None where it has one."""
    if np.ptp(records.certified_radius) == 0:
        return "every image adds the same to ACR"
    few = _too_few(len(records), _telling(records))
    return "too few images differ in what they add to ACR" if few else None


def _telling(records: Records) -> int:
    """Return how many images say anything of the spread of ACR: their radius is neither 0 nor the commonest."""
    radii, counts = np.unique(records.certified_radius, return_counts=True)
    telling = int(counts[radii > 0].sum())
    if counts.max() > 1:  # the commonest is often the largest possible radius
        telling = min(telling, len(records) - int(counts.max()))
    return telling


def _too_few(images: int, telling: int) -> bool:
    return images < _FEWEST or 0 < telling < _FEWEST


def _bootstrap_mean(values: Float64[np.ndarray, " images"], telling: int, resamples: int, seed: int) -> Estimate:
    """Return the mean with its 95% percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    Args:
        values: one per image.
        telling: how many of them say anything of the spread; resamples of the others add nothing to what these say.
        resamples: number of resamples at least; where little is left out at either end, there are more.
        seed: seed of the resampling.
    """
    if _too_few(len(values), telling):
        return Estimate(float(values.mean()), -math.inf, math.inf)
    draw = np.random.default_rng(seed)
    tail = _tail(telling) if 0 < telling < _FEW else 0.025
    resamples = max(resamples, math.ceil(_BEYOND / tail))
    at_once = max(1, _AT_ONCE // len(values))
    parts = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = np.concatenate([values[draw.integers(len(values), size=(part, len(values)))].mean(1) for part in parts])
    low, high = np.quantile(means, (tail, 1 - tail))
    return Estimate(float(values.mean()), float(low), float(high))


def _tail(images: int) -> float:
    """Return what to leave out at either end of the means of few images, so that an interval covers 95%.

    That is as much of the normal distribution as lies beyond Student's interval of their mean (Hesterberg, "What
    teachers should know about the bootstrap", The American Statistician 69, 2015, section 3.3, "expanded percentile").
    """
    return float(ndtr(math.sqrt(images / (images - 1)) * stdtrit(images - 1, 0.025)))


def default_radii(all_records: Sequence[Records], step: float = 0.25) -> list[float]:
    """Return 0.00, 0.25, ... up to the largest certified radius: at most 10, as in the published tables."""
    largest = max(float(records.certified_radius.max()) for records in all_records)
    return [number * step for number in range(min(10, int(largest / step) + 1))]


def paired_difference(
    a: Records, b: Records, *, despite: Collection[str] = (), resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Return ACR of `a` minus ACR of `b` over the same images, with a 95% percentile interval of the paired bootstrap.

    Each image is resampled together with both its radii, so an image that is hard for both networks does not widen the
    interval. The interval is over the choice of images; it does not cover training again with another seed. It is
    widened where fewer than a hundred images differ, and has no ends where fewer than six do.

    Args:
        a: the certificates of one network.
        b: those of the other.
        despite: facts of `obstacles` that may differ or be unknown; never "images" or "at_least".
        resamples: number of bootstrap resamples of the images.
        seed: seed of the resampling.

    Raises:
        RecordsError: images, sigma, n or alpha differ or are unknown; the message names all of these.
    """
    refuse_unlike(a, b, despite)
    differences = a.certified_radius - b.certified_radius
    return _bootstrap_mean(differences, int(np.count_nonzero(differences)), resamples, seed)


def paired_accuracy_difference(a: Records, b: Records, radius: float, *, despite: Collection[str] = ()) -> Estimate:
    """Return certified accuracy of `a` minus that of `b` at a radius, over the same images, with a 95% interval.

    The interval is Tango's score interval for matched proportions (Statistics in Medicine 17, 1998): all differences
    that the score test does not reject. Unlike the bootstrap's interval it keeps a sensible width where the two
    networks differ on few images or on none.

    Args:
        a: the certificates of one network.
        b: those of the other.
        radius: L2 radius in units of [0, 1] pixels.
        despite: as for `paired_difference`.

    Raises:
        RecordsError: as for `paired_difference`.
    """
    refuse_unlike(a, b, despite)
    certified_a, certified_b = a.correct & (a.radius >= radius), b.correct & (b.radius >= radius)
    only_a, only_b = int((certified_a & ~certified_b).sum()), int((certified_b & ~certified_a).sum())
    limits = [largest_possible_radius(records) for records in (a, b)]
    if None not in limits and radius > max(filter(None, limits)):
        return Estimate(0.0, 0.0, 0.0)  # neither can certify anything there
    low, high = (_edge(only_a, only_b, len(a), end) for end in (-1.0, 1.0))
    return Estimate((only_a - only_b) / len(a), low, high)


def _edge(only_a: int, only_b: int, images: int, end: float) -> float:
    """Return the last difference towards `end` that Tango's score test does not reject at level 5%."""
    kept, rejected = (only_a - only_b) / images, end
    for _ in range(50):
        middle = (kept + rejected) / 2
        if abs(only_a - only_b - images * middle) <= float(ndtri(0.975)) * _spread(only_a, only_b, images, middle):
            kept = middle
        else:
            rejected = middle
    return kept


def _spread(only_a: int, only_b: int, images: int, difference: float) -> float:
    """Return the standard deviation of only_a - only_b if the two proportions differ by `difference`.

    The other parameter is at its maximum likelihood, given that difference (Tango 1998).
    """
    linear = (2 * images - only_a + only_b) * difference - only_a - only_b
    root = math.sqrt(linear**2 + 8 * images * only_b * difference * (1 - difference))
    share_b = (root - linear) / (4 * images)  # maximum likelihood of the share that only b certifies
    return math.sqrt(max(0.0, images * (2 * share_b + difference * (1 - difference))))


def refuse_unlike(a: Records, b: Records, despite: Collection[str] = ()) -> None:
    """Raise an error unless two records may be compared image by image.

    Args:
        a: the certificates of one network.
        b: those of the other.
        despite: facts of `obstacles` that may differ or be unknown; never "images" or "at_least".

    Raises:
        RecordsError: they may not; the message names every reason.
    """
    left = [text for fact, text in obstacles(a, b).items() if fact in ("images", "at_least") or fact not in despite]
    if left:
        raise RecordsError(f"{a.name} and {b.name} cannot be compared image by image: {'; '.join(left)}")


def obstacles(a: Records, b: Records) -> dict[str, str]:
    """Return the reasons why two records must not be compared image by image.

    An unknown fact is a reason as well: ACR depends on n, and published files do not record it.

    Returns:
        A sentence for each of "images", "at_least", "sigma", "n" (also where sampling stopped earlier by another
        rule) and "alpha" that differs or is unknown.
    """
    found = {}
    if (images := _unlike_images(a, b)) is not None:
        found["images"] = images
    asked = {records.at_least for records in (a, b)} - {None}
    if len(asked) > 1:
        found["at_least"] = (
            f"images are certified at radius {a.at_least:g} or not for {a.name}, {b.at_least:g} for {b.name}"
        )
    for fact in ("sigma", "n", "alpha"):
        one, other = getattr(a, fact), getattr(b, fact)
        silent = [records.name for records in (a, b) if getattr(records, fact) is None]
        if silent:
            found[fact] = f"{fact} is not recorded for {' and '.join(silent)}"
        elif one != other:
            found[fact] = f"{fact} is {one:g} for {a.name}, {other:g} for {b.name}"
    if a.within != b.within:
        words = ["" if each.within is None else f" (radii known to within {each.within:g})" for each in (a, b)]
        found.setdefault("n", f"sampling stopped by other rules for {a.name}{words[0]} and {b.name}{words[1]}")
    return found


def _unlike_images(a: Records, b: Records) -> str | None:
    """Return why two records are not known to be of the same images; None if they are."""
    silent = [records.name for records in (a, b) if records.idx is None]
    if silent:
        return f"the images are not recorded for {' and '.join(silent)}"
    for fact, words in (("dataset", "data set"), ("split", "split")):
        one, other = getattr(a, fact), getattr(b, fact)
        if None not in (one, other) and one != other and not (a.is_of_own_images and b.is_of_own_images):
            return f"the {words} is {one} for {a.name}, {other} for {b.name}"
    if not np.array_equal(a.idx, b.idx):  # type: ignore[arg-type]
        return f"the images are {a.images} for {a.name}, {b.images} for {b.name}"
    if a.label is not None and b.label is not None and not np.array_equal(a.label, b.label):
        return "the images of the same indices have different labels"
    if a.image is not None and b.image is not None and not np.array_equal(a.image, b.image):
        return "the images of the same indices are other ones, by their digests"
    return None


def difference_in_words(
    a: str, b: str, difference: Estimate, quantity: str = "ACR", *, differ: int | None = None
) -> str:
    """Return one sentence on a paired difference, and whether it is significant: whether its interval leaves out 0.

    One is "macer's ACR is significantly larger than cohen's by 0.06 [0.04, 0.08]".

    Args:
        a: the name of what `b` was subtracted from.
        b: the other name.
        difference: the estimate, a minus b.
        quantity: what is compared.
        differ: on how many images they differ; on fewer than six no difference is significant. None: the interval of
            the difference tells.
    """
    if differ is not None and 0 < differ < _FEWEST:
        difference = Estimate(difference.value, -math.inf, math.inf)
    if difference.low == difference.high == 0:
        return f"No difference in {quantity} between {a} and {b} on any image"
    if difference.low <= 0 <= difference.high:
        return f"No significant difference in {quantity} between {a} and {b}: {_with_interval(difference)}"
    clearly = "significantly " if difference.low < difference.high else ""  # as large on every image
    if difference.low > 0:
        return f"{a}'s {quantity} is {clearly}larger than {b}'s by {_with_interval(difference)}"
    smaller = Estimate(-difference.value, -difference.high, -difference.low)
    return f"{a}'s {quantity} is {clearly}smaller than {b}'s by {_with_interval(smaller)}"


def _with_interval(estimate: Estimate) -> str:
    """Return value and interval, rounded to two digits of the interval's width; that of equal numbers has none."""
    width = estimate.high - estimate.low
    if width <= 0:
        return f"{estimate.in_words()} on every image"
    if not estimate.has_interval:
        return f"{estimate.in_words()}, on fewer than {_FEWEST} images that differ"
    return estimate.in_words(min(max(1 - math.floor(math.log10(width)), 2), 6))
