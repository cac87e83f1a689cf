"""Top-k certificates: against the paper's formula, by brute force, on real partitions, and against known shares.

Statistical tests have fixed seeds and fail a correct certifier with probability 1e-3 each.
"""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import ndtr, ndtri
from test_known_votes import ALPHA, IMAGES, N, Urn, assert_wrong_no_more_often_than_alpha

from macer.errors import SettingsError
from macer.smoothing import SmoothedClassifier
from macer.smoothing.bounds import clopper_pearson_upper, two_class_bounds
from macer.smoothing.radius import certified_radius
from macer.smoothing.top_k import top_k_bounds, top_k_radius

SHARES = {
    "two alike": ((0.5, 0.5), 1),
    "three alike": ((1 / 3, 1 / 3, 1 / 3), 2),
    "fourth of five": ((0.12, 0.4, 0.25, 0.2, 0.03), 4),
    "just in": ((0.26, 0.25, 0.49), 2),
    "many": ((0.3, 0.2, 0.1, *[0.01] * 40), 3),
    "clear": ((0.9, 0.06, 0.04), 2),
}
"""Shares of the classes, of which the first is certified, and k."""


def true_sums(shares: np.ndarray, certified: int, k: int) -> list[float]:
    return np.cumsum(np.sort(np.delete(shares, certified))[-k:]).tolist()


def paper(p_lower: float, uppers: list[float], k: int) -> float:
    """Theorem 1 of arXiv 1912.09899 as it is printed, sigma 1: the root of its equation 7."""
    largest = sorted(uppers, reverse=True)[:k]
    sums = [min(sum(sorted(largest)[:t]), 1 - p_lower) for t in range(1, k + 1)]

    def lead(radius: float) -> float:
        return ndtr(ndtri(p_lower) - radius) - min(
            ndtr(ndtri(each) + radius) / t for t, each in enumerate(sums, start=1)
        )

    return optimize.brentq(lead, 0, 20, xtol=1e-14) if lead(0) > 0 else 0.0


