"""Certificates of networks whose classes have known probabilities: bounds chosen by selection, and no selection at all.

Statistical tests have fixed seeds and fail a correct certifier with probability 1e-3 each (chosen before looking).
"""

from collections.abc import Sequence
from itertools import product

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float64
from scipy import special, stats
from torch import Tensor

from macer.smoothing import Certificate, Hard, SmoothedClassifier
from macer.smoothing.bounds import clopper_pearson_lower, randomised_clopper_pearson_lower
from macer.smoothing.kinds import HardAuto, HardRandomised, HardTwoClass
from macer.smoothing.noise import BLOCK, uniform_of_bound
from macer.smoothing.radius import certified_radius
from macer.smoothing.sequential import RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Fixed, Sequential, Spending, level
from macer.smoothing.words import Stage

ERROR_RATE = 1e-3
ALPHA, N, IMAGES = 0.05, 300, 500
SHARES = {
    "two alike": (0.5, 0.5),
    "three alike": (1 / 3, 1 / 3, 1 / 3),
    "just above half": (0.51, 0.49),
    "just below half": (0.49, 0.3, 0.21),
    "half and many": (0.5, *[0.01] * 50),
    "clear": (0.9, 0.06, 0.04),
}


class Urn(SmoothedClassifier):
    """A classifier of sigma 1 whose votes are drawn from given shares of the classes, and are no network's."""

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__(torch.nn.Identity(), 1.0, len(shares), batch_size=1000, sound=False, seed=5)
        self.shares = np.array(shares)

    def block_sums(self, image, image_index, stage, blocks, n, measures) -> list[Float64[Tensor, "blocks features"]]:
        sizes = np.clip(n - BLOCK * np.array(blocks), 0, BLOCK)
        votes = [
            np.random.default_rng([image_index, stage.value, block]).multinomial(size, self.shares)
            for block, size in zip(blocks, sizes, strict=True)
        ]
        return [torch.tensor(np.array(votes)).double() @ measure(torch.eye(len(self.shares))) for measure in measures]


def certificates(spending: Spending, shares: Sequence[float]) -> list[Certificate]:
    urn, image = Urn(shares), torch.zeros(1, 1, 1)
    jaxtyping.config.update("jaxtyping_disable", True)  # thousands of times the same shapes
    try:
        return [spending.certify(urn, image, image_index=index)[0] for index in range(IMAGES)]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def assert_wrong_no_more_often_than_alpha(wrong: Sequence[bool]) -> None:
    assert stats.binomtest(int(np.sum(wrong)), len(wrong), ALPHA, alternative="greater").pvalue > ERROR_RATE


def true_radius(shares: Sequence[float], answer: int) -> float:
    """The radius of the worst network with these shares, for sigma = 1: theorem 1 of Cohen et al. is tight."""
    others = max(share for each, share in enumerate(shares) if each != answer)
    return float(special.ndtri(shares[answer]) - special.ndtri(others)) / 2


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_the_bound_that_selection_chooses(shares):
    """3,000 certificates, each against the tight radius of the true shares."""
    made = certificates(Fixed([HardAuto()], 100, N, ALPHA), shares)
    assert_wrong_no_more_often_than_alpha(
        [not each.abstained and each.radius > max(0.0, true_radius(shares, each.predict)) for each in made]
    )


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_the_randomised_bound(shares):
    """3,000 certificates, of the same votes as the plain bound's, and of a radius that is never smaller."""
    made, plain = (certificates(Fixed([kind], 100, N, ALPHA), shares) for kind in (HardRandomised(), Hard()))
    assert [each.count for each in made] == [each.count for each in plain]
    assert all(one.radius >= other.radius for one, other in zip(made, plain, strict=True))
    assert_wrong_no_more_often_than_alpha(
        [not each.abstained and each.p_a_lower > shares[each.predict] for each in made]
    )


