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


def certified_radius(p_a_lower: float, sigma: float) -> float:
    """Radius within which the smoothed classifier's answer is constant: sigma * Phi^-1(p_a_lower).

    Theorem 1 of Cohen et al. 2019 with p_B = 1 - p_A; for soft smoothing, theorem 2 of Zhai et al. 2020.

    Args:
        p_a_lower: lower bound on the top class's probability (hard) or mean score (soft).
        sigma: standard deviation of the noise, in [0, 1] pixel units.

    Returns:
        The L2 radius in [0, 1] pixel units; 0 (nothing certified) where the bound does not exceed 1/2.
    """
    check_sigma(sigma)
    if not 0 <= p_a_lower <= 1:
        raise SettingsError(f"a probability's lower bound must lie in [0, 1], not {p_a_lower:g}")
    return sigma * float(ndtri(p_a_lower)) if p_a_lower > 0.5 else 0.0


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """The radius that n agreeing votes of n give, which no hard certificate can exceed: sigma * Phi^-1(alpha^(1/n))."""
    return certified_radius(clopper_pearson_lower(n, n, alpha), sigma)


def fewest_samples(alpha: float) -> int:
    """The least n with which any hard certificate is possible at all: the first with alpha^(1/n) > 1/2."""
    check_alpha(alpha)
    return math.floor(-math.log2(alpha)) + 1
