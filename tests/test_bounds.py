"""The confidence bounds against other libraries, closed forms and their own definition."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint

from macer.errors import SettingsError
from macer.smoothing import bounds
from macer.smoothing.kinds import SoftBetting
from macer.smoothing.radius import certified_radius
from macer.smoothing.sequential import RadiusAtLeast

ALPHAS = st.floats(1e-6, 0.5)


def score_histogram(scores):
    """The histogram of SoftBetting by its definition: each score shared between the two edges around it."""
    edges = bounds.score_edges()
    left = np.minimum(np.searchsorted(edges, scores, side="right") - 1, len(edges) - 2)
    share = (scores - edges[left]) / np.diff(edges)[left]
    return np.bincount(left, 1 - share, minlength=len(edges)) + np.bincount(left + 1, share, minlength=len(edges))


@pytest.mark.parametrize("number", [np.int16, np.float32, np.float16])
@pytest.mark.parametrize(
    "bound",
    [
        lambda n: bounds.clopper_pearson_lower(n(16_384), n(16_384), 0.001),
        lambda n: bounds.clopper_pearson_lower(n(16_000), n(16_384), 0.001),
        lambda n: bounds.clopper_pearson_upper(n(512), n(16_384), 0.001),
        lambda n: bounds.randomised_clopper_pearson_lower(n(16_000), n(16_384), 0.001, 0.5),
        lambda n: bounds.two_class_bounds(n(16_000), n(256), n(16_384), 10, 0.001),
        lambda n: bounds.empirical_bernstein_lower(n(16_000), n(15_904), n(16_384), 0.001),
        lambda n: bounds.betting_lower(np.array([n(0), n(1)]), np.array([n(256), n(16_128)]), 0.001),
        lambda n: bounds.majority_p_value(n(8_000), n(7_776)),
        lambda n: certified_radius(n(3) / 4, 0.25),
        lambda n: RadiusAtLeast(n(3) / 4).probability(0.5),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_of_few_bits_give_the_same_bounds(number, bound):
    """All of these numbers are exact in every type: only arithmetic in that type would change a bound."""
    assert bound(number) == bound(int)


@st.composite
def counts(draw):
    n = draw(st.integers(1, 200_000))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("n", [1, 17, 1000, 100_000])
def test_clopper_pearson_is_statsmodels_beta_interval_at_twice_alpha(n, alpha):
    for count in {0, 1, n // 2, n - n // 10, n - 1, n}:
        lower, upper = proportion_confint(count, n, alpha=2 * alpha, method="beta")
        assert bounds.clopper_pearson_lower(count, n, alpha) == pytest.approx(lower, rel=1e-10)
        assert bounds.clopper_pearson_upper(count, n, alpha) == pytest.approx(upper, rel=1e-10)


def tail_of_few(n: int, few: int, q: mpmath.mpf) -> mpmath.mpf:
    """P[Binomial(n, q) <= few], term by term."""
    terms = [(1 - q) ** n]
    for hits in range(1, few + 1):
        terms.append(terms[-1] * (n - hits + 1) / hits * q / (1 - q))
    return mpmath.fsum(terms)


@pytest.mark.parametrize(("misses", "n"), [(0, 1), (5, 12), (1, 100), (7, 1000), (10, 100_000)])
@pytest.mark.parametrize(("side", "alpha"), [("lower", 0.001), ("lower", 0.05), ("upper", 1e-20), ("upper", 0.001)])
def test_clopper_pearson_bound_is_exact(misses, n, side, alpha):
    """At the bound the count is as unlikely as alpha says: P[Binomial(n, q) <= misses] = alpha, term by term.

    Of the lower bound q is 1 - p, of the upper bound p; there alpha / 2 / (K - 1) can be too small for 1 - alpha.
    """
    with mpmath.workdps(40):
        if side == "lower":
            q = 1 - mpmath.mpf(bounds.clopper_pearson_lower(n - misses, n, alpha))
        else:
            q = mpmath.mpf(bounds.clopper_pearson_upper(misses, n, alpha))
        assert float(tail_of_few(n, misses, q)) == pytest.approx(alpha, rel=1e-8)


@pytest.mark.parametrize(
    ("misses", "n", "alpha"),
    [
        (999, 10**9, 8.901462216098928e-08),  # SciPy 1.17: the lower bound fails with probability 6.7e-4
        (999, 519_606_770, 3.469707852250648e-08),  # .052
        (999, 10**9, 0.001),
        (999, 10**9, 0.0005),
        (999, 10**8, 0.001),
        (999, 10**7, 0.01),
        (8, 10, 1e-200),  # NaN
        (1, 10, 1e-200),
        (31, 16555, 1e-200),  # at 1e-250 the tail of SciPy is 0 where it is not
        (998, 1000, 1e-120),
    ],
)
def test_clopper_pearson_fails_with_alpha_where_the_inverse_of_scipy_is_wrong(misses, n, alpha):
    """At n = 1e9 a float64 next to 1 leaves some 1e-8 of the tail open; a bound may fall short by that, not exceed."""
    with mpmath.workdps(400):
        lower = mpmath.mpf(bounds.clopper_pearson_lower(n - misses, n, alpha))
        assert float(tail_of_few(n, misses, 1 - lower) / alpha - 1) == pytest.approx(0, abs=1e-7)
        if alpha > 1e-100:  # else it is 1 to all digits of a float64
            upper = mpmath.mpf(bounds.clopper_pearson_upper(misses, n, alpha))
            assert float(tail_of_few(n, misses, upper) / alpha - 1) == pytest.approx(0, abs=1e-7)


@given(counts(), ALPHAS)
def test_clopper_pearson_is_the_inverse_of_scipy_to_the_bit_where_that_is_right(count_n, alpha):
    """Recorded certificates stay what they are."""
    count, n = count_n
    if 0 < count < n:
        lower, upper = special.betaincinv(count, n - count + 1, alpha), special.betainccinv(count + 1, n - count, alpha)
        assert bounds.clopper_pearson_lower(count, n, alpha) == lower
        assert bounds.clopper_pearson_upper(count, n, alpha) == upper


@given(counts(), ALPHAS, st.floats(2**-53, 1))
def test_the_randomised_bound_lies_between_those_of_this_count_and_of_one_more(count_n, alpha, v):
    """And is the p whose randomised p-value is alpha, by SciPy's binomial distribution."""
    count, n = count_n
    bound = bounds.randomised_clopper_pearson_lower(count, n, alpha, v)
    least = bounds.clopper_pearson_lower(count, n, alpha)
    assert least <= bound <= bounds.clopper_pearson_lower(min(count + 1, n), n, alpha)
    if count == n or bound == 0:
        assert bound == least
        assert count == n or v >= alpha
    else:
        p_value = (1 - v) * stats.binom.sf(count, n, bound) + v * stats.binom.sf(count - 1, n, bound)
        assert p_value == pytest.approx(alpha, rel=1e-6)
    assert bounds.randomised_clopper_pearson_lower(count, n, alpha, 1.0) == pytest.approx(least, rel=1e-12)


