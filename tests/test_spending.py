"""Every way to spend samples, with every bound, where the truth is known; and that cheaper ways give the same answers.

Statistical tests have fixed seeds and fail a correct certifier with probability 1e-3 each (chosen before looking).
"""

import io

import jaxtyping
import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import special, stats
from torch import Tensor, nn
from unanimous import unanimous_bound

from macer.certification import CertificationSettings, Plan, certify_images
from macer.data import load
from macer.errors import SettingsError
from macer.results import read_records
from macer.smoothing import Certificate, Hard, SmoothedClassifier, Soft
from macer.smoothing.kinds import HardTwoClass, SoftBetting
from macer.smoothing.sequential import RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Fixed, ForTable, Sequential, Spending

pytest_plugins = ["undefended"]

ERROR_RATE = 1e-3
ALPHA, SIGMA, N, BETA = 0.05, 0.25, 300, 6.0
LEVEL = 50
"""Class 0 is what is lighter than this grey level and a half: a half-space whose plane no 8-bit image lies on."""
LEVELS = LEVEL + 34 + np.arange(1400) % 163
DISTANCES = (LEVELS - LEVEL - 0.5) / 255
KINDS = (Hard(), HardTwoClass(), Soft(BETA), SoftBetting(BETA))
ASKED = 0.25


@pytest.fixture(scope="module")
def network(undefended: nn.Module) -> nn.Module:
    return undefended