@pytest.mark.parametrize("k", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", range(6))
def test_the_radius_is_that_of_the_paper_or_larger(k, seed):
    """Larger only where the t least likely of k classes have more than t / k of all the rest by their upper bounds."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(1000, generator.dirichlet(np.full(12, 0.3 + seed)))
    p_lower, sums = top_k_bounds(counts, 4, k, 0.01)
    uppers = [clopper_pearson_upper(count, 1000, 0.01 / 22) for count in np.delete(counts, 4).tolist()]
    plain = np.minimum(np.cumsum(sorted(uppers)[-k:]), 1 - p_lower).tolist()
    expected = paper(p_lower, uppers, k)
    assert top_k_radius(p_lower, plain, 1.0) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert top_k_radius(p_lower, plain, 1.0) <= expected
    assert top_k_radius(p_lower, sums, 0.5) >= 0.5 * expected * (1 - 1e-9)


@pytest.mark.parametrize("counts", [(900, 60, 40), (400, 350, 250), (300, 400, 300), (1000, 0, 0)])
def test_top_1_is_the_two_class_bound(counts):
    p_lower, (upper,) = top_k_bounds(np.array(counts), 0, 1, 0.001)
    assert (p_lower, upper) == two_class_bounds(counts[0], max(counts[1:]), 1000, 3, 0.001)
    expected = certified_radius(p_lower, 0.25, upper)
    assert expected * (1 - 1e-10) <= top_k_radius(p_lower, [upper], 0.25) <= expected
    gap = 1e-6  # the closed form of the radius is a little less than the root of its inequality
    assert certified_radius(p_lower, 0.25, upper, gap) * (1 - 1e-10) <= top_k_radius(p_lower, [upper], 0.25, gap)
    assert top_k_radius(p_lower, [upper], 0.25, gap) < expected or expected == 0


def test_the_radius_is_that_of_every_choice_of_classes():
    """By brute force: any k classes have a subset whose probability cannot reach as many times the class's."""
    p_lower, uppers, k = 0.35, [0.22, 0.2, 0.15, 0.08, 0.03], 3

    def beaten(chosen: tuple[float, ...], radius: float) -> bool:
        subsets = [subset for size in range(1, k + 1) for subset in combinations(chosen, size)]
        least = ndtr(ndtri(p_lower) - radius)
        return any(least > ndtr(ndtri(min(sum(each), 1 - p_lower)) + radius) / len(each) for each in subsets)

    sums = np.minimum(np.cumsum(sorted(uppers)[-k:]), 1 - p_lower).tolist()
    radius = top_k_radius(p_lower, sums, 1.0)
    choices = list(combinations(uppers, k))
    assert radius > 0.3
    assert all(beaten(each, radius * (1 - 1e-9)) for each in choices)
    assert not all(beaten(each, radius * (1 + 1e-9)) for each in choices)


@pytest.mark.parametrize("only_own", [False, True], ids=["all shares", "the class's own share"])
def test_no_partition_of_the_line_breaks_a_radius(only_own):
    """800 networks with one input: each answers by the interval that it lies in. Exact probabilities, no samples."""
    generator = np.random.default_rng(2)
    certified = tight = 0
    for _ in range(800):
        classes, k = int(generator.integers(3, 7)), int(generator.integers(1, 3))
        edges = np.sort(generator.normal(0, 1.5, generator.integers(2, 9)))
        owners = generator.integers(0, classes, len(edges) + 1)

        def shares(shift: float, edges=edges, owners=owners, classes=classes) -> np.ndarray:
            mass = np.diff(ndtr(np.array([-math.inf, *edges, math.inf]) - shift))
            return np.bincount(owners, mass, minlength=classes)

        here = shares(0.0)
        own = here[0]
        sums = [t / k * (1 - own) for t in range(1, k + 1)] if only_own else true_sums(here, 0, k)
        radius = top_k_radius(float(own), np.minimum(sums, 1).tolist(), 1.0)
        if radius == 0 or radius > 8:  # of others that there are not, which floats cannot follow far
            continue
        certified += 1
        for shift in (-radius, radius, -0.5 * radius, 0.5 * radius):
            there = shares(0.9999 * shift)
            assert (there[1:] >= there[0]).sum() < k
        tight += any((shares(1.2 * each)[1:] >= shares(1.2 * each)[0]).sum() >= k for each in (-radius, radius))
    assert certified > 100
    assert tight > 15


@pytest.mark.parametrize("name", SHARES)
def test_radii_exceed_those_of_the_true_shares_no_more_often_than_alpha(name):
    """5,400 certificates of the first class or, every second one, of the class that 100 votes select.

    The radius that the paper's theorem gives for the true shares cannot be exceeded by one that holds for all networks.
    """
    shares, k = np.array(SHARES[name][0]), SHARES[name][1]
    generator = np.random.default_rng(3)
    selected = generator.multinomial(100, shares, IMAGES).argmax(1) * (np.arange(IMAGES) % 2)
    largest = [top_k_radius(shares[each], true_sums(shares, each, k), 1.0) for each in range(len(shares))]
    made = [
        (int(each), top_k_radius(*top_k_bounds(counts, int(each), k, ALPHA), 1.0))
        for each, counts in zip(selected, generator.multinomial(N, shares, IMAGES), strict=True)
    ]
    assert_wrong_no_more_often_than_alpha([radius > largest[each] * (1 + 1e-9) for each, radius in made])
    if name == "clear":
        assert min(radius for _, radius in made) > 1.1


def test_more_classes_among_which_to_stay_make_a_larger_radius():
    counts = np.array([3000, 2500, 2000, 1500, 600, 400])
    radii = [top_k_radius(*top_k_bounds(counts, 2, k, 0.001), 1.0) for k in range(1, 6)]
    assert radii[:2] == [0.0, 0.0]  # two have more votes
    assert 0 < radii[2] < radii[3] < radii[4]


def test_a_class_is_certified_on_the_images_of_a_real_network():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6))
    g = SmoothedClassifier(network, 0.5, seed=1)
    images = torch.randint(256, (4, 1, 4, 4), generator=torch.Generator().manual_seed(3)) / 255
    top_1, top_3 = (g.certify_top_k(images, k, n=1000, image_index=range(4)) for k in (1, 3))
    assert all(each.sound for each in top_1)
    assert (top_3.radius > top_1.radius).all()
    votes = g.certify(images, n=1000, image_index=range(4))
    assert [each.count for each in top_3] == [each.count for each in votes]  # the same samples
    one = g.certify_top_k(images[1], 3, n=1000, image_index=1)
    assert one == top_3[1]
    labelled = g.certify_top_k(images[1], 3, one.predict, n0=0, n=1000, image_index=1)
    assert labelled == one


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 0}, "k must lie between 1 and 2 for 3 classes, not 0"),
        ({"k": 3}, "k must lie between 1 and 2 for 3 classes, not 3"),
        ({"k": 2, "labels": [0, 3]}, "there is no class 3 to certify: classes are 0 to 2"),
        ({"k": 2, "labels": [0, -1]}, "there is no class -1 to certify"),
        ({"k": 2, "labels": [1]}, "labels must be 2 whole numbers"),
        ({"k": 2, "n0": 0}, "n0 of samples that select the class must be at least 1, not 0"),
        ({"k": 2, "n": 0}, "n must be at least 1, not 0"),
        ({"k": 2, "alpha": 2.0}, "alpha must lie strictly between 0 and 1, not 2"),
    ],
)
def test_what_is_impossible_is_refused_before_a_sample_is_drawn(arguments, said, monkeypatch):
    g = Urn((0.5, 0.3, 0.2))
    monkeypatch.setattr(g, "block_sums", None)
    with pytest.raises(SettingsError, match=said):
        g.certify_top_k(torch.zeros(2, 1, 1, 1), **{"n": 100, **arguments})


def test_a_k_that_only_the_networks_output_shows_to_be_impossible_is_refused():
    g = SmoothedClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), 0.25, seed=1)
    with pytest.raises(SettingsError, match="between 1 and 2 for 3 classes, not 3"):
        g.certify_top_k(torch.zeros(1, 2, 2), 3, n=100)


def test_sums_that_are_no_probabilities_are_refused():
    for p_lower, sums in ((0.5, []), (0.5, [1.5]), (-0.1, [0.1]), (0.5, [math.nan])):
        with pytest.raises(SettingsError, match="follows from probabilities"):
            top_k_radius(p_lower, sums, 1.0)
