"""Sequential certification: look at the votes as they come, and stop as soon as the question is answered.

The votes for the selected class are Bernoulli(p), p its unknown probability p_A. Take a process that starts at 1, is
never negative and whose conditional expectation is at most its last value. The probability that it ever reaches
1 / alpha is at most alpha (Ville 1939). Bets on the votes are such processes. So it is allowed to look after every
sample and to stop at any time, and alpha is spent once. No torch here.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import special

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha
from macer.smoothing.radius import certified_radius, check_sigma

_THRESHOLD_PRIOR = 100
"""The weight of a test's prior, in samples. For p_A as they are published, 30 to 300 do about equally well."""

_INTERVAL_PRIOR = (1.0, 0.1)
"""The Beta prior of the confidence sequence: a tenth of a failure, because typical p_A are close to 1."""

_SPARE = 1e-4
"""The share of a relative width that is kept for the certified radius, which is rounded down, and in sound certificates
a little below sigma Phi^-1(p_a_lower)."""

MOST_SAMPLES = 10**7
"""Samples for which the arithmetic is exact enough."""
_ROUNDING = 1e-6
"""Far more than the rounding of the evidence's logarithm after so many samples, far less than changes an answer."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question after the votes so far.

    Attributes:
        verdict: "yes", "no", or "undecided" where no check point decided it.
        check: position of the first check point that decided it; None where none did.
        p_a_lower: lower bound on p_A at confidence 1 - alpha, valid at any stopping time; 0 where nothing is claimed.
    """

    verdict: Literal["yes", "no", "undecided"]
    check: int | None
    p_a_lower: float


@runtime_checkable
class Question(Protocol):
    """A question about an image's radius, which decides after how many votes it is answered."""

    def answer(
        self, successes: Int[np.ndarray, " checks"], trials: Int[np.ndarray, " checks"], sigma: float, alpha: float
    ) -> Answer:
        """Return the answer at the first check point that allows one, or at the last.

        The numbers of a check point count from the first estimation sample on. Later check points may be given in later
        calls, without the earlier ones that decided nothing. Check points at fixed numbers of samples (every block of
        100) make the answer independent of the batch size.

        Args:
            successes: votes for the selected class, cumulative, at each check point.
            trials: samples, cumulative, at each check point.
            sigma: standard deviation of the noise, in [0, 1] pixel units.
            alpha: probability with which the answer may be wrong.

        Raises:
            SettingsError: impossible votes, sigma or alpha, or a radius that 10^7 votes cannot prove.
        """
        ...

    def bounds_again(
        self, successes: Int[np.ndarray, " images"], trials: Int[np.ndarray, " images"], sigma: float, alpha: float
    ) -> Float64[np.ndarray, " images"]:
        """Return the lower bound on p_A that `answer` gives where it stops at these votes, for each of many images.

        Raises:
            SettingsError: impossible sigma or alpha.
        """
        ...

    def fewest_samples(self, sigma: float, alpha: float) -> int:
        """Return the least number of samples after which anything is certified, where all votes agree.

        Raises:
            SettingsError: impossible sigma or alpha, or a radius that 10^7 votes cannot prove.
        """
        ...