def fails(p: float, n: int, alpha: float) -> float:
    """The probability that the randomised bound exceeds p: of each count, the share of v for which it does."""
    total = 0.0
    for count in range(n + 1):
        some, none = 0.0, 1.0  # a v at which the bound exceeds p, and one at which it does not
        if bounds.randomised_clopper_pearson_lower(count, n, alpha, none) > p:
            some = none
        while none - some > 1e-12:
            middle = (some + none) / 2
            exceeds = bounds.randomised_clopper_pearson_lower(count, n, alpha, middle) > p
            some, none = (middle, none) if exceeds else (some, middle)
        total += stats.binom.pmf(count, n, p) * some
    return total


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.7])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_the_randomised_bound_fails_with_probability_alpha_exactly(n, alpha):
    """With no chance in it; the plain bound fails less often."""
    limit = bounds.clopper_pearson_lower(n, n, alpha)
    for p in (0.01 * limit, 0.3 * limit, 0.5 * limit, 0.999 * limit):
        assert fails(p, n, alpha) == pytest.approx(alpha, rel=1e-8)
    assert fails((1 + limit) / 2, n, alpha) == 0


@pytest.mark.parametrize("v", [0.0, 1.5, math.nan])
def test_v_lies_above_0_and_at_most_at_1(v):
    with pytest.raises(SettingsError, match="v must lie in"):
        bounds.randomised_clopper_pearson_lower(5, 10, 0.05, v)


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