@pytest.fixture(scope="module")
def digits(noisy_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return noisy_digits


class Lighter(nn.Module):
    """Logits of the first pixel's distance to the plane, and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = nn.Parameter(torch.tensor((LEVEL + 0.5) / 255))

    def forward(self, x: Tensor) -> Tensor:
        distance = (x[:, 0, 0, 0] - self.plane) / SIGMA
        return torch.stack([distance, torch.zeros_like(distance)], 1)


def certificates(spending: Spending, *, sound: bool, images: int = len(DISTANCES)) -> list[list[Certificate]]:
    """Of images at levels that give class 0 probabilities from 0.7 to 0.999."""
    classifier = SmoothedClassifier(Lighter(), SIGMA, 2, batch_size=300, seed=1, sound=sound)
    # Thousands of times the same shapes: checking them would take most of the time.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return [
            spending.certify(classifier, torch.full((1, 1, 1), level / 255), image_index=index, label=0)
            for index, level in enumerate(LEVELS[:images].tolist())
        ]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def mean_score(*, sound: bool) -> np.ndarray:
    """The mean score of class 0 of `Soft(BETA)`: an integral over real noise, a sum over noise of whole levels."""
    step = 1 if sound else 0.25
    noise = np.arange(-700, 700 + step, step) / 255
    half = step / 2 / 255
    weight = special.ndtr((noise + half) / SIGMA) - special.ndtr((noise - half) / SIGMA)
    return special.expit(BETA * (DISTANCES[:, None] + noise) / SIGMA) @ weight


def assert_wrong_no_more_often_than_alpha(wrong: np.ndarray) -> None:
    assert stats.binomtest(int(wrong.sum()), len(wrong), ALPHA, alternative="greater").pvalue > ERROR_RATE


@pytest.mark.parametrize(
    ("way", "kinds", "sound", "images"),
    [
        pytest.param(Fixed, [Hard(), HardTwoClass(), Soft(BETA)], False, 1400, id="plain"),
        pytest.param(Fixed, [SoftBetting(BETA)], False, 163, id="betting"),
        pytest.param(Fixed, [Hard(), Soft(BETA)], True, 1400, id="sound"),
        pytest.param(Fixed, [SoftBetting(BETA)], True, 163, id="sound-betting"),
        pytest.param(ForTable, [Hard()], False, 1400, id="for-table"),
    ],
)
def test_a_fixed_number_of_samples(way, kinds, sound, images):
    """8,726 certificates. Both truths: the radius, and what the bound is a bound of."""
    distances = DISTANCES[:images]
    by_image = certificates(way(kinds, 100, N, ALPHA), sound=sound, images=images)
    for kind, made in zip(kinds, zip(*by_image, strict=True), strict=True):
        truth = mean_score(sound=sound)[:images] if isinstance(kind, Soft) else special.ndtr(distances / SIGMA)
        radii, bounds = (np.array([getattr(each, name) for each in made]) for name in ("radius", "p_a_lower"))
        answers = np.array([each.predict for each in made])
        assert_wrong_no_more_often_than_alpha((radii > distances) | (bounds > truth) | (answers == 1))
        assert (answers == 0).mean() > 0.6, kind
        assert stats.spearmanr(radii, distances).statistic > 0.8, kind


@pytest.mark.parametrize("sound", [False, True], ids=["plain", "sound"])
def test_a_question_about_a_radius(sound):
    """700 answers each. No "yes" where the radius is smaller; among radii well above, nearly all are "yes"."""
    spending = Sequential(RadiusAtLeast(ASKED), 100, 5 * N, ALPHA)
    made, distances = [each for (each,) in certificates(spending, sound=sound, images=700)], DISTANCES[:700]
    yes = np.array([each.radius >= ASKED for each in made])
    assert_wrong_no_more_often_than_alpha(yes[distances < ASKED])
    assert yes[distances > ASKED + 0.1].mean() > 0.95
    assert {each.radius for each in made if each.radius < ASKED} == {0.0}
    assert np.mean([each.n for each in made]) < 2.5 * N


def test_a_radius_to_within_a_share_of_itself():
    spending, distances = Sequential(RadiusWithin(0.4), 100, 5 * N, ALPHA), DISTANCES[:700]
    made = [each for (each,) in certificates(spending, sound=False, images=700)]
    radii, used = np.array([each.radius for each in made]), np.array([each.n for each in made])
    assert_wrong_no_more_often_than_alpha(radii > distances)
    stopped = used < 5 * N
    assert stopped.mean() > 0.2
    # R_low >= 0.6 min(R_up): where the interval holds, the radius is at least so large.
    assert np.mean(radii[stopped] >= 0.6 * distances[stopped]) > 1 - 2 * ALPHA


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_fewest_samples_is_the_first_n_that_certifies_anything(kind):
    n = kind.fewest_samples(0.001)
    assert unanimous_bound(kind, n, 0.001) > 0.5
    assert unanimous_bound(kind, n - 1, 0.001) <= 0.5


def test_betting_certifies_more_than_bernstein_where_scores_are_near_one(network, digits):
    """On a trained network, image by image, at the usual alpha."""
    fixed = Fixed([Soft(16.0), SoftBetting(16.0)], 100, 1000, 0.001)
    classifier = SmoothedClassifier(network, SIGMA, 10)
    pairs = [fixed.certify(classifier, digits[0][index], image_index=index, label=0) for index in range(30)]
    differences = [betting.radius - bernstein.radius for bernstein, betting in pairs]
    assert min(differences) > -0.01
    assert np.mean(differences) > 0.01


def test_a_runner_up_with_few_votes_certifies_less_than_half_of_the_votes():
    """45% of the votes are enough where no other class has more than 20%."""

    class Four(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            share = special.ndtr(x[:, 0, 0, 0].double().numpy())  # uniform, for noise of sigma 1 around 0
            return nn.functional.one_hot(torch.from_numpy(np.searchsorted([0.45, 0.65, 0.85], share)), 4).float()

    both = Fixed([Hard(), HardTwoClass()], 100, 2000, 0.001)
    one, two = both.certify(SmoothedClassifier(Four(), 1.0, 4), torch.zeros(1, 1, 1), image_index=0, label=0)
    assert one.abstained
    assert two.predict == 0
    assert 0 < two.radius < (stats.norm.ppf(0.45) - stats.norm.ppf(0.2)) / 2


def test_for_the_table_the_numbers_are_the_same_and_wrong_images_cost_nothing(network, digits):
    """Certified accuracy at every radius and ACR follow from the correct images' certificates: these are equal."""
    images, labels = digits
    kinds = [Hard(), Soft(16.0)]
    seen = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return network(x)

    classifier = SmoothedClassifier(network, SIGMA, 10)
    classifier.evaluate_with(counting)
    wrong = 0
    for index in range(40):
        label = (int(labels[index]) + index // 30) % 10  # the last ten have another label than their class
        fixed, table = (
            way(kinds, 100, 400, 0.001).certify(classifier, images[index], image_index=index, label=label)
            for way in (Fixed, ForTable)
        )
        for one, other in zip(fixed, table, strict=True):
            assert (one.radius if one.predict == label else 0.0) == (other.radius if other.predict == label else 0.0)
            assert other == one or (other.abstained and other.n == 0)
        wrong += all(each.n == 0 for each in table)
    assert wrong >= 8
    assert seen - 400 <= 40 * 2 * 500 - wrong * 400  # 400 for the first look at whether samples are independent


@pytest.mark.parametrize(
    "question", [RadiusAtLeast(0.3), RadiusWithin(0.3)], ids=lambda question: type(question).__name__
)
def test_sequential_answers_are_those_of_the_votes_for_any_batch_size(question, network, digits):
    """The literal way: all votes first, then the question on them, block by block."""
    n = 1950
    for index in range(4):
        image = digits[0][index]
        made = [
            Sequential(question, 100, n, 0.001).certify(
                SmoothedClassifier(network, SIGMA, 10, batch_size=size), image, image_index=index, label=0
            )[0]
            for size in (100, 300, 5000)
        ]
        assert made[0] == made[1] == made[2]
        classifier = SmoothedClassifier(network, SIGMA, 10)
        votes = [
            classifier.certify(image, 100, count, 0.001, image_index=index).count for count in [*range(100, n, 100), n]
        ]
        trials = np.array([*range(100, n, 100), n])
        asked = classifier.noise_for(image).sharpened(question, image.shape)
        answer = asked.answer(np.array(votes, dtype=np.int64), trials, SIGMA, 0.001)
        used = trials[-1 if answer.check is None else answer.check]
        assert (made[0].n, made[0].p_a_lower) == (used, answer.p_a_lower)


def test_questions_that_no_number_of_votes_answers_are_refused_before_the_network_runs(network):
    spending = Sequential(RadiusAtLeast(0.9), 100, 300, 0.001)
    with pytest.raises(SettingsError, match="n = 300 is too small"):
        spending.check(SIGMA)
    with pytest.raises(SettingsError, match="n = 300 is too small"):
        spending.certify(SmoothedClassifier(network, SIGMA, 10), torch.zeros(1, 8, 8), image_index=0, label=0)


def test_independent_runs_agree_with_the_binomial_distribution(network, digits):
    """200 seeds, one image: the counts' variance is the binomial's, which dependent noise would enlarge or shrink."""
    n, image = 500, digits[0][7]
    counts = np.array(
        [
            SmoothedClassifier(network, 2 * SIGMA, 10, seed=seed).certify(image, 100, n, 0.001).count
            for seed in range(200)
        ]
    )
    share = counts.mean() / n
    assert 0.05 < share < 0.99
    dispersion = ((counts - counts.mean()) ** 2).sum() / (n * share * (1 - share))
    assert stats.chi2.sf(dispersion, 199) > ERROR_RATE / 2
    assert stats.chi2.cdf(dispersion, 199) > ERROR_RATE / 2


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (("--spend", "for-table"), "images whose selected class is wrong were not estimated"),
        (("--spend", "sequential", "--at-least", "0.2"), "certified at radius 0.2 or not at all"),
        (("--spend", "sequential", "--within", "0.1"), "known to within 0.1 of it; radii are not comparable"),
    ],
    ids=["for-table", "at-least", "within"],
)
def test_a_table_says_how_samples_were_spent(options, note, undefended, tmp_path):
    """Through the command's own settings and files; the classifier is a network that this test has."""
    chosen = dict(zip((word[2:].replace("-", "_") for word in options[::2]), options[1::2], strict=True))
    for question in {"at_least", "within"} & chosen.keys():
        chosen[question] = float(chosen[question])
    images = load("digits", None, "test")
    fixed, cheap = (
        CertificationSettings(
            dataset="digits", checkpoint="", network="", digest="", total=500, skip=25, num_img=20, n=400, **each
        )
        for each in ({}, chosen)
    )
    for settings, directory in ((fixed, tmp_path / "fixed"), (cheap, tmp_path / "cheap")):
        certify_images(Plan(settings, undefended, images), directory, console=Console(file=io.StringIO()))
    (all_of_it,), (some,) = read_records(tmp_path / "fixed"), read_records(tmp_path / "cheap")
    assert any(note in each for each in some.notes)
    assert not all_of_it.notes
    if chosen["spend"] == "for-table":
        assert (some.certified_radius == all_of_it.certified_radius).all()
    elif "at_least" in chosen:
        assert set(some.radius.round(9)) <= {0.0, 0.2}
        assert not ((some.radius > 0) & (some.radius < 0.2)).any()