@dataclass(frozen=True)
class RadiusAtLeast:
    """Is R at least `radius`? Yes where p_A >= p = Phi(radius / sigma). Voráček 2024 (arXiv 2406.17830).

    Two tests run side by side. Under p_A <= p, each vote's likelihood ratio between any q > p and p,

        q / p for a success, (1 - q) / (1 - p) for a failure,

    has an expectation of at most 1: it grows with p_A, and is 1 at p_A = p. So have the products over all votes,
    and the mixture of the products over any prior on the q > p. By Ville's inequality that mixture reaches
    1 / alpha with probability at most alpha, ever; when it does, the answer is "yes". Under p_A >= p the same holds
    for priors on q < p, and the answer is "no". Only one of the two answers can be wrong, so that each test may use all
    of alpha.

    The prior is Beta with mean p and the weight of 100 samples, cut off at p and rescaled. Most of its mass is near
    p, where images need the most samples; where p_A is far from p it still decides after one or two blocks.

    "Yes" certifies exactly `radius`; "no" and "undecided" certify nothing.

    Attributes:
        radius: the L2 radius in [0, 1] pixel units, positive.
    """

    radius: float

    def __post_init__(self) -> None:
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise SettingsError(f"the radius to decide at must be a positive number, not {self.radius:g}")
        object.__setattr__(self, "radius", float(self.radius))  # in NumPy's float32, `probability` would not end

    def answer(
        self, successes: Int[np.ndarray, " checks"], trials: Int[np.ndarray, " checks"], sigma: float, alpha: float
    ) -> Answer:
        p = self.probability(sigma)
        _check_votes(successes, trials)
        enough = _enough(alpha)
        yes = log_evidence(successes, trials, p, special.betaincc) >= enough
        no = log_evidence(successes, trials, p, special.betainc) >= enough
        check = _first(yes | no)
        if check is None:
            return Answer("undecided", None, 0.0)
        return Answer("yes", check, p) if yes[check] else Answer("no", check, 0.0)

    def bounds_again(
        self, successes: Int[np.ndarray, " images"], trials: Int[np.ndarray, " images"], sigma: float, alpha: float
    ) -> Float64[np.ndarray, " images"]:
        p = self.probability(sigma)
        return np.where(log_evidence(successes, trials, p, special.betaincc) >= _enough(alpha), p, 0.0)

    def fewest_samples(self, sigma: float, alpha: float) -> int:
        p = self.probability(sigma)
        fewest = _fewest_agreeing(lambda votes: log_evidence(votes, votes, p, special.betaincc), _enough(alpha))
        if fewest > MOST_SAMPLES:
            raise self._out_of_reach(sigma)
        return fewest

    def probability(self, sigma: float) -> float:
        """Return Phi(radius / sigma), rounded up until the certified radius is not, by rounding, less than `radius`.

        Raises:
            SettingsError: sigma is impossible, or no p_A below 1 is enough.
        """
        sigma = check_sigma(sigma)
        p = float(special.ndtr(self.radius / sigma))
        while p < 1 and certified_radius(p, sigma) < self.radius:
            p = math.nextafter(p, 1)
        if p == 1:
            raise self._out_of_reach(sigma)
        return p

    def _out_of_reach(self, sigma: float) -> SettingsError:
        return SettingsError(
            f"a radius of {self.radius:g} at sigma = {sigma:g} takes more than {MOST_SAMPLES:,} samples to prove"
        )


@dataclass(frozen=True)
class RadiusWithin:
    """What is R, to within a fraction of itself? Stops when the certified radius is at least (1 - relative_width) R.

    A confidence sequence gives an interval for p_A after every sample, all of them valid together at 1 - alpha (see
    `confidence_sequence`), so that it is allowed to stop when the interval is narrow enough. "Yes" is the first check
    point with R_low >= (1 - w) min(R_up, ceiling); "no" is the first whose interval lies below 1/2, where there is
    nothing to certify. In every case p_a_lower is the interval's lower end, and valid.

    Attributes:
        relative_width: w, between 0 and 1.
        ceiling: a radius that is large enough, such as `radius.largest_radius` of the samples available. As long as all
            votes agree, R_up is infinite, and without a ceiling such images never stop.
    """

    relative_width: float
    ceiling: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.relative_width < 1:
            raise SettingsError(f"the relative width must lie strictly between 0 and 1, not {self.relative_width:g}")
        if not self.ceiling > 0:
            raise SettingsError(f"the ceiling of a radius must be positive, not {self.ceiling:g}")
        object.__setattr__(self, "relative_width", float(self.relative_width))
        object.__setattr__(self, "ceiling", float(self.ceiling))

    def answer(
        self, successes: Int[np.ndarray, " checks"], trials: Int[np.ndarray, " checks"], sigma: float, alpha: float
    ) -> Answer:
        sigma = check_sigma(sigma)
        _check_votes(successes, trials)
        lower, upper = confidence_sequence(successes, trials, alpha)
        wanted = (1 - (1 - _SPARE) * self.relative_width) * np.minimum(sigma * special.ndtri(upper), self.ceiling)
        yes = sigma * special.ndtri(lower) >= wanted  # as w < 1, only where both ends are above 1/2
        check = _first(yes | (upper <= 0.5))
        if check is None:
            return Answer("undecided", None, float(lower[-1]))
        return Answer("yes" if yes[check] else "no", check, float(lower[check]))

    def bounds_again(
        self, successes: Int[np.ndarray, " images"], trials: Int[np.ndarray, " images"], sigma: float, alpha: float
    ) -> Float64[np.ndarray, " images"]:
        check_sigma(sigma)
        return confidence_sequence(successes, trials, alpha)[0]

    def fewest_samples(self, sigma: float, alpha: float) -> int:
        check_sigma(sigma)
        return _fewest_agreeing(
            lambda votes: _log_mean_likelihood(votes, 0 * votes, *_INTERVAL_PRIOR) - votes * math.log(0.5),
            _enough(alpha),
        )