@given(counts(), ALPHAS)
def test_upper_clopper_pearson_mirrors_the_lower(count_n, alpha):
    count, n = count_n
    mirrored = 1 - bounds.clopper_pearson_lower(n - count, n, alpha)
    assert bounds.clopper_pearson_upper(count, n, alpha) == pytest.approx(mirrored, rel=1e-8, abs=1e-14)


def of_votes(votes, top, alpha):
    """The two-class bounds of all classes' votes."""
    runner_up = max(int(votes[other]) for other in range(len(votes)) if other != top)
    return bounds.two_class_bounds(int(votes[top]), runner_up, int(sum(votes)), len(votes), alpha)


VOTES = st.lists(st.integers(0, 20_000), min_size=2, max_size=12).filter(any)


@given(VOTES, ALPHAS, st.data())
def test_two_class_bounds_are_bonferroni_over_all_classes(votes, alpha, data):
    """A Clopper-Pearson interval for every class, each at its own share of alpha, and the largest of the others'."""
    top = data.draw(st.integers(0, len(votes) - 1))
    n, share = sum(votes), alpha / 2 / (len(votes) - 1)
    others = [proportion_confint(k, n, alpha=2 * share, method="beta")[1] for c, k in enumerate(votes) if c != top]
    p_a_lower, p_b_upper = of_votes(votes, top, alpha)
    assert p_a_lower == bounds.clopper_pearson_lower(votes[top], n, alpha / 2)
    assert p_b_upper == pytest.approx(min(max(others), 1 - p_a_lower), rel=1e-9)


@pytest.mark.parametrize("probabilities", [(0.45, 0.35, 0.1, 0.1), (0.9, 0.05, 0.05), (0.6, 0.4), (0.25,) * 4])
def test_two_class_bounds_hold_together(probabilities):
    """At alpha = 0.05, failures in 1,000 runs: refused with probability 0.001 if they are just 5%."""
    runs, alpha = 1000, 0.05
    failures = 0
    for votes in np.random.default_rng(3).multinomial(300, probabilities, size=runs):
        p_a_lower, p_b_upper = of_votes(votes, 0, alpha)
        failures += p_a_lower > probabilities[0] or p_b_upper < max(probabilities[1:])
    assert stats.binomtest(failures, runs, alpha, alternative="greater").pvalue > 0.001


def capital(values, m, alpha):
    """The bettor's capital as `betting_lower` words it: one product over all samples for each fraction."""
    n, fractions, shares = len(values), [1.0], [0.25]
    zeros, place = 1, 0
    while zeros < n or place == 0:
        distance = math.log(1 / alpha) + math.sqrt(2 * zeros * math.log(1 / alpha))
        fractions.append(distance / (zeros + distance))
        place += 1
        shares.append(place)
        zeros *= 2
    shares[1:] = [0.75 * share / sum(shares[1:]) for share in shares[1:]]
    return sum(
        share * math.prod(1 - c + c * value / m for value in values) for c, share in zip(fractions, shares, strict=True)
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1e-4, 0.5))
def test_betting_bound_is_where_the_capital_reaches_one_over_alpha(values, alpha):
    bound = bounds.betting_lower(np.array(values), np.ones(len(values), dtype=int), alpha)
    assert 0 <= bound <= np.mean(values)
    assert bound == 0 or capital(values, bound, alpha) >= 1 / alpha
    above = bound * (1 + 1e-5) + 1e-11
    assert capital(values, above, alpha) < 1 / alpha


