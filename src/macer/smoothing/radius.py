"""Certified L2 radii from bounds on the probability of the top class. No torch here."""

import math

from scipy.special import ndtri

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha, clopper_pearson_lower


def check_sigma(sigma: float) -> None:
    """Refuse a noise level that is not a positive finite number.

    Raises:
        SettingsError: sigma is not positive and finite.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise SettingsError(f"sigma must be a positive number, in units of [0, 1] pixels, not {sigma:g}")


def certified_radius(p_a_lower: float, sigma: float, p_b_upper: float | None = None) -> float:
    """Return the radius in which the smoothed classifier is constant: (sigma / 2) (Phi^-1(p_A) - Phi^-1(p_B)).

    Theorem 1 of Cohen et al. 2019; for soft smoothing, theorem 2 of Zhai et al. 2020. Without `p_b_upper`, p_B is
    1 - p_A, and the radius sigma * Phi^-1(p_A).

    Args:
        p_a_lower: lower bound on the top class's probability (hard) or mean score (soft).
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        p_b_upper: upper bound on every other class's probability or mean score.

    Returns:
        The L2 radius in [0, 1] pixel units; 0 (nothing certified) where p_A does not exceed p_B.

    Raises:
        SettingsError: sigma is not positive and finite, or a bound is not a probability.
    """
    check_sigma(sigma)
    for bound, name in ((p_a_lower, "lower"), (p_b_upper, "upper")):
        if bound is not None and not 0 <= bound <= 1:
            raise SettingsError(f"a probability's {name} bound must lie in [0, 1], not {bound:g}")
    if p_b_upper is None:
        return sigma * float(ndtri(p_a_lower)) if p_a_lower > 0.5 else 0.0
    return sigma / 2 * float(ndtri(p_a_lower) - ndtri(p_b_upper)) if p_a_lower > p_b_upper else 0.0


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """Return the radius of n agreeing votes of n, the largest of any hard certificate: sigma * Phi^-1(alpha^(1/n))."""
    return certified_radius(clopper_pearson_lower(n, n, alpha), sigma)


def fewest_samples(alpha: float) -> int:
    """Return the least n with which a hard certificate is possible: the first with alpha^(1/n) > 1/2."""
    check_alpha(alpha)
    return math.floor(-math.log2(alpha)) + 1
