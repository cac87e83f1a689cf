"""Certified L2 radii from bounds on the probability of the top class. No torch here."""

import math

from scipy.special import ndtri

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha, clopper_pearson_lower

_LARGEST_USUAL_SIGMA = 4.0
"""Published results have 0.12 to 2. On the scale from 0 to 255 the smallest usual sigma is 6."""


def check_sigma(sigma: float) -> float:
    """Return a noise level in double precision, in which alone radii are rounded down.

    Raises:
        SettingsError: sigma is not positive and finite.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise SettingsError(f"sigma must be a positive number, in units of [0, 1] pixels, not {sigma:g}")
    return float(sigma)


def doubts_about_sigma(sigma: float) -> list[str]:
    """Return a warning if a noise level is probably given on the scale of 8-bit pixels, else none."""
    if sigma <= _LARGEST_USUAL_SIGMA:
        return []
    return [
        f"sigma is in units of [0, 1] pixels, and noise of sigma {sigma:g} hides any image: {sigma:g} on the scale "
        f"from 0 to 255 is a sigma of {sigma / 255:.3g}"
    ]


def certified_radius(p_a_lower: float, sigma: float, p_b_upper: float | None = None, gap: float = 0.0) -> float:
    """Return the radius in which the smoothed classifier is constant: (sigma / 2) (Phi^-1(p_A) - Phi^-1(p_B)).

    Theorem 1 of Cohen et al. 2019; for soft smoothing, theorem 2 of Zhai et al. 2020. Without `p_b_upper`, p_B is
    1 - p_A, and the radius sigma * Phi^-1(p_A).

    With a `gap`, the bounds are on probabilities under noise that is drawn, each of which differs by at most the gap
    from that under Gaussian noise, at every image. Then the radius is sigma ((a - b) / 2 - h), where

        a = Phi^-1(p_A - gap),  b = Phi^-1(p_B + gap),  c = (a + b) / 2,  Phi(c + h) - Phi(c - h) >= 2 gap.

    Proof. Under Gaussian noise, class A has at least p_A - gap at x and any other class at most p_B + gap. At a
    distance of s sigma, A has at least Phi(a - s) and the other at most Phi(b + s) (Cohen et al. 2019, proof of
    theorem 1). Where s is less than (a - b) / 2 - h, the first exceeds the second by more than
    Phi(c + h) - Phi(c - h) >= 2 gap, so that A remains the more likely class under the noise that is drawn. Without
    `p_b_upper`, c is 0 and this is the radius in which A keeps more than half. For h, the mass of the interval is at
    least 2 h phi(|c| + h), phi the normal density.

    The result is rounded down: SciPy's Phi^-1 is exact to 8e-16 of its value, and 2^-48, four times as much, is taken
    off, which covers the other operations as well.

    Args:
        p_a_lower: lower bound on the top class's probability (hard) or mean score (soft).
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        p_b_upper: upper bound on every other class's probability or mean score.
        gap: 0 for noise taken as exactly Gaussian, else `grid.discretisation_gap`.

    Returns:
        The L2 radius in [0, 1] pixel units; 0 (nothing certified) where p_A does not exceed p_B by more than two gaps.

    Raises:
        SettingsError: sigma is not positive and finite, a bound is not a probability, or the gap not in [0, 1/2).
    """
    sigma = check_sigma(sigma)
    for bound, name in ((p_a_lower, "lower"), (p_b_upper, "upper")):
        if bound is not None and not 0 <= bound <= 1:
            raise SettingsError(f"a probability's {name} bound must lie in [0, 1], not {bound:g}")
    if not 0 <= gap < 0.5:
        raise SettingsError(f"the gap of the noise must lie in [0, 1/2), not {gap:g}")
    p_a = float(p_a_lower)
    p_b = 1 - p_a if p_b_upper is None else float(p_b_upper)
    if gap > 0:
        p_a, p_b = math.nextafter(p_a - gap, -1), math.nextafter(p_b + gap, 2)
    if not p_a > p_b:
        return 0.0
    a, b = float(ndtri(p_a)), float(ndtri(p_b))
    if math.isinf(a - b):
        return math.inf
    rounding = 2**-48 * (abs(a) + abs(b)) / 2
    return max(0.0, sigma * ((a - b) / 2 - _half_width(abs(a + b) / 2, gap) - rounding))


def _half_width(centre: float, gap: float) -> float:
    """Return an h for which the standard normal mass within h of `centre` is at least 2 gap; infinity where h > 1."""
    h = 1.0
    for _ in range(5):  # while h is enough, gap / phi(|c| + h) is as well, if it is no larger
        smaller = gap / _density(centre + h)
        if smaller > h:
            return math.inf
        h = smaller
    return h


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """Return the radius of n agreeing votes of n, the largest of any hard certificate: sigma * Phi^-1(alpha^(1/n))."""
    return certified_radius(clopper_pearson_lower(n, n, alpha), sigma)


def fewest_samples(alpha: float) -> int:
    """Return the least n with which a hard certificate is possible: the first with alpha^(1/n) > 1/2."""
    return math.floor(-math.log2(check_alpha(alpha))) + 1
