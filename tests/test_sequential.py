"""Sequential certification against literal integrals, exact probabilities over all paths, and simulated adversaries."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from macer.smoothing import sequential
from macer.smoothing.radius import certified_radius, largest_radius
from macer.smoothing.sequential import Question, RadiusAtLeast, RadiusWithin

SIGMA, ALPHA = 0.25, 0.05
TRIALS = np.arange(100, 10_001, 100)
SIDES = {"above": special.betaincc, "below": special.betainc}


def threshold(ratio):
    """The p_A whose radius is `ratio` sigma."""
    return float(special.ndtr(ratio))


def paths(p, runs, seed, trials=TRIALS):
    """Cumulative votes of many images with the same p_A, one a row."""
    steps = np.diff(trials, prepend=0)
    return np.random.default_rng(seed).binomial(steps, p, size=(runs, len(trials))).cumsum(axis=1)


def grid(n):
    """Every count of 0 .. m successes among m trials, for every m up to n: arrays (successes, trials)."""
    trials, successes = np.tril_indices(n + 1)
    return successes[1:], trials[1:]


def ever(stopped, p, n):
    """The exact probability that Bernoulli(p) votes, looked at after each of n, come to where `stopped` is true.

    `stopped` is as long as `grid(n)`. Paths that have not stopped are carried on from count to count.
    """
    alive, total, start = np.array([1.0]), 0.0, 0
    for m in range(1, n + 1):
        alive = np.append(alive * (1 - p), 0) + np.append(0, alive * p)
        here = stopped[start : start + m + 1]
        total += alive[here].sum()
        alive[here] = 0
        start += m + 1
    return total


def assert_at_most(failures, runs, rate):
    """No significant excess: a true rate of just `rate` is refused with probability 0.001."""
    assert stats.binomtest(int(failures), runs, rate, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("ratio", "successes", "trials"), [(0.5, 3, 4), (1.0, 20, 20), (1.0, 90, 120), (2.5, 395, 400)]
)
def test_evidence_is_the_mean_likelihood_ratio_over_the_cut_off_prior(side, ratio, successes, trials):
    """By quadrature: the ratio of the votes' likelihoods at q and p, averaged over Beta's q on that side of p."""
    with mpmath.workdps(30):
        p = mpmath.mpf(threshold(ratio))
        a, b = 100 * p, 100 * (1 - p)

        def prior(q):
            return q ** (a - 1) * (1 - q) ** (b - 1)

        def ratio_at(q):
            return (q / p) ** successes * ((1 - q) / (1 - p)) ** (trials - successes)

        ends = [p, (1 + p) / 2, 1] if side == "above" else [0, p / 2, p]
        mean = mpmath.quad(lambda q: prior(q) * ratio_at(q), ends) / mpmath.quad(prior, ends)
        expected = float(mpmath.log(mean))
    evidence = sequential.log_evidence(np.array([successes]), np.array([trials]), float(p), SIDES[side])
    assert evidence[0] == pytest.approx(expected, abs=1e-6)


def log_evidence_by_mpmath(successes, failures, p, side, *, one_sided):
    """As `log_evidence` words it; where `one_sided`, the posterior's share is 1 and left out, for it takes long."""
    with mpmath.workdps(40):
        p = mpmath.mpf(p)
        a, b = 100 * p, 100 * (1 - p)

        def log_beta(a, b):
            return mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)

        def log_share(a, b):
            return mpmath.log(mpmath.betainc(a, b, *((p, 1) if side == "above" else (0, p)), regularized=True))

        log_mean = log_beta(a + successes, b + failures) - log_beta(a, b) - log_share(a, b)
        log_mean += 0 if one_sided else log_share(a + successes, b + failures)
        return float(log_mean - successes * mpmath.log(p) - failures * mpmath.log(1 - p))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("ratio", [0.01, 1.0, 3.0, 5.0])
def test_evidence_of_many_votes_agrees_with_mpmath(side, ratio):
    p, n = threshold(ratio), 2_000
    for deviation in (-4, 0, 4):
        successes = min(n, round(n * p + deviation * math.sqrt(n * p * (1 - p))))
        evidence = sequential.log_evidence(np.array([successes]), np.array([n]), p, SIDES[side])[0]
        expected = log_evidence_by_mpmath(successes, n - successes, p, side, one_sided=False)
        assert evidence == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("ratio", [0.01, 1.0, 3.0])