def test_betting_bound_of_a_histogram_is_that_of_its_samples():
    """Neither the order of the bins, nor empty ones, nor one value in two bins."""
    values, counts = np.array([1.0, 0.2, 0.9, 0.0]), np.array([80, 5, 14, 1])
    expected = bounds.betting_lower(np.repeat(values, counts), np.ones(100, dtype=int), 0.01)
    for other_values, other_counts in (
        (values, counts),
        (values[::-1], counts[::-1]),
        (np.array([*values, 0.5]), np.array([*counts, 0])),
        (np.array([0.9, *values]), np.array([4, 80, 5, 10, 1])),
    ):
        bound = bounds.betting_lower(other_values.copy(), other_counts.copy(), 0.01)
        assert bound == pytest.approx(expected, abs=3e-12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.data())
def test_betting_bound_grows_with_every_value(values, data):
    position = data.draw(st.integers(0, len(values) - 1))
    larger = [*values]
    larger[position] = data.draw(st.floats(values[position], 1))
    ones = np.ones(len(values), dtype=int)
    bound = bounds.betting_lower(np.array(values), ones, 0.01)
    assert bounds.betting_lower(np.array(larger), ones, 0.01) >= bound - 2e-12


@pytest.mark.parametrize("values", [(0.0, 0.5, 1.0), (0.0, 0.9, 1.0), (0.3, 0.9, 0.95)])
def test_betting_bound_covers_with_at_least_its_confidence(values):
    """Exact coverage, not sampled: every histogram of 20 samples with three values, under many distributions."""
    n, alpha = 20, 0.05
    histograms = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)])
    lower = np.array([bounds.betting_lower(np.array(values), histogram, alpha) for histogram in histograms])
    failures = []
    for first in np.linspace(0, 1, 21):
        for second in np.linspace(0, 1 - first, 21):
            probabilities = np.array([first, second, max(0.0, 1 - first - second)])
            mean = probabilities @ values
            refuted = histograms[lower > mean + 1e-9]
            failures.append(stats.multinomial.pmf(refuted, n, probabilities).sum() if len(refuted) else 0.0)
    assert max(failures) <= alpha
    assert max(failures) > alpha / 20


