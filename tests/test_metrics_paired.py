"""Paired differences: against literal loops, exact enumeration, and what they refuse."""

from dataclasses import replace
from math import ceil, comb, inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import macer
from macer.errors import RecordsError
from macer.results import Estimate, Records, average_certified_radius, read_records
from macer.results.metrics import difference_in_words, obstacles, paired_accuracy_difference, paired_difference

ZOO = Path(macer.__file__).parent / "pretrained" / "zoo"


def make(radius, correct: Any = True, name="a", **facts):
    radius = np.asarray(radius, dtype=np.float64)
    correct = np.broadcast_to(np.asarray(correct, dtype=bool), radius.shape)
    known: dict[str, Any] = {"sigma": 0.25, "n": 1000, "alpha": 0.001, **facts}
    return Records(run=name, **{"idx": np.arange(len(radius)), "radius": radius, "correct": correct, **known})


PAIRS = st.lists(st.tuples(st.floats(0, 4), st.booleans(), st.floats(0, 4), st.booleans()), min_size=1, max_size=25)


def both(rows):
    radius_a, correct_a, radius_b, correct_b = zip(*rows, strict=True)
    return make(radius_a, correct_a), make(radius_b, correct_b, name="b")


@given(PAIRS)
def test_the_difference_is_the_literal_mean_and_turns_its_sign_with_the_order(rows):
    a, b = both(rows)
    total = sum((one if right else 0.0) - (other if also else 0.0) for one, right, other, also in rows)
    forth, back = (paired_difference(*pair, resamples=30) for pair in ((a, b), (b, a)))
    assert forth.value == pytest.approx(total / len(rows), abs=1e-12)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-12)


def score(only_a, only_b, images, difference):
    """Tango's statistic, with the constrained maximum of the likelihood found by search instead of by formula."""

    def log_likelihood(share_b):
        shares = share_b + difference, share_b, 1 - 2 * share_b - difference
        counts = only_a, only_b, images - only_a - only_b
        return sum(count * np.log(share) for count, share in zip(counts, shares, strict=True) if count > 0)

    possible = np.linspace(max(0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9, 20_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        share_b = possible[np.argmax(log_likelihood(possible))]
    return (only_a - only_b - images * difference) / sqrt(images * (2 * share_b + difference - difference**2))


@pytest.mark.parametrize(("only_a", "only_b", "images"), [(12, 2, 50), (1, 0, 30), (7, 7, 20), (0, 3, 200), (9, 1, 10)])
def test_the_accuracy_interval_ends_where_the_score_test_begins_to_refuse(only_a, only_b, images):
    a = make([1.0] * only_a + [0.0] * (images - only_a))
    b = make([0.0] * only_a + [1.0] * only_b + [0.0] * (images - only_a - only_b), name="b")
    estimate = paired_accuracy_difference(a, b, 0.5)
    assert estimate.value == (only_a - only_b) / images
    assert score(only_a, only_b, images, estimate.low) == pytest.approx(1.959964, abs=0.01)
    assert score(only_a, only_b, images, estimate.high) == pytest.approx(-1.959964, abs=0.01)


def test_the_accuracy_interval_is_the_one_of_the_package_contingencytables():
    """R's contingencytables 2.x (Fagerland, Lydersen, Laake 2017) for the data of Cavo et al. 2012, to its digits."""
    a = make([1.0] * 6 + [0.0] * 155)
    b = make([0.0] * 6 + [1.0] * 16 + [0.0] * 139, name="b")
    estimate = paired_accuracy_difference(a, b, 0.5)
    rounded = tuple(round(each, 4) for each in (estimate.value, estimate.low, estimate.high))
    assert rounded == (-0.0621, -0.1240, -0.0054)


@given(PAIRS, st.floats(0, 4))
def test_the_accuracy_difference_is_that_of_the_two_literal_counts_inside_its_interval(rows, radius):
    a, b = both(rows)
    count = sum(right and one >= radius for one, right, _, _ in rows)
    other_count = sum(also and other >= radius for _, _, other, also in rows)
    forth, back = paired_accuracy_difference(a, b, radius), paired_accuracy_difference(b, a, radius)
    assert forth.value == pytest.approx((count - other_count) / len(rows), abs=1e-12)
    assert -1 <= forth.low <= forth.value <= forth.high <= 1
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-9)


def test_the_bootstrap_interval_is_the_widened_percentiles_of_resampled_mean_differences():
    a = make([0.4, 0.3, 0.9, 1.5, 0.2, 0.6, 0.7])
    b = make([0.1, 0.5, 0.8, 1.0, 0.3, 0.5, 0.7], [True, True, True, True, False, True, True], "b")
    differences = [0.3, -0.2, 0.1, 0.5, 0.2, 0.1, 0.0]
    draw = np.random.default_rng(3)
    tail = stats.norm.cdf(sqrt(6 / 5) * stats.t.ppf(0.025, 5))  # Student's, of the six images that differ
    resamples = ceil(50 / tail)  # more than the 300, so that 50 means lie beyond either end
    means = [np.mean([differences[pick] for pick in draw.integers(7, size=7)]) for _ in range(resamples)]
    estimate = paired_difference(a, b, resamples=300, seed=3)
    assert (estimate.low, estimate.high) == pytest.approx((np.quantile(means, tail), np.quantile(means, 1 - tail)))
    other_seed = paired_difference(a, b, resamples=300, seed=4)
    assert (estimate.low, estimate.high) == pytest.approx((other_seed.low, other_seed.high), abs=0.02)


def test_what_both_networks_share_does_not_widen_the_interval():
    draw = np.random.default_rng(0)
    hardness = draw.random(400)
    a, b = make(hardness + 0.01), make(hardness, name="b")
    difference = paired_difference(a, b)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.01, 0.01, 0.01))
    alone = average_certified_radius(a)
    assert alone.high - alone.low > 0.05