def test_the_randomised_bound_fails_as_often_as_alpha_says():
    """2,000 bounds with the random numbers that images get. The plain bound fails less often."""
    n = 60
    counts = np.random.default_rng(1).binomial(n, 0.9, 2000)
    draws = [uniform_of_bound(7, index) for index in range(len(counts))]
    failed = [
        randomised_clopper_pearson_lower(count, n, ALPHA, v) > 0.9
        for count, v in zip(counts.tolist(), draws, strict=True)
    ]
    assert stats.binomtest(sum(failed), len(failed), ALPHA).pvalue > ERROR_RATE
    plain = [clopper_pearson_lower(count, n, ALPHA) > 0.9 for count in counts.tolist()]
    assert stats.binomtest(sum(plain), len(plain), ALPHA).pvalue < ERROR_RATE


def test_the_number_of_a_bound_is_uniform_and_independent_of_the_votes():
    """Of a network that answers by the sign of its only pixel, on real noise of both kinds."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    network[1].load_state_dict({"weight": torch.tensor([[1.0], [-1.0]]), "bias": torch.zeros(2)})
    made = []
    for value in (0.2, 0.123):  # 51/255 gets noise in grey levels, the other float noise
        g = SmoothedClassifier(network, 0.5, 2, seed=3)
        made += g.certify(torch.full((150, 1, 1, 1), value), 100, 200, kind=HardRandomised(), image_index=range(150))
    v, votes = np.array([each.second for each in made]), np.array([each.count for each in made])
    assert stats.kstest(v[:150], "uniform").pvalue > ERROR_RATE
    assert (v[:150] == v[150:]).all()  # of seed and index
    for part in (slice(150), slice(150, None)):
        assert stats.spearmanr(v[part], votes[part]).pvalue > ERROR_RATE
    assert len({uniform_of_bound(seed, index) for seed in range(30) for index in range(30)}) == 900


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize(
    "spending",
    [
        Fixed([Hard()], 0, N, ALPHA),
        Sequential(RadiusAtLeast(0.1), 0, 3 * N, ALPHA),
        Sequential(RadiusWithin(0.4, ceiling=2.0), 0, 3 * N, ALPHA),
    ],
    ids=["fixed", "at least", "within"],
)
def test_without_selection_samples(spending, shares):
    """9,000 certificates: the class's share is at least its bound, and classes that are clear have certificates."""
    made = certificates(spending, shares)
    assert_wrong_no_more_often_than_alpha(
        [not each.abstained and each.p_a_lower > shares[each.predict] for each in made]
    )
    if shares[0] == 0.9:
        assert np.mean([each.predict == 0 for each in made]) > 0.99


def wrong_exactly(probabilities: np.ndarray, n: int, may_fail: float) -> np.ndarray:
    """The probability, for each p_A, p_B and 1 - p_A - p_B, that the most frequent class gets a false certificate."""
    lower = np.array([clopper_pearson_lower(count, n, may_fail) for count in range(n + 1)])
    wrong = np.zeros(len(probabilities))
    for votes in ((a, b, n - a - b) for a, b in product(range(n + 1), repeat=2) if a + b <= n):
        top = int(np.argmax(votes))
        if lower[votes[top]] > 0.5:
            failing = lower[votes[top]] > probabilities[:, top]
            wrong += failing * stats.multinomial.pmf(votes, n, probabilities)
    return wrong


@pytest.mark.parametrize("n", [7, 20, 41])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
def test_without_selection_samples_no_shares_of_three_classes_are_wrong_more_often_than_alpha(n, alpha):
    """By enumeration, with no chance in it. At all of alpha per class, two alike classes would exceed alpha."""
    steps = np.arange(21) / 20
    shares = np.array([(a, b, max(0.0, 1 - a - b)) for a, b in product(steps, repeat=2) if a + b <= 1 + 1e-9])
    shares = shares / shares.sum(1, keepdims=True)
    assert wrong_exactly(shares, n, level(alpha, 0)).max() <= alpha + 1e-12
    if n == 41:
        alike = np.array([(0.5, 0.5, 0.0)])
        assert wrong_exactly(alike, n, level(alpha, 0))[0] > 0.4 * alpha
        assert wrong_exactly(alike, n, level(alpha, 100))[0] > alpha


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.45, 0.45, 0.1), (0.9, 0.1), (0.55, 0.3, 0.15)], ids=str)
@pytest.mark.parametrize("question", [RadiusAtLeast(0.2), RadiusWithin(0.3)], ids=lambda each: type(each).__name__)
def test_asking_about_the_leading_class_is_asking_about_every_class(question, shares):
    """The literal way: sampling ends where any class is answered "yes", or all are answered "no"."""
    n, urn, image = 2050, Urn(shares), torch.zeros(1, 1, 1)
    trials = np.array([*range(BLOCK, n, BLOCK), n])
    for index in range(6):
        (made,) = Sequential(question, 0, n, ALPHA).certify(urn, image, image_index=index)
        blocks = range(len(trials))
        (sums,) = urn.block_sums(image, index, Stage.ESTIMATION, blocks, n, [lambda logits: logits.double()])
        votes = sums.numpy().astype(int).cumsum(0)
        for used, counts in zip(trials, votes, strict=True):
            each = [question.answer(np.array([count]), np.array([used]), 1.0, ALPHA / 2).verdict for count in counts]
            if "yes" in each or set(each) == {"no"}:
                break
        assert (made.n, made.count) == (used, counts.max())
        assert made.predict in ((counts.argmax(),) if "yes" in each else (-1, counts.argmax()))


