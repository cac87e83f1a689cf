"""Confidence bounds: from counts and sums over noise samples to a bound that holds with probability 1 - alpha.

No torch here: this file is mathematics, to be checked against the papers in one sitting.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Real
from scipy import special

from macer.errors import SettingsError

_BINS_AN_OCTAVE = 16
_OCTAVES = 24
"""A float32 score just below 1 is 2^-24 from it."""

_ROUNDING = 1e-6
"""Far more than the rounding of a capital's logarithm, far less than what changes a bound."""

_ROUNDING_OF_TAILS = 1e-7
"""By this share a tail may exceed alpha where its inverse is right: a float64 next to 1 is 1e-16 from the next one, and
a tail of n = 1e9 samples changes 1e9 times as fast."""

_SMALLEST_ALPHA = 1e-200
"""Tails below 1e-240 are 0 in SciPy, and a bound that is divided among classes has a part of alpha."""


def check_alpha(alpha: float) -> float:
    """Return a failure probability in double precision: in NumPy's float16, alpha^(1/n) would round to 1.

    Raises:
        SettingsError: alpha is not strictly between 0 and 1, or less than 1e-200.
    """
    if not 0 < alpha < 1:
        raise SettingsError(f"alpha must lie strictly between 0 and 1, not {alpha:g}")
    if alpha < _SMALLEST_ALPHA:
        raise SettingsError(f"alpha must be at least {_SMALLEST_ALPHA:g}, not {alpha:g}")
    return float(alpha)


def check_samples(name: str, n: int) -> int:
    """Return a number of samples as Python's integer: in NumPy's int16, 3 n overflows and a bound becomes too large.

    Raises:
        SettingsError: n is no whole number, or less than 1; the text calls it by `name`.
    """
    if not n >= 1:
        raise SettingsError(f"{name} must be at least 1, not {n}")
    if n % 1 != 0:
        raise SettingsError(f"{name} must be a whole number, not {n}")
    return int(n)


def clopper_pearson_lower(count: int, n: int, alpha: float) -> float:
    """Return the one-sided lower bound on a binomial proportion, exact at confidence 1 - alpha.

    The bound is the p at which P[Binomial(n, p) >= count] = alpha: the alpha-quantile of
    Beta(count, n - count + 1). Cohen et al. 2019 (arXiv 1902.02918), section 3.2.2, LowerConfBound;
    Clopper and Pearson, Biometrika 1934.

    Args:
        count: successes, 0 <= count <= n.
        n: trials, at least 1.
        alpha: probability with which the bound may fail.

    Returns:
        The bound: 0 for no success, alpha^(1/n) for n of n.

    Raises:
        SettingsError: the counts are impossible or alpha is not in (0, 1).
    """
    count, n, alpha = _checked(count, n, alpha)
    if count == 0:
        return 0.0
    if count == n:
        return alpha ** (1 / n)
    return _beta_quantile(special.betaincinv, special.betainc, count, n - count + 1, alpha, refuted=0.0)


def randomised_clopper_pearson_lower(count: int, n: int, alpha: float, v: float) -> float:
    """Return the lower bound on a binomial proportion that fails with probability exactly alpha, thanks to a random v.

    It is the least p that is not refuted by the p-value P[X > count] + v P[X = count], X ~ Binomial(n, p) (Stevens,
    Biometrika 1950; Voráček 2024, arXiv 2406.17830). At v = 1 this is `clopper_pearson_lower`, at v = 0 that of one
    success more.

    Proof. Let K ~ Binomial(n, p), and V uniform and independent of K. The p-value at the true p is then uniform: it is
    below alpha for K > k and for K = k with V < (alpha - P[K > k]) / P[K = k], where k is the count at which P[K > k]
    is at most alpha and P[K >= k] above it. That is alpha in all. The p-value grows with p, so the bound exceeds p
    exactly where the p-value at p is below alpha. A V that takes small values less often fails less often.

    Of n of n successes, a v below alpha would refute every p < 1. Their bound is alpha^(1/n) for any v. For p below
    that this changes nothing, because k is then less than n; for p above, the bound never fails.

    Args:
        count: successes, 0 <= count <= n.
        n: trials, at least 1.
        alpha: probability with which the bound fails.
        v: from the uniform distribution on (0, 1], drawn once and independently of everything that the count depends
            on. To draw it again until the bound is large, or to choose it, makes the bound invalid.

    Returns:
        The bound, or a number next to it on the refuted side; at least `clopper_pearson_lower`.

    Raises:
        SettingsError: the counts are impossible, alpha is not in (0, 1), or v not in (0, 1].
    """
    count, n, alpha = _checked(count, n, alpha)
    low = clopper_pearson_lower(count, n, alpha)
    if not 0 < v <= 1:
        raise SettingsError(f"v must lie in (0, 1], not {v:g}")
    if count == n:
        return low
    high = clopper_pearson_lower(count + 1, n, alpha)

    def p_value(p: float) -> float:
        at_least = special.betainc(count, n - count + 1, p) if count > 0 else 1.0
        return (1 - v) * special.betainc(count + 1, n - count, p) + v * at_least

    return _last_refuted(p_value, alpha, low, high)