def test_the_bootstrap_interval_covers_the_true_difference_as_often_as_it_says():
    """800 samples of 200 images whose radii are correlated; the true difference of means is 0.1.

    The count of covered samples is Binomial(800, 0.95) if the claim holds; both tails at 1e-4 refuse it: 735 to 781.
    """
    draw = np.random.default_rng(11)
    covered = 0
    for _ in range(800):
        hardness = draw.random(200)
        a, b = make(hardness + 0.2 * draw.random(200)), make(hardness, name="b")
        estimate = paired_difference(a, b, resamples=300)
        covered += estimate.low <= 0.1 <= estimate.high
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 800, 0.95)
    assert low <= covered <= high


def test_equal_networks_are_called_different_on_few_images_no_more_often_than_the_interval_says():
    """2,000 comparisons of 6 or 10 images of two certified networks, whose names are changed by chance on each image.

    So neither is better. At most 5.5% of the intervals may leave out 0: the tail of Binomial(2000, 0.055) at 1e-4. With
    the plain percentiles, nearly 10% do.
    """
    first, second = (read_records(ZOO / f"mnist-{name}-1.0.tsv")[0].certified_radius for name in ("macer", "cohen"))
    draw, wrong = np.random.default_rng(12), 0
    for trial in range(2000):
        picks = draw.choice(len(first), size=(6, 10)[trial % 2], replace=False)
        swapped = draw.random(len(picks)) < 0.5
        pair = [np.where(swapped, *order) for order in ((first[picks], second[picks]), (second[picks], first[picks]))]
        estimate = paired_difference(make(pair[0]), make(pair[1], name="b"), resamples=200)
        wrong += not estimate.low <= 0 <= estimate.high
    assert wrong <= stats.binom.ppf(1 - 1e-4, 2000, 0.055)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.1, 0.05), (0.02, 0.02), (0.4, 0.3), (0.0, 0.05), (0.5, 0.1)])
def test_the_accuracy_interval_covers_by_exact_enumeration(only_a, only_b):
    """Every table of 30 images, weighed by its multinomial probability: no chance in this test.

    A score interval covers about as often as it says, not in every case at least as often.
    """
    images, covered = 30, 0.0
    for first in range(images + 1):
        for second in range(images + 1 - first):
            rest = images - first - second
            weight = comb(images, first) * comb(images - first, second)
            weight *= only_a**first * only_b**second * (1 - only_a - only_b) ** rest
            if weight == 0:
                continue
            a = make([1.0] * first + [0.0] * (images - first))
            b = make([0.0] * first + [1.0] * second + [0.0] * rest, name="b")
            estimate = paired_accuracy_difference(a, b, 0.5)
            covered += weight * (estimate.low <= only_a - only_b <= estimate.high)
    assert 0.93 <= covered <= 1