def test_evidence_of_ten_million_votes_keeps_its_digits(side, ratio):
    """Rounding stays a tenth of the 10^-6 that the code leaves for it."""
    p, n = threshold(ratio), 10**7
    successes = round(n * p + (8 if side == "above" else -8) * math.sqrt(n * p * (1 - p)))
    assert SIDES[side](100 * p + successes, 100 * (1 - p) + n - successes, p) > 1 - 1e-9
    evidence = sequential.log_evidence(np.array([successes]), np.array([n]), p, SIDES[side])[0]
    expected = log_evidence_by_mpmath(successes, n - successes, p, side, one_sided=True)
    assert evidence == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("ratio", [0.1, 1.0, 2.0, 3.0])
def test_evidence_is_a_fair_bet_at_the_threshold_and_a_losing_one_under_the_hypothesis(side, ratio):
    """Its mean over all counts of n votes, exactly: 1 at p_A = p, at most 1 where the hypothesis is true."""
    p, n = threshold(ratio), 250
    counts = np.arange(n + 1)
    evidence = sequential.log_evidence(counts, np.full(n + 1, n), p, SIDES[side])

    def mean(p_a):
        return np.exp(evidence + stats.binom.logpmf(counts, n, p_a)).sum()

    assert mean(p) == pytest.approx(1, rel=1e-9)
    for p_a in (p - 0.3, p - 0.02, p - 1e-4) if side == "above" else (p + 1e-4, p + (1 - p) / 2, 1 - (1 - p) / 9):
        assert mean(p_a) < 1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_a_wrong_answer_has_at_most_probability_alpha_however_often_one_looks(side, ratio):
    """Exact, at p_A = p, the hardest truth: all paths of 500 votes, looked at after each vote."""
    n, p = 500, threshold(ratio)
    stopped = sequential.log_evidence(*grid(n), p, SIDES[side]) >= math.log(1 / ALPHA)
    probability = ever(stopped, p, n)
    assert probability <= ALPHA
    assert probability > ALPHA / 5


