"""The confidence bounds against other libraries, closed forms and their own definition."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from macer.errors import SettingsError
from macer.smoothing import bounds
from macer.smoothing.kinds import Hard, Soft

ALPHAS = st.floats(1e-6, 0.5)


@st.composite
def counts(draw):
    n = draw(st.integers(1, 200_000))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("n", [1, 17, 1000, 100_000])
def test_clopper_pearson_is_statsmodels_beta_interval_at_twice_alpha(n, alpha):
    for count in {0, 1, n // 2, n - n // 10, n - 1, n}:
        expected = proportion_confint(count, n, alpha=2 * alpha, method="beta")[0]
        assert bounds.clopper_pearson_lower(count, n, alpha) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("count", "n"), [(1, 1), (7, 12), (99, 100), (993, 1000), (99_990, 100_000)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_clopper_pearson_bound_is_exact(count, n, alpha):
    """At the bound p the count is as unlikely as alpha says: P[Binomial(n, p) >= count] = alpha, term by term."""
    with mpmath.workdps(40):
        p = mpmath.mpf(bounds.clopper_pearson_lower(count, n, alpha))
        term = tail = mpmath.mpf(0)
        for hits in range(n, count - 1, -1):
            term = p**n if hits == n else term * (hits + 1) / (n - hits) * (1 - p) / p
            tail += term
        assert float(tail) == pytest.approx(alpha, rel=1e-8)


@given(counts(), ALPHAS)
def test_clopper_pearson_stays_below_the_rate_and_grows_with_the_count(count_n, alpha):
    count, n = count_n
    bound = bounds.clopper_pearson_lower(count, n, alpha)
    assert 0 <= bound <= count / n
    assert (bound == 0) == (count == 0)
    if count < n:
        assert bounds.clopper_pearson_lower(count + 1, n, alpha) > bound


@given(st.integers(1, 10**6), ALPHAS)
def test_clopper_pearson_of_all_and_of_none(n, alpha):
    assert bounds.clopper_pearson_lower(n, n, alpha) == pytest.approx(math.exp(math.log(alpha) / n), rel=1e-12)
    assert bounds.clopper_pearson_lower(0, n, alpha) == 0


def test_clopper_pearson_covers_with_at_least_its_confidence():
    """Exact coverage, not sampled: the probability of counts whose bound exceeds p is at most alpha, and near it."""
    n, alpha = 200, 0.05
    lower = np.array([bounds.clopper_pearson_lower(count, n, alpha) for count in range(n + 1)])
    failures = [stats.binom.pmf(np.flatnonzero(lower > p), n, p).sum() for p in np.linspace(0.01, 0.99, 197)]
    assert max(failures) <= alpha * (1 + 1e-9)
    assert np.mean(failures) > alpha / 2


@pytest.mark.parametrize("n", [2, 50, 3000])
@pytest.mark.parametrize("alpha", [0.001, 0.2])
def test_empirical_bernstein_is_the_formula_of_maurer_and_pontil(n, alpha):
    """Theorem 4 of arXiv 0907.3740, with the sample variance written as they do: half the mean squared difference."""
    values = np.random.default_rng(n).beta(30, 0.3, n)
    variance = sum(((value - values) ** 2).sum() for value in values) / (2 * n * (n - 1))
    log_term = math.log(2 / alpha)
    expected = values.mean() - math.sqrt(2 * variance * log_term / n) - 7 * log_term / (3 * (n - 1))
    bound = bounds.empirical_bernstein_lower(values.sum(), (values**2).sum(), n, alpha)
    assert bound == pytest.approx(max(0.0, expected), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), ALPHAS, st.integers(1, 1000))
def test_empirical_bernstein_stays_below_the_mean(values, alpha, copies):
    total, square_total, n = copies * math.fsum(values), copies * math.fsum(v * v for v in values), copies * len(values)
    bound = bounds.empirical_bernstein_lower(total, square_total, n, alpha)
    assert 0 <= bound <= total / n
    assert bound < 1


@given(st.integers(2, 10**9))
def test_empirical_bernstein_is_below_one_even_if_the_sum_was_rounded_up(n):
    """A bound of 1 would be an infinite radius."""
    assert bounds.empirical_bernstein_lower(n * (1 + 5e-7), n * (1 + 5e-7), n, 0.001) < 1


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(10, 0, 2 / 2**10), (9, 1, 22 / 2**10), (5, 5, 1.0), (1, 0, 1.0), (0, 0, 1.0), (600, 400, 2.7283e-10)],
)
def test_majority_p_value_by_counting_subsets(first, second, p_value):
    assert bounds.majority_p_value(first, second) == pytest.approx(p_value, rel=1e-3)


@given(st.integers(0, 400), st.integers(0, 400))
def test_majority_p_value_is_the_doubled_tail(first, second):
    expected = min(1.0, 2 * stats.binom.sf(max(first, second) - 1, first + second, 0.5))
    assert bounds.majority_p_value(first, second) == pytest.approx(expected, rel=1e-9)
    assert bounds.majority_p_value(first, second) == pytest.approx(bounds.majority_p_value(second, first))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_alpha_outside_zero_and_one_is_refused(alpha):
    for call in (
        lambda: bounds.clopper_pearson_lower(1, 2, alpha),
        lambda: bounds.empirical_bernstein_lower(1.0, 1.0, 2, alpha),
        lambda: Soft().fewest_samples(alpha),
        lambda: Hard().fewest_samples(alpha),
    ):
        with pytest.raises(SettingsError, match="alpha must lie strictly between 0 and 1"):
            call()


@pytest.mark.parametrize(("count", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(count, n):
    with pytest.raises(SettingsError, match="impossible counts"):
        bounds.clopper_pearson_lower(count, n, 0.05)


@pytest.mark.parametrize(
    ("total", "square_total"),
    [(-1.0, 0.0), (11.0, 11.0), (5.0, 6.0), (5.0, 2.0), (5.0, -1.0), (math.nan, 1.0), (1.0, math.nan)],
    ids=[
        "negative",
        "above n",
        "square above value",
        "square below the mean's",
        "negative square",
        "nan",
        "nan square",
    ],
)
def test_sums_that_no_values_have_are_refused(total, square_total):
    """A variance that rounds below 0 is one thing; sums without values behind them must not become a proof."""
    with pytest.raises(SettingsError, match="impossible sums of 10 values"):
        bounds.empirical_bernstein_lower(total, square_total, 10, 0.05)


def test_empirical_bernstein_needs_two_samples():
    with pytest.raises(SettingsError, match="at least 2"):
        bounds.empirical_bernstein_lower(1.0, 1.0, 1, 0.05)