def test_networks_that_agree_everywhere_still_have_an_interval_in_accuracy():
    a, b = make([0.5] * 100), make([0.5] * 100, name="b")
    estimate = paired_accuracy_difference(a, b, 0.25)
    assert estimate.value == 0
    assert estimate.low < 0 < estimate.high
    assert estimate.high == pytest.approx(1.959964**2 / (100 + 1.959964**2), rel=1e-5)  # by hand, from its formula


OTHERS = {
    "images": [
        {"idx": np.arange(1, 4)},
        {"idx": None},
        {"dataset": "cifar10"},
        {"label": np.array([1, 2, 0])},
        {"image": np.array(["a", "b", "d"])},
    ],
    "sigma": [{"sigma": 0.5}, {"sigma": None}],
    "n": [{"n": 100_000}, {"n": None}],
    "alpha": [{"alpha": 0.01}, {"alpha": None}],
}


@pytest.mark.parametrize(("fact", "other"), [(fact, other) for fact, every in OTHERS.items() for other in every])
def test_records_of_different_or_unknown_facts_are_refused_unless_told(fact, other):
    a = make([0.1, 0.2, 0.3], dataset="mnist", label=np.array([1, 2, 3]), image=np.array(["a", "b", "c"]))
    b = replace(a, run="b", **other)
    assert list(obstacles(a, b)) == list(obstacles(b, a)) == [fact]
    for compare in (paired_difference, lambda *pair, **told: paired_accuracy_difference(*pair, 0.1, **told)):
        with pytest.raises(RecordsError, match="a and b cannot be compared image by image: ") as refusal:
            compare(a, b)
        assert "\n" not in str(refusal.value)
        if fact == "images":
            with pytest.raises(RecordsError):
                compare(a, b, despite=("images", "sigma", "n", "alpha"))
        else:
            assert compare(a, b, despite=[fact]).value == 0


def test_a_refusal_names_every_obstacle_that_is_left():
    a, b = make([0.1, 0.2]), make([0.1, 0.2], name="b", n=None, sigma=0.5)
    with pytest.raises(RecordsError, match=r"sigma is 0\.25 for a, 0\.5 for b; n is not recorded for b$"):
        paired_difference(a, b)
    with pytest.raises(RecordsError, match=r": sigma is 0\.25 for a, 0\.5 for b$"):
        paired_difference(a, b, despite=["n"])


def test_unknown_data_sets_labels_and_digests_do_not_stand_in_the_way():
    a = make([0.1, 0.2], dataset="mnist", label=np.array([3, 4]), image=np.array(["a", "b"]))
    assert obstacles(a, make([0.3, 0.1], name="b")) == {}


@pytest.mark.parametrize(
    ("estimate", "sentence"),
    [
        (Estimate(0.06, 0.04, 0.08), "macer's ACR is significantly larger than cohen's by 0.060 [0.040, 0.080]"),
        (Estimate(-0.06, -0.08, -0.04), "macer's ACR is significantly smaller than cohen's by 0.060 [0.040, 0.080]"),
        (Estimate(0.3, 0.1, 0.5), "macer's ACR is significantly larger than cohen's by 0.30 [0.10, 0.50]"),
        (
            Estimate(0.0018, -0.0015, 0.0051),
            "No significant difference in ACR between macer and cohen: 0.0018 [-0.0015, 0.0051]",
        ),
        (
            Estimate(0.0, 0.0, 0.0),
            "No difference in ACR between macer and cohen on any image",
        ),
        (
            Estimate(0.06, -inf, inf),
            "No significant difference in ACR between macer and cohen: 0.060, on fewer than 6 images that differ",
        ),
        (Estimate(0.1, 0.1, 0.1), "macer's ACR is larger than cohen's by 0.100 on every image"),
    ],
)
def test_a_difference_in_words(estimate, sentence):
    assert difference_in_words("macer", "cohen", estimate) == sentence


def test_a_difference_on_few_images_is_never_significant():
    """Of 500 images on which nothing else differs, five that one network does better say as little as five alone."""
    a = make(np.full(500, 0.3))
    for differing, ends in ((5, False), (6, True)):
        better = np.full(500, 0.3)
        better[:differing] = 0.5
        assert paired_difference(make(better, name="b"), a).has_interval == ends
