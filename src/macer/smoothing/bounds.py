"""Confidence bounds: from counts and sums over noise samples to a bound that holds with probability 1 - alpha.

No torch here: this file is mathematics, to be checked against the papers in one sitting.
"""

import math

from scipy import stats

from macer.errors import SettingsError


def check_alpha(alpha: float) -> None:
    """Refuse a failure probability outside (0, 1).

    Raises:
        SettingsError: alpha is not strictly between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise SettingsError(f"alpha must lie strictly between 0 and 1, not {alpha:g}")


def clopper_pearson_lower(count: int, n: int, alpha: float) -> float:
    """One-sided lower bound on a binomial proportion, exact at confidence 1 - alpha.

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
    check_alpha(alpha)
    if n < 1 or not 0 <= count <= n:
        raise SettingsError(f"impossible counts: {count} of {n}")
    if count == 0:
        return 0.0
    if count == n:
        return alpha ** (1 / n)
    return float(stats.beta.ppf(alpha, count, n - count + 1))


def empirical_bernstein_lower(total: float, square_total: float, n: int, alpha: float) -> float:
    """Lower bound on the mean of variables in [0, 1], at confidence 1 - alpha, that uses their variance.

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
    check_alpha(alpha)
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


def majority_p_value(first: int, second: int) -> float:
    """Two-sided p-value of the hypothesis that two classes are equally likely, given their counts.

    Exact binomial test of `first` among first + second at 1/2: Predict of Cohen et al. 2019, section 3.2.1,
    which abstains where this exceeds alpha.
    """
    if first + second == 0:
        return 1.0
    return float(stats.binomtest(first, first + second, 0.5).pvalue)
