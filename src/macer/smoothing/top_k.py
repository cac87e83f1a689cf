"""Top-k certificates: the radius within which a class stays among the k most likely ones under noise.

Jia, Cao, Wang and Gong, Certified Robustness for Top-k Predictions against Adversarial Perturbations via Randomized
Smoothing (ICLR 2020, arXiv 1912.09899). For many classes, of which several are nearly the same thing. No torch here.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy.special import ndtr, ndtri

from macer.errors import SettingsError
from macer.smoothing.bounds import clopper_pearson_lower, clopper_pearson_upper
from macer.smoothing.radius import check_sigma

_ROUNDING = 2**-40
"""Far more than the rounding of Phi and its inverse, far less than what changes a radius that anybody reads."""


def top_k_bounds(
    counts: Int[np.ndarray, " classes"], certified: int, k: int, alpha: float
) -> tuple[float, list[float]]:
    """Return a lower bound for a class, and upper bounds for the least likely of any k others, together at 1 - alpha.

    The bounds are simultaneous Clopper-Pearson bounds: the class's own may fail with probability alpha / 2, that of
    each of the K - 1 others with alpha / (2 (K - 1)), as in `bounds.two_class_bounds`. (Jia et al. give alpha / K to
    each, which leaves less for the one that counts most.)

    Suppose that all hold. Of any k other classes take the t that are least likely. Together their probability is at
    most the sum of the t smallest of their upper bounds, which is largest where the k classes are those with the most
    votes. It is also at most t / k of the probability of all k, which is at most 1 - p_lower.

    Args:
        counts: every class's votes.
        certified: the class, chosen without these votes.
        k: from 1 to one less than the number of classes.
        alpha: probability with which any of the bounds may fail.

    Returns:
        p_lower, and the upper bounds for t = 1, ..., k.

    Raises:
        SettingsError: impossible votes, no such class or k, or alpha not in (0, 1).
    """
    if len(counts) < 2 or counts.min() < 0 or not counts.any():
        raise SettingsError(f"impossible votes of {len(counts)} classes")
    check_top_k(certified, k, len(counts))
    n, others = int(counts.sum()), len(counts) - 1
    p_lower = clopper_pearson_lower(int(counts[certified]), n, alpha / 2)
    most = np.sort(np.delete(counts, certified))[-k:].tolist()  # ascending
    sums = np.cumsum([clopper_pearson_upper(count, n, alpha / 2 / others) for count in most])
    return p_lower, np.minimum(sums, np.arange(1, k + 1) / k * (1 - p_lower)).tolist()


def check_top_k(certified: int, k: int, classes: int) -> None:
    """Refuse a class or a k that there is not.

    Raises:
        SettingsError: `certified` is none of the classes, or k not from 1 to one less than their number.
    """
    if not 0 <= certified < classes:
        raise SettingsError(f"there is no class {certified} to certify: classes are 0 to {classes - 1}")
    if not 1 <= k < classes:
        raise SettingsError(f"k must lie between 1 and {classes - 1} for {classes} classes, not {k}")


def top_k_radius(p_lower: float, sums: Sequence[float], sigma: float, gap: float = 0.0) -> float:
    """Return the radius within which fewer than k other classes are as likely under noise as the certified one.

    It is the largest R at which, for some t = 1, ..., k, with s_t the t-th of `sums` and s < R / sigma,

        t (Phi(Phi^-1(p_lower - gap) - s) - gap) > Phi(Phi^-1(s_t + gap) + s) + gap

    (Jia et al. 2020, theorem 1, there with gap = 0). For k = 1 that is `radius.certified_radius` of p_lower and s_1.

    Proof. Suppose that at a distance of s sigma k other classes are at least as likely as the certified one. Of these
    take the t that were least likely at the image itself. They are the answer together with a probability of at most
    s_t there, and s_t + gap under Gaussian noise; at the distance of at most Phi(Phi^-1(s_t + gap) + s) under Gaussian
    noise, by the lemma of Neyman and Pearson (Cohen et al. 2019, proof of theorem 1), and by at most one gap more under
    the noise that is drawn. The certified class has at least Phi(Phi^-1(p_lower - gap) - s) - gap. Each of the t is
    at least as likely, so that their sum is at least t times as much: the contrary of the inequality.

    Args:
        p_lower: lower bound on the certified class's probability.
        sums: for t = 1, ..., k, an upper bound on the probability of the t least likely of any k other classes.
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        gap: 0 for noise taken as exactly Gaussian, else `grid.discretisation_gap`.

    Returns:
        The L2 radius in [0, 1] pixel units, rounded down; 0 where nothing is certified.

    Raises:
        SettingsError: sigma is not positive and finite, a bound is not a probability, or there are none.
    """
    sigma = check_sigma(sigma)
    if not len(sums) or not all(0 <= bound <= 1 for bound in (p_lower, *sums)):
        raise SettingsError("a top-k radius follows from probabilities, one for each of 1, ..., k other classes")
    t = np.arange(1, len(sums) + 1)
    a, b = ndtri(max(0.0, float(p_lower) - gap)), ndtri(np.minimum(1.0, np.array(sums, dtype=float) + gap))
    if a == math.inf:
        return math.inf

    def stays(distance: float) -> bool:
        least, most = ndtr(a - distance) * (1 - _ROUNDING) - gap, ndtr(b + distance) * (1 + _ROUNDING) + gap
        return bool((t * least > most).any())

    if not stays(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while stays(high):
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if stays(middle) else (low, middle)
    return sigma * low * (1 - _ROUNDING)
