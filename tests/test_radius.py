"""Certified radii against published caps, an independent normal quantile and the geometry of a half-space."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from unanimous import unanimous_bound

from macer.smoothing import bounds, radius, sequential
from macer.smoothing.kinds import Hard, Soft


@pytest.mark.parametrize(
    ("n", "sigma", "cap", "digits"),
    [(100_000, 0.25, 0.95286, 5), (100_000, 1.0, 3.81, 2), (10_000, 1.0, 3.20, 2), (1000, 1.0, 2.46, 2)],
)
def test_largest_hard_radius_is_the_one_the_field_reports(n, sigma, cap, digits):
    """sigma * Phi^-1(alpha^(1/n)) at alpha = 0.001: the right edge of every published radius-accuracy curve."""
    assert round(radius.largest_radius(sigma, n, 0.001), digits) == cap
    all_agree = unanimous_bound(Hard(), n, 0.001)
    assert radius.certified_radius(all_agree, sigma) == radius.largest_radius(sigma, n, 0.001)


def test_largest_soft_radius():
    """1 - 7 ln(2/alpha) / (3 (n - 1)) at n = 100,000, alpha = 0.001 gives 3.57 sigma: soft is capped earlier."""
    all_agree = unanimous_bound(Soft(), 100_000, 0.001)
    assert round(radius.certified_radius(all_agree, 1.0), 2) == 3.57


@given(st.floats(0.5, 1 - 1e-12, exclude_min=True), st.floats(1e-3, 1e3))
def test_radius_is_the_distance_to_a_half_space_of_that_probability(p_a_lower, sigma):
    """N(x, sigma^2 I) puts Phi(d / sigma) on a half-space whose edge is d away: the worst case of the theorem."""
    distance = radius.certified_radius(p_a_lower, sigma)
    assert distance >= 0
    with mpmath.workdps(30):
        inside = mpmath.ncdf(mpmath.mpf(distance) / sigma)
    assert -1e-15 < inside - p_a_lower <= 0


PROBABILITIES = st.floats(1e-12, 1 - 1e-12)


@given(PROBABILITIES, PROBABILITIES, st.floats(1e-3, 1e3))
def test_two_class_radius_is_theorem_1_with_another_quantile(p_a_lower, p_b_upper, sigma):
    """(sigma / 2) (Phi^-1(p_A) - Phi^-1(p_B)), the quantiles by mpmath's inverse error function."""
    with mpmath.workdps(30):
        p_a, p_b = (mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1) for p in (p_a_lower, p_b_upper))
        expected = float(max(mpmath.mpf(0), mpmath.mpf(sigma) / 2 * (p_a - p_b)))
    assert radius.certified_radius(p_a_lower, sigma, p_b_upper) == pytest.approx(expected, rel=1e-9, abs=1e-13 * sigma)


def quantile(p):
    """Phi^-1 of a double or an mpf, by Newton's method on Phi at the working precision."""
    x = mpmath.mpf(float(special.ndtri(float(p))))
    for _ in range(3):
        x -= (mpmath.ncdf(x) - p) / mpmath.npdf(x)
    return x


GAPS = st.one_of(st.just(0.0), st.floats(1e-15, 1e-10))


@settings(max_examples=300)
@given(st.floats(1e-3, 1 - 1e-12), st.floats(1e-6, 1), st.floats(1e-3, 10), GAPS, st.booleans())
def test_no_radius_exceeds_what_is_proved_nor_falls_short_of_it(p_a_lower, share, sigma, gap, one_class):
    """By definition, to 60 digits: at the radius class A still leads every other class by two gaps, right behind not.

    One rounding may move p_A - gap and p_B + gap by 2^-53, which moves the quantiles by 2^-53 / phi.
    """
    p_b_upper = None if one_class else share * (1 - p_a_lower)
    found = radius.certified_radius(p_a_lower, sigma, p_b_upper, gap)
    with mpmath.workdps(60):
        p_a = mpmath.mpf(p_a_lower) - gap
        p_b = (1 - mpmath.mpf(p_a_lower) if one_class else mpmath.mpf(p_b_upper)) + gap
        a, b, s = quantile(p_a), quantile(p_b), mpmath.mpf(found) / mpmath.mpf(sigma)

        def lead(distance):
            return mpmath.ncdf(a - distance) - mpmath.ncdf(b + distance)

        nearly = 2**-46 * (abs(a) + abs(b)) + 2**-51 * (1 / mpmath.npdf(a) + 1 / mpmath.npdf(b))
        nearly += 1e-3 * gap / mpmath.npdf((a + b) / 2)
        assert lead(s + nearly) < 2 * gap
        assert found == 0 or lead(s) >= 2 * gap