def clopper_pearson_upper(count: int, n: int, alpha: float) -> float:
    """Return the one-sided upper bound on a binomial proportion, exact at confidence 1 - alpha.

    The bound is the p at which P[Binomial(n, p) <= count] = alpha: the (1 - alpha)-quantile of
    Beta(count + 1, n - count), the mirror image of `clopper_pearson_lower`. Clopper and Pearson, Biometrika 1934.

    Args:
        count: successes, 0 <= count <= n.
        n: trials, at least 1.
        alpha: probability with which the bound may fail.

    Returns:
        The bound: 1 for n of n, 1 - alpha^(1/n) for no success.

    Raises:
        SettingsError: the counts are impossible or alpha is not in (0, 1).
    """
    count, n, alpha = _checked(count, n, alpha)
    if count == n:
        return 1.0
    if count == 0:
        return -math.expm1(math.log(alpha) / n)
    return _beta_quantile(special.betainccinv, special.betaincc, count + 1, n - count, alpha, refuted=1.0)


def _checked(count: int, n: int, alpha: float) -> tuple[int, int, float]:
    """Return successes, trials and a failure probability as Python's numbers, in which nothing overflows or rounds."""
    if not (n >= 1 and 0 <= count <= n) or n % 1 != 0 or count % 1 != 0:
        raise SettingsError(f"impossible counts: {count} of {n}")
    return int(count), int(n), check_alpha(alpha)


def _beta_quantile(
    inverse: Callable[[int, int, float], float],
    tail: Callable[[int, int, float], float],
    a: int,
    b: int,
    alpha: float,
    *,
    refuted: float,
) -> float:
    """Return the p at which tail(a, b, p) = alpha: `inverse` as SciPy computes it, where `tail` confirms it.

    The tail is the probability with which the bound p fails. Versions of SciPy return inverses whose tail is
    thousands of times alpha where one parameter is 1000 (1.17, n = 1e9), or NaN where alpha is as small as 1e-200.
    Where the tail is larger than alpha by more than rounding, bisection finds p from the end of [0, 1] that is refuted.
    """
    found = inverse(a, b, alpha)
    if tail(a, b, found) <= alpha * (1 + _ROUNDING_OF_TAILS):
        return float(found)
    return _last_refuted(lambda p: tail(a, b, p), alpha, refuted, 1 - refuted)


def _last_refuted(p_value: Callable[[float], float], alpha: float, refuted: float, possible: float) -> float:
    """Return the number next to where the p-value reaches alpha, on the refuted side, between two numbers."""
    while (middle := (refuted + possible) / 2) not in (refuted, possible):
        if p_value(middle) < alpha:
            refuted = middle
        else:
            possible = middle
    return refuted


