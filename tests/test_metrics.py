"""Certified accuracy and average certified radius against literal loops, other libraries and their own claims."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from macer.results import (
    Records,
    average_certified_radius,
    certified_accuracy,
    certified_accuracy_interval,
)
from macer.results.metrics import default_radii
from macer.smoothing.bounds import wilson_interval


def make(radius, correct: Any = True):
    radius = np.asarray(radius, dtype=np.float64)
    correct = np.broadcast_to(np.asarray(correct, dtype=bool), radius.shape)
    return Records(run="x", idx=np.arange(len(radius)), radius=radius, correct=correct)


ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 4), st.booleans()), min_size=1, max_size=30)


@given(ROWS, st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 4))
def test_certified_accuracy_and_acr_are_the_literal_loops(rows, radius):
    records = make(*zip(*rows, strict=True))
    count, total = 0, 0.0
    for certified, correct in rows:
        if correct:
            total += certified
            if certified >= radius:
                count += 1
    assert certified_accuracy(records, radius) == count / len(rows)
    estimate = average_certified_radius(records, resamples=20)
    assert estimate.value == pytest.approx(total / len(rows))


def test_a_radius_counts_at_itself_and_not_beyond():
    records = make([0.25, 0.25, 0.5, 0.5], [True, True, True, False])
    assert certified_accuracy(records, 0.25) == 0.75
    assert certified_accuracy(records, np.nextafter(0.25, 1)) == 0.25
    assert certified_accuracy(records, 0.5) == 0.25
    assert certified_accuracy(records, 0.5001) == 0


@pytest.mark.parametrize(("count", "images"), [(0, 7), (1, 7), (7, 7), (250, 500), (3, 10_000), (10_000, 10_000)])
def test_wilson_interval_is_statsmodels(count, images):
    expected = proportion_confint(count, images, method="wilson")
    low, high = wilson_interval(np.array([count / images]), images)
    assert (low[0], high[0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert 0 <= low[0] <= count / images <= high[0] <= 1
    estimate = certified_accuracy_interval(make(np.arange(images) < count), 1.0)
    assert (estimate.value, estimate.low, estimate.high) == (count / images, low[0], high[0])


def test_bootstrap_interval_is_the_percentiles_of_resampled_means_and_reproducible():
    records = make([0.0, 0.3, 0.9, 1.5, 0.2, 0.4, 0.1, 0.5], [True, True, False, True, True, True, True, True])
    radii = [0.0, 0.3, 0.0, 1.5, 0.2, 0.4, 0.1, 0.5]
    draw = np.random.default_rng(7)
    tail = stats.norm.cdf(np.sqrt(6 / 5) * stats.t.ppf(0.025, 5))  # Student's, of the six that are not 0
    means = []
    for _ in range(int(np.ceil(50 / tail))):  # more than the 300, so that 50 means lie beyond either end
        picks = draw.integers(8, size=8)
        means.append(sum(radii[pick] for pick in picks) / 8)
    estimate = average_certified_radius(records, resamples=300, seed=7)
    assert (estimate.low, estimate.high) == pytest.approx((np.quantile(means, tail), np.quantile(means, 1 - tail)))
    assert estimate == average_certified_radius(records, resamples=300, seed=7)
    assert estimate != average_certified_radius(records, resamples=300, seed=8)
    assert estimate.low < estimate.value < estimate.high


def test_bootstrap_interval_covers_the_true_mean_as_often_as_it_says():
    """800 samples of 200 images, half of them 0 and half uniform on [0, 1]: true ACR 0.25.

    The count of covered samples is Binomial(800, 0.95) if the claim holds. Both tails at 1e-4 refuse it: 735 to 781.
    The percentile interval is a little short at 200 images (coverage about 0.945), well within that.
    """
    draw = np.random.default_rng(2020)
    covered = 0
    for _ in range(800):
        estimate = average_certified_radius(make(draw.random(200), draw.random(200) < 0.5), resamples=300)
        covered += estimate.low <= 0.25 <= estimate.high
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 800, 0.95)
    assert low <= covered <= high


def test_images_at_the_largest_possible_radius_do_not_make_the_interval_short():
    """A population like a network of MNIST at 0.25: 186 of 200 radii are the largest there can be.

    Samples of 100 images have their mean in the interval, wherever there is one, in at least 95% of cases: the lower
    tail of Binomial(500, 0.95) at 1e-4. Widened by how many images are certified at all, 86% have.
    """
    population = np.concatenate([np.full(186, 0.953), np.linspace(0.0, 0.94, 14)])
    draw, covered, shown = np.random.default_rng(5), 0, 0
    for _ in range(500):
        estimate = average_certified_radius(make(draw.choice(population, 100)))
        shown += estimate.has_interval
        covered += estimate.has_interval and estimate.low <= population.mean() <= estimate.high
    assert shown > 300
    assert covered >= stats.binom.ppf(1e-4, shown, 0.95)


@pytest.mark.parametrize(("images", "says"), [(1, False), (5, False), (6, True)])
def test_few_images_have_no_interval(images, says):
    """Two images would have one from the smaller to the larger radius, which misses the mean in half of all cases."""
    estimate = average_certified_radius(make(np.linspace(0.1, 0.7, images)))
    assert estimate.has_interval is says
    assert ("[" in estimate.in_words()) is says
    if not says:
        assert (estimate.low, estimate.high) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("largest", "last"), [(0.0, 0.0), (0.24, 0.0), (0.25, 0.25), (0.953, 0.75), (2.3, 2.25), (3.81, 2.25)]
)
def test_default_radii_reach_as_far_as_any_certificate_of_a_correct_image(largest, last):
    others = make([9.0, 0.0], [False, True])
    radii = default_radii([others, make([0.0, largest])])
    assert radii == [0.25 * step for step in range(len(radii))]
    assert radii[-1] == last