@pytest.mark.parametrize("p_a", [0.02, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_the_confidence_sequence_holds_at_all_times_at_once(p_a):
    """Exact, as above: the probability that p_A is ever outside."""
    n = 500
    lower, upper = sequential.confidence_sequence(*grid(n), ALPHA)
    probability = ever((p_a <= lower) | (p_a >= upper), p_a, n)
    assert probability <= ALPHA
    assert probability > ALPHA / 50


@pytest.mark.parametrize(("successes", "trials"), [(1, 1), (60, 100), (9_900, 10_000), (9_999_000, 10**7)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_ends_of_the_confidence_sequence_are_where_the_mixture_reaches_one_over_alpha(successes, trials, alpha):
    """The mean likelihood over Beta(1, 0.1), divided by that at p, in mpmath; the ends are refuted themselves."""
    lower, upper = sequential.confidence_sequence(np.array([successes]), np.array([trials]), alpha)
    failures = trials - successes
    with mpmath.workdps(40):
        mean = mpmath.log(mpmath.beta(1 + successes, mpmath.mpf("0.1") + failures) / mpmath.beta(1, mpmath.mpf("0.1")))

        def log_mixture(p):
            p = mpmath.mpf(float(p))
            return float(mean - successes * mpmath.log(p) - (failures * mpmath.log(1 - p) if failures else 0))

        for end in [lower[0], upper[0]] if failures else [lower[0]]:
            assert log_mixture(end) >= math.log(1 / alpha)
            assert log_mixture(end) == pytest.approx(math.log(1 / alpha), abs=1e-5)
    assert lower[0] < successes / trials <= upper[0]


@given(st.integers(1, 10**7), st.floats(1e-6, 0.5))
def test_without_failures_nothing_bounds_from_above_and_without_successes_nothing_from_below(n, alpha):
    successes, trials = np.array([0, n]), np.array([n, n])
    lower, upper = sequential.confidence_sequence(successes, trials, alpha)
    assert lower[0] == 0
    assert upper[1] == 1
    assert upper[0] < 1 or n < 100
    assert lower[1] > 0.5 or n < 100


@given(st.integers(1, 10**6), st.data())
def test_more_successes_raise_the_interval(trials, data):
    successes = data.draw(st.integers(0, trials - 1))
    lower, upper = sequential.confidence_sequence(np.array([successes, successes + 1]), np.array([trials] * 2), 0.001)
    assert 0 <= lower[0] <= lower[1]
    assert upper[0] <= upper[1] <= 1


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_at_the_threshold_itself_answers_are_rarely_no_and_below_it_rarely_yes(ratio):
    """400 images stopped at their first answer; a "no" at p_A = p, and a "yes" just below p, are wrong."""
    question, p, runs = RadiusAtLeast(ratio * SIGMA), threshold(ratio), 400
    for p_a, wrong in ((p + 1e-9, "no"), (p - 1e-9, "yes")):
        answers = [question.answer(votes, TRIALS, SIGMA, ALPHA) for votes in paths(p_a, runs, seed=7)]
        assert_at_most(sum(answer.verdict == wrong for answer in answers), runs, ALPHA)


@pytest.mark.parametrize("p_a", [0.6, 0.9, 0.995])
@pytest.mark.parametrize("question", [RadiusWithin(0.02), RadiusWithin(0.2, 0.5)], ids=str)
def test_certificates_hold_wherever_the_question_stopped_or_did_not(p_a, question):
    """R_low above R in no more than alpha of 150 images, stopped by their answer or at the last sample."""
    runs = 150
    answers = [question.answer(votes, TRIALS, SIGMA, ALPHA) for votes in paths(p_a, runs, seed=8)]
    assert_at_most(sum(answer.p_a_lower > p_a for answer in answers), runs, ALPHA)
    assert all((answer.check is None) == (answer.verdict == "undecided") for answer in answers)


@pytest.mark.parametrize(("ratio", "p_a", "verdict"), [(1, 0.9, "yes"), (1, 0.75, "no"), (1, 0.3, "no"), (3, 1, "yes")])
def test_clear_cases_are_answered_rightly_and_soon(ratio, p_a, verdict):
    votes = paths(p_a, 1, seed=9)[0]
    answer = RadiusAtLeast(ratio * SIGMA).answer(votes, TRIALS, SIGMA, 0.001)
    assert answer.verdict == verdict
    assert answer.check is not None
    assert TRIALS[answer.check] < 8000
    assert answer.p_a_lower == (pytest.approx(threshold(ratio)) if verdict == "yes" else 0)


def test_the_answer_is_the_first_check_point_whose_evidence_suffices():
    p = threshold(1)
    for votes in paths(p + 0.02, 20, seed=10):
        answer = RadiusAtLeast(SIGMA).answer(votes, TRIALS, SIGMA, ALPHA)
        above, below = (sequential.log_evidence(votes, TRIALS, p, share) for share in SIDES.values())
        settled = np.maximum(above, below) >= math.log(1 / ALPHA) + 1e-6
        assert answer.check == (int(settled.argmax()) if settled.any() else None)


@pytest.mark.parametrize("question", [RadiusAtLeast(0.26), RadiusWithin(0.1)], ids=str)
@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_check_points_may_come_in_any_portions(question, at_once):
    for votes in paths(0.87, 2, seed=11):
        whole = question.answer(votes, TRIALS, SIGMA, 0.001)
        for start in range(0, len(TRIALS), at_once):
            portion = slice(start, start + at_once)
            answer = question.answer(votes[portion], TRIALS[portion], SIGMA, 0.001)
            if answer.check is not None:
                break
        assert (answer.verdict, answer.p_a_lower) == (whole.verdict, whole.p_a_lower)
        assert whole.check == (None if answer.check is None else start + answer.check)


@given(st.floats(1e-3, 4.5), st.floats(0.01, 10))
def test_a_yes_certifies_the_radius_that_was_asked_for(ratio, sigma):
    """Not a rounding less, or certified accuracy at that radius would not count it; and hardly more."""
    question = RadiusAtLeast(ratio * sigma)
    answer = question.answer(np.array([10**7]), np.array([10**7]), sigma, 0.05)
    assert answer.verdict == "yes"
    assert certified_radius(answer.p_a_lower, sigma) >= question.radius
    assert certified_radius(answer.p_a_lower, sigma) == pytest.approx(question.radius, rel=1e-9)


@pytest.mark.parametrize("width", [0.5, 0.3, 0.2])
@pytest.mark.parametrize("ceiling", [math.inf, 0.3])
def test_a_radius_within_stops_at_the_first_interval_that_is_narrow_enough(width, ceiling):
    for votes in paths(0.93, 5, seed=12):
        answer = RadiusWithin(width, ceiling).answer(votes, TRIALS, SIGMA, 0.001)
        assert answer.verdict == "yes"
        ends = sequential.confidence_sequence(votes, TRIALS, 0.001)
        lower, upper = (np.array([certified_radius(float(end), SIGMA) for end in side]) for side in ends)
        upper = np.minimum(upper, ceiling)
        narrow = (lower > 0) & (upper - lower <= width * upper)
        assert answer.check == narrow.argmax()
        assert certified_radius(answer.p_a_lower, SIGMA) == lower[answer.check]


@given(st.integers(1, 10**6), st.floats(0.5, 1), st.floats(0.001, 0.99), st.sampled_from([0.0, 4e-11]))
def test_a_yes_to_a_width_holds_for_the_radius_that_is_certified(trials, rate, width, gap):
    """Rounded down, and with the largest gap of sound noise: that of 3 x 224 x 224 at sigma 1."""
    votes, trials = np.array([round(rate * trials)]), np.array([trials])
    answer = RadiusWithin(width, 3 * SIGMA).answer(votes, trials, SIGMA, 0.05)
    (upper,) = sequential.confidence_sequence(votes, trials, 0.05)[1]
    if answer.verdict == "yes":
        wanted = (1 - width) * min(SIGMA * float(special.ndtri(upper)), 3 * SIGMA)
        assert certified_radius(answer.p_a_lower, SIGMA, gap=gap) >= wanted


def test_a_class_without_a_majority_is_given_up_and_one_with_a_small_majority_is_not():
    answer = RadiusWithin(0.1).answer(paths(0.4, 1, seed=13)[0], TRIALS, SIGMA, 0.001)
    assert answer.verdict == "no"
    assert answer.p_a_lower < 0.5
    answer = RadiusWithin(0.1).answer(paths(0.55, 1, seed=13)[0], TRIALS, SIGMA, 0.001)
    assert answer.verdict == "undecided"
    assert 0.5 < answer.p_a_lower < 0.55


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0.01, 0.99))
def test_a_radius_within_is_never_certified_without_a_majority(trials, rate, width):
    answer = RadiusWithin(width).answer(np.array([round(rate * trials)]), np.array([trials]), SIGMA, 0.05)
    assert answer.verdict != "yes" or answer.p_a_lower > 0.5


def test_without_a_ceiling_votes_that_all_agree_never_suffice():
    agreed = TRIALS.copy()
    assert RadiusWithin(0.3).answer(agreed, TRIALS, SIGMA, 0.001).verdict == "undecided"
    answer = RadiusWithin(0.3, largest_radius(SIGMA, 10_000, 0.001)).answer(agreed, TRIALS, SIGMA, 0.001)
    assert answer.verdict == "yes"
    assert 0.7 * largest_radius(SIGMA, 10_000, 0.001) <= certified_radius(answer.p_a_lower, SIGMA)


@pytest.mark.parametrize("question", [RadiusAtLeast(0.01), RadiusAtLeast(0.75), RadiusAtLeast(1.1), RadiusWithin(0.1)])
@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.2])
def test_fewest_samples_is_the_first_n_that_certifies_anything(question, alpha):
    assert isinstance(question, Question)
    fewest = question.fewest_samples(SIGMA, alpha)
    for n in (fewest, fewest - 1):
        answer = question.answer(np.array([n]), np.array([n]), SIGMA, alpha)
        assert (certified_radius(answer.p_a_lower, SIGMA) > 0) == (n == fewest)