def wilson_interval(
    share: Float64[np.ndarray, " k"], images: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Return Wilson's 95% score interval of each share of N images: all p with |share - p| <= z sqrt(p (1 - p) / N)."""
    z = float(special.ndtri(0.975))
    centre = share + z**2 / (2 * images)
    half = z * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    low, high = (centre - half) / scale, (centre + half) / scale
    return np.minimum(low, share).clip(0, 1), np.maximum(high, share).clip(0, 1)


def two_class_bounds(count: int, runner_up: int, n: int, classes: int, alpha: float) -> tuple[float, float]:
    """Return a lower bound for the selected class and an upper bound for every other class, together at 1 - alpha.

    Theorem 1 of Cohen et al. 2019 needs both. The selected class's bound may fail with probability alpha / 2, the bound
    of each of the K - 1 others with alpha / (2 (K - 1)). By the union bound all hold at once with probability
    1 - alpha, and then the largest of the others' bounds is above the largest of their probabilities. A
    Clopper-Pearson bound grows with the count, so that the largest is the runner-up's. Where all hold, 1 - p_a_lower is
    an upper bound too; the smaller of the two is returned.

    Args:
        count: votes among the estimation samples for the class that was selected, on other samples.
        runner_up: the most votes that another class has.
        n: estimation samples.
        classes: K, at least 2.
        alpha: probability with which either bound may fail.

    Returns:
        p_a_lower and p_b_upper. Where p_b_upper < p_a_lower < 1/2 they certify, while p_a_lower alone would not.

    Raises:
        SettingsError: fewer than two classes, impossible votes or alpha not in (0, 1).
    """
    count, n, alpha = _checked(count, n, alpha)
    if classes < 2 or not 0 <= runner_up <= n - count or (n - count - runner_up) > (classes - 2) * runner_up:
        raise SettingsError(f"impossible votes of {classes} classes: {count} and {runner_up} of {n}")
    p_a_lower = clopper_pearson_lower(count, n, alpha / 2)
    p_b_upper = clopper_pearson_upper(runner_up, n, alpha / 2 / (classes - 1))
    return p_a_lower, min(p_b_upper, 1 - p_a_lower)


def empirical_bernstein_lower(total: float, square_total: float, n: int, alpha: float) -> float:
    """Return a lower bound on the mean of variables in [0, 1], at confidence 1 - alpha, that uses their variance.

    mean - sqrt(2 V ln(2/alpha) / n) - 7 ln(2/alpha) / (3 (n - 1)), V the sample variance with n - 1.
    Maurer and Pontil 2009 (arXiv 0907.3740), theorem 4; Zhai et al. 2020 (arXiv 2001.02378), appendix A, for the soft
    smoothed classifier. The theorem is one-sided: its 2 joins the bound on the mean with the bound on the variance.

    Args:
        total: sum of the n values.
        square_total: sum of their squares.
        n: how many values, at least 2.
        alpha: probability with which the bound may fail.

    Returns:
        The bound, not below 0.

    Raises:
        SettingsError: n < 2, sums that no values in [0, 1] have, or alpha not in (0, 1).
    """
    total, square_total, n, alpha = float(total), float(square_total), check_samples("n", n), check_alpha(alpha)
    if n < 2:
        raise SettingsError(f"the empirical Bernstein bound needs at least 2 samples, not {n}")
    # Values in [0, 1] have squares no larger than themselves; any values obey total^2 <= n * square_total.
    slack = 1 + 1e-6
    if not (0 <= total <= n * slack and total * total / n <= square_total * slack and square_total <= total * slack):
        raise SettingsError(f"impossible sums of {n} values in [0, 1]: {total:g}, squares {square_total:g}")
    mean = min(total / n, 1.0)
    variance = max(0.0, (square_total - total * total / n) / (n - 1))
    log_term = math.log(2 / alpha)
    return max(0.0, mean - math.sqrt(2 * variance * log_term / n) - 7 * log_term / (3 * (n - 1)))


def betting_lower(values: Float64[np.ndarray, " bins"], counts: Real[np.ndarray, " bins"], alpha: float) -> float:
    """Return a lower bound on the mean of independent variables in [0, 1], at confidence 1 - alpha, by betting.

    Waudby-Smith and Ramdas 2024 (arXiv 2010.09686), with a fixed mixture of bets in place of their bets that learn
    from one sample to the next, so that the bound depends on a histogram alone, not on an order.

    If the mean is at most m, a bet that turns a stake of 1 into 1 - c + c X / m has an expected value of at most 1. The
    samples are independent. So a capital of 1, divided into shares w_j that each bet a fraction c_j of their own on all
    n samples, has an expected value of at most 1 at the end, too. This capital

        E(m) = sum_j w_j prod_i (1 - c_j + c_j X_i / m)

    therefore reaches 1 / alpha with probability at most alpha (Markov) if the mean is at most m. E falls as m grows, so
    that every m below the root of E(m) = 1 / alpha is refuted. The root is above the true mean only if the true mean is
    refuted, which has probability at most alpha. Nothing else about the variables is used.

    A sample between two values may be shared between them, weighted so that its value is their mean (see
    `kinds.SoftBetting`): the logarithm of a factor is concave in X, so that sharing lowers E, and the bound holds.

    Args:
        values: the values that occur, in any order, each in [0, 1].
        counts: how many samples, or shares of samples, have each value.
        alpha: probability with which the bound may fail.

    Returns:
        The root of E(m) = 1 / alpha, or a number next to it on the refuted side, below the mean of the samples.

    Raises:
        SettingsError: a value outside [0, 1], a negative count, no samples or alpha not in (0, 1).
    """
    alpha = check_alpha(alpha)
    values, counts = np.asarray(values, dtype=float), np.asarray(counts, dtype=float)
    n = counts.sum()
    if not (((values >= 0) & (values <= 1)).all() and (counts >= 0).all() and n > 0.5):
        raise SettingsError("a histogram needs values in [0, 1] and counts of at least one sample, none negative")
    values, counts = values[counts > 0], counts[counts > 0]
    fractions, shares = _bets(round(n), alpha)
    log_shares = np.log(shares)
    enough = -math.log(alpha) + _ROUNDING
    low, high = 0.0, float(values @ counts / n)  # E(mean) <= 1: the geometric mean of factors is at most their mean
    while high - low > 1e-12:
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):  # a share that bets everything loses everything at a value of 0
            log_capitals = np.log1p(np.outer(fractions, values / middle - 1)) @ counts
        if np.logaddexp.reduce(log_capitals + log_shares) >= enough:
            low = middle
        else:
            high = middle
    return low