def log_evidence(
    successes: Int[np.ndarray, " checks"],
    trials: Int[np.ndarray, " checks"],
    p: float,
    share: Callable[..., Any],
) -> Float64[np.ndarray, " checks"]:
    """Return the logarithm of the evidence of `RadiusAtLeast` that p_A is on one side of p.

    The mixture over a Beta(a, b) prior cut off at p is a ratio of beta functions: with s successes and f failures

        [B(a + s, b + f) / B(a, b)] [T(a + s, b + f) / T(a, b)] / (p^s (1 - p)^f),

    T(a, b) the share of Beta(a, b) on that side of p.

    Args:
        successes: votes for the selected class, cumulative, at each check point.
        trials: samples, cumulative, at each check point.
        p: the probability to compare with.
        share: T(a, b) at p: `scipy.special.betaincc` for the side above p, `betainc` for the side below.
    """
    a, b = _THRESHOLD_PRIOR * p, _THRESHOLD_PRIOR * (1 - p)
    failures = trials - successes
    with np.errstate(divide="ignore"):  # a share of 0: no evidence
        log_share = np.log(share(a + successes, b + failures, p)) - math.log(share(a, b, p))
    return _log_mean_likelihood(successes, failures, a, b) + log_share - _log_likelihood(successes, failures, p)


def confidence_sequence(
    successes: Int[np.ndarray, " checks"], trials: Int[np.ndarray, " checks"], alpha: float
) -> tuple[Float64[np.ndarray, " checks"], Float64[np.ndarray, " checks"]]:
    """Return intervals for p_A, one per check point, that all hold at once with probability 1 - alpha.

    Robbins 1970 ("Statistical methods related to the law of the iterated logarithm"), with a Beta prior. At
    p = p_A, the likelihood ratio of each vote between any q and p has expectation 1, and so have the products and
    their mixture over the prior,

        M(p) = [B(a + s, b + f) / B(a, b)] / (p^s (1 - p)^f) after s successes and f failures.

    By Ville's inequality M(p_A) reaches 1 / alpha with probability at most alpha, ever. The interval is where M
    stays below: log M is convex in p with its minimum at s / (s + f), so that each end is found by bisection; the
    end that is returned is itself refuted.

    Returns:
        Lower ends and upper ends: 0 without a success, 1 without a failure.
    """
    failures = trials - successes
    refuted_below = _log_mean_likelihood(successes, failures, *_INTERVAL_PRIOR) - _enough(alpha)
    inside = np.stack([successes / trials] * 2)
    outside = np.zeros_like(inside)
    outside[1] = 1
    for _ in range(40):
        middle = (inside + outside) / 2
        refuted = _log_likelihood(successes, failures, middle) <= refuted_below
        inside, outside = np.where(refuted, inside, middle), np.where(refuted, middle, outside)
    return outside[0], outside[1]


def _log_likelihood(
    successes: Int[np.ndarray, " checks"],
    failures: Int[np.ndarray, " checks"],
    p: float | Float64[np.ndarray, "*ends checks"],
) -> Float64[np.ndarray, "*ends checks"]:
    return special.xlogy(successes, p) + special.xlog1py(failures, -p)


def _log_mean_likelihood(
    successes: Int[np.ndarray, " checks"], failures: Int[np.ndarray, " checks"], a: float, b: float
) -> Float64[np.ndarray, " checks"]:
    """Return the logarithm of the likelihood of the votes, averaged over a Beta(a, b) prior."""
    return special.betaln(a + successes, b + failures) - special.betaln(a, b)


def _enough(alpha: float) -> float:
    """Return the logarithm of the evidence that decides a question."""
    return -math.log(check_alpha(alpha)) + _ROUNDING


def _first(decided: Bool[np.ndarray, " checks"]) -> int | None:
    return int(decided.argmax()) if decided.any() else None


def _fewest_agreeing(log_evidence_of: Callable[[Int[np.ndarray, " checks"]], Any], enough: float) -> int:
    """Return the least n at which n agreeing votes are enough evidence, or MOST_SAMPLES + 1.

    The evidence grows with n, so that bisection finds it.
    """
    return 1 + bisect_left(
        range(1, MOST_SAMPLES + 1), True, key=lambda n: bool(log_evidence_of(np.array([n]))[0] >= enough)
    )


def _check_votes(successes: Int[np.ndarray, " checks"], trials: Int[np.ndarray, " checks"]) -> None:
    """Refuse votes that cannot have been counted.

    Raises:
        SettingsError: no check points, counts that shrink or are negative, or more samples than the arithmetic
            allows.
    """
    failures = trials - successes
    ordered = len(trials) > 0 and all((np.diff(counts, prepend=0) >= 0).all() for counts in (successes, failures))
    if not ordered or trials[0] < 1:
        raise SettingsError("impossible votes: successes and failures must be counts that never shrink")
    if trials[-1] > MOST_SAMPLES:
        raise SettingsError(f"sequential certification takes at most {MOST_SAMPLES:,} samples, not {trials[-1]:,}")