def test_scipys_quantile_is_as_exact_as_the_rounding_assumes():
    """Relative error of Phi^-1 at most 8e-16; near 1/2, in both tails, everywhere: 1,500 numbers."""
    draw = np.random.default_rng(0)
    near, tail = (
        0.5 + draw.choice([-1, 1], 500) * 10 ** draw.uniform(-15, -0.31, 500),
        10 ** draw.uniform(-300, -1, 500),
    )
    with mpmath.workdps(60):
        for p in [*near, *tail, *draw.uniform(0.06, 0.16, 500)]:
            assert abs(float(special.ndtri(p)) / quantile(mpmath.mpf(p)) - 1) < 8e-16


@given(st.floats(0.5, 1 - 1e-9, exclude_min=True), st.floats(1e-3, 1e3))
def test_two_class_radius_is_never_below_the_one_class_radius_of_the_same_bound(p_a_lower, sigma):
    one_class = radius.certified_radius(p_a_lower, sigma)
    assert radius.certified_radius(p_a_lower, sigma, 1 - p_a_lower) == pytest.approx(one_class, rel=1e-6)
    assert radius.certified_radius(p_a_lower, sigma, (1 - p_a_lower) / 2) > one_class


def test_a_class_of_less_than_half_of_the_votes_is_certified_by_two_bounds():
    """45% against ten times 5.5%: nothing by p_A alone. By the bounds' normal approximations, by hand:

    45% - 3.29 * 0.157% = 44.48% (-0.1388), 5.5% + 3.89 * 0.072% = 5.78% (-1.5735), and 0.125 (1.5735 - 0.1388) = 0.179.
    """
    p_a_lower, p_b_upper = bounds.two_class_bounds(45_000, 5_500, 100_000, 11, 0.001)
    assert radius.certified_radius(p_a_lower, 0.25) == 0
    assert radius.certified_radius(p_a_lower, 0.25, p_b_upper) == pytest.approx(0.179, abs=0.001)


@given(st.floats(0, 1), st.floats(1e-3, 1e3))
def test_radius_is_zero_up_to_one_half_and_positive_above(p_a_lower, sigma):
    assert (radius.certified_radius(p_a_lower, sigma) > 0) == (p_a_lower > 0.5)


@pytest.mark.parametrize("kind", [Hard(), Soft()], ids=lambda kind: kind.name)
@given(alpha=st.floats(1e-200, 0.999))
def test_fewest_samples_is_the_first_n_that_certifies_anything(kind, alpha):
    n = kind.fewest_samples(alpha)
    assert unanimous_bound(kind, n, alpha) > 0.5
    if n > (1 if isinstance(kind, Hard) else 2):
        assert unanimous_bound(kind, n - 1, alpha) <= 0.5


def test_fewest_samples_at_the_usual_alpha():
    assert (Hard().fewest_samples(0.001), Soft().fewest_samples(0.001)) == (10, 37)
    assert radius.fewest_samples(0.5) == 2
    assert radius.fewest_samples(1e-200) == 665


def test_the_mathematics_needs_no_torch():
    """A reader can check bounds.py, radius.py and sequential.py against the papers without knowing torch."""
    assert not {"torch", "nn", "Tensor"} & (set(vars(bounds)) | set(vars(radius)) | set(vars(sequential)))