@pytest.mark.parametrize(("a", "b"), [(30, 0.3), (0.99, 0.01), (2, 1)])
def test_betting_bound_of_a_score_histogram_covers_the_true_mean(a, b):
    """At alpha = 0.05, failures in 300 runs: refused with probability 0.001 if they are just 5%."""
    runs, alpha = 300, 0.05
    edges = bounds.score_edges()
    failures = sum(
        bounds.betting_lower(edges, score_histogram(scores), alpha) > a / (a + b)
        for scores in np.random.default_rng(4).beta(a, b, (runs, 200))
    )
    assert stats.binomtest(failures, runs, alpha, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("n", [10, 300, 1000])
def test_betting_bound_of_votes_is_below_clopper_pearson(n):
    """No valid bound that grows with the count is above it; and betting loses little against it."""
    for zeros in {0, 1, 3, n // 10, n // 4, n // 2, n}:
        exact = bounds.clopper_pearson_lower(n - zeros, n, 0.001)
        bound = bounds.betting_lower(np.array([0.0, 1.0]), np.array([zeros, n - zeros]), 0.001)
        assert bound <= exact
        if 0 < zeros < n // 2:
            assert (n - zeros) / n - bound < 1.5 * ((n - zeros) / n - exact)


SCORES = {
    "all 1": lambda q: np.ones_like(q),
    "hard to tell": lambda q: (q > 0.4) * 1.0,
    "votes": lambda q: (q > 0.1) * 1.0,
    "nearly agreed votes": lambda q: (q > 0.002) * 1.0,
    "close to 1": lambda q: stats.beta.ppf(q, 50, 1),
    "spread": lambda q: stats.beta.ppf(q, 2, 1),
    "at both ends": lambda q: stats.beta.ppf(q, 0.9, 0.1).clip(0, 1),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("n", [200, 1000, 10_000, 100_000])
def test_betting_gives_larger_radii_than_empirical_bernstein(name, n):
    """Everywhere up to n = 10,000; at 100,000 where few scores are far from 1, and elsewhere almost the same."""
    scores = SCORES[name]((np.arange(n) + 0.5) / n)
    bernstein = bounds.empirical_bernstein_lower(scores.sum(), (scores**2).sum(), n, 0.001)
    betting = bounds.betting_lower(bounds.score_edges(), score_histogram(scores), 0.001)
    gain = certified_radius(betting, 1.0) - certified_radius(bernstein, 1.0)
    if n <= 10_000:
        assert gain > 0 or betting <= 0.5
    elif name in ("all 1", "nearly agreed votes", "close to 1"):
        assert gain > 0.002
    else:
        assert gain > -0.0015


def test_largest_betting_radius():
    """3.77 sigma at n = 100,000, alpha = 0.001, between empirical Bernstein's 3.57 and Clopper-Pearson's 3.81."""
    bound = bounds.betting_lower(np.array([1.0]), np.array([100_000]), 0.001)
    assert round(certified_radius(bound, 1.0), 2) == 3.77


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_a_score_histogram_keeps_number_and_mean(scores):
    edges, counts = bounds.score_edges(), score_histogram(np.array(scores))
    assert counts.sum() == pytest.approx(len(scores), rel=1e-12)
    assert counts @ edges == pytest.approx(sum(scores), rel=1e-12, abs=1e-12)
    assert (counts >= 0).all()
    assert np.count_nonzero(counts) <= 2 * len(scores)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(1e-4, 0.5))
def test_sharing_scores_between_edges_never_raises_the_bound(scores, alpha):
    exact = bounds.betting_lower(np.array(scores), np.ones(len(scores)), alpha)
    assert bounds.betting_lower(bounds.score_edges(), score_histogram(np.array(scores)), alpha) <= exact + 2e-12


@pytest.mark.parametrize(("a", "b"), [(1000, 1), (30, 0.3), (5, 0.5), (2, 1), (10, 6)])
def test_sharing_scores_between_edges_loses_next_to_nothing(a, b):
    """A ten-thousandth of sigma. Rounding scores down to 64 edges an octave would lose up to 0.005 sigma."""
    scores = stats.beta.ppf((np.arange(2000) + 0.5) / 2000, a, b)
    exact = bounds.betting_lower(scores, np.ones(2000), 0.001)
    shared = bounds.betting_lower(bounds.score_edges(), score_histogram(scores), 0.001)
    assert certified_radius(exact, 1.0) - certified_radius(shared, 1.0) < 1e-4


def test_score_edges_are_few_and_ascend():
    edges = bounds.score_edges()
    assert len(edges) == 386
    assert (edges[0], edges[-2], edges[-1]) == (0, 1 - 2**-24, 1)
    assert (np.diff(edges) > 0).all()
    assert (score_histogram(edges) == 1).all()


def test_the_soft_kind_shares_scores_so():
    """With x = 0, x = 1 and every edge among the scores, of which float32 keeps 24 digits."""
    near_one = np.random.default_rng(5).beta(5, 0.5, 1000)
    scores = torch.from_numpy(np.append(bounds.score_edges(), near_one)).float()
    sums = SoftBetting().summands(scores.unsqueeze(1), 0).sum(0).numpy()
    assert sums[0] == pytest.approx(float(scores.double().sum()))
    assert np.allclose(sums[1:], score_histogram(scores.double().numpy()), rtol=0, atol=1e-9)