def geometric(p_a: float) -> np.ndarray:
    """Shares of 1,000 classes: the runner-up has half of the rest, the next one half of what is left."""
    rest = 0.5 ** np.arange(1, 1000)
    return np.array([p_a, *(1 - p_a) * rest / rest.sum()])


def long_tailed(p_a: float) -> np.ndarray:
    """Shares of 1,000 classes: those of the others fall as 1, 1/2, 1/3, ..."""
    rest = 1 / np.arange(1, 1000)
    return np.array([p_a, *(1 - p_a) * rest / rest.sum()])


@pytest.mark.parametrize(
    ("shares", "one_class", "two_class"),
    [
        (geometric(0.6), 0.212, 0.490),
        (geometric(0.9), 1.229, 1.384),
        (geometric(0.99), 2.214, 2.281),
        (long_tailed(0.6), 0.212, 0.861),
        (long_tailed(0.9), 1.229, 1.643),
        (long_tailed(0.99), 2.214, 2.426),
        (np.array([0.6, 0.4, *[0.0] * 998]), 0.212, 0.209),
        (np.array([0.9, 0.1]), 1.229, 1.225),
    ],
    ids=["half .6", "half .9", "half .99", "long .6", "long .9", "long .99", "one other", "two classes"],
)
def test_auto_comes_within_two_hundredths_of_the_better_bound(shares, one_class, two_class):
    """1,000 classes, n = 10,000, alpha = 0.001: mean radius / sigma of 100 images.

    The numbers are those of a simulation apart from this package, to +-0.01: 400 images, SciPy's Beta quantiles.
    """
    generator = np.random.default_rng(0)
    selection, estimation = generator.multinomial(100, shares, 100), generator.multinomial(10_000, shares, 100)
    radii = []
    for first, votes in zip(selection, estimation, strict=True):
        kinds = [Hard(), HardTwoClass(), HardAuto().after_selection(torch.tensor(first).double(), 10_000, 0.001)]
        proved = [each.bound(torch.tensor(votes).double(), int(first.argmax()), 10_000, 0.001) for each in kinds]
        radii.append([certified_radius(each.p_a_lower, 1.0, each.p_b_upper) for each in proved])
    means = np.mean(radii, 0)
    assert means[:2] == pytest.approx([one_class, two_class], abs=0.01)
    assert means[2] > max(means[:2]) - 0.02


@given(st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(any), st.integers(1, 10**6))
def test_every_selection_chooses_a_bound(votes, n):
    """What is expected of so many samples are votes that are possible; of two classes, it is the one-class bound."""
    kind = HardAuto().after_selection(torch.tensor(votes).double(), n, 0.001)
    assert type(kind) in ((Hard,) if len(votes) == 2 else (Hard, HardTwoClass))


def test_a_record_says_by_its_second_count_which_bound_it_has():
    one, two = (kind.bound_again(900.0, 60.0, 1000, 10, 0.001) for kind in (Hard(), HardTwoClass()))
    assert HardAuto().bound_again(900.0, None, 1000, 10, 0.001) == one
    assert HardAuto().bound_again(900.0, 60.0, 1000, 10, 0.001) == two
    assert one.exact
    assert two.exact