def _bets(n: int, alpha: float) -> tuple[Float64[np.ndarray, " bets"], Float64[np.ndarray, " bets"]]:
    """Return the fractions that are bet, and the shares of the capital that bet them.

    If k of n samples are 0 and the others are 1, the bound lies near d = ln(1/alpha) + sqrt(2 k ln(1/alpha)) further
    zeros and the best fraction is 1 minus the ratio of zeros seen to zeros claimed: d / (k + d). There is one
    fraction for each of k = 0, 1, 2, 4, ... up to n / 2. Scores are mostly close to 1, so k = 0 has a quarter of
    the capital; the shares of the others grow in proportion to their place: the more zeros there are, the less is
    gained over empirical Bernstein, and the less may be lost to the mixture.
    """
    zeros = np.append(0.0, 2.0 ** np.arange(max(1, math.ceil(math.log2(n)))))
    log_inverse = -math.log(alpha)
    distance = log_inverse + np.sqrt(2 * zeros * log_inverse)
    shares = np.arange(len(zeros), dtype=float)
    shares *= 0.75 / shares.sum()
    shares[0] = 0.25
    return distance / (zeros + distance), shares


def score_edges() -> Float64[np.ndarray, " bins"]:
    """Return the values of a histogram of scores for `betting_lower`, ascending. Their number does not depend on n.

    They are 0, then 1 - u for u from 2^(-1/16) to 2^-24, 16 to the octave, then 1.
    """
    distances = 2.0 ** (-np.arange(_OCTAVES * _BINS_AN_OCTAVE + 1) / _BINS_AN_OCTAVE)
    return np.append(1 - distances, 1.0)


def majority_p_value(first: int, second: int) -> float:
    """Return the two-sided p-value of the hypothesis that two classes are equally likely, given their counts.

    Exact binomial test of `first` among first + second at 1/2: Predict of Cohen et al. 2019, section 3.2.1,
    which abstains where this exceeds alpha.
    """
    fewer, more = sorted((int(first), int(second)))
    if fewer == more:
        return 1.0
    return min(1.0, 2 * float(special.betainc(more, fewer + 1, 0.5)))  # P[Binomial(first + second, 1/2) <= fewer]
