"""The smoothed classifier on networks whose smoothed version is known exactly, or made to break it.

Statistical tests have fixed seeds and fail a correct classifier with probability 1e-3 each (chosen before looking).
"""

import copy
import math
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from unanimous import unanimous_bound

from macer.errors import SettingsError
from macer.models.fast import fastest
from macer.smoothing import ABSTAIN, Certificate, Certificates, Hard, SmoothedClassifier, Soft, bounds, radius, sampling
from macer.smoothing.noise import BLOCK, NoiseSource
from macer.smoothing.spending import Fixed
from macer.smoothing.words import Stage

ERROR_RATE = 1e-3
IMAGE = torch.full((1, 2, 2), 0.5)


class HalfSpace(nn.Module):
    """Logits (w.x + b, 0): class 0 on one side of a plane through the image 0.5, class 1 on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 2.0, 4.0]) / 5 / 0.5)
        self.b = -0.5 * self.w.sum().item()

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([score, torch.zeros_like(score)], 1)


class Scripted(nn.Module):
    """Sample i of the t-th call gets the class script(t, i); keeps what it was given."""

    def __init__(self, script, classes: int = 3) -> None:
        super().__init__()
        self.script, self.classes, self.seen = script, classes, []

    def forward(self, x: Tensor) -> Tensor:
        votes = torch.tensor([self.script(len(self.seen), i) for i in range(len(x))])
        self.seen.append(x.clone())
        return nn.functional.one_hot(votes, self.classes).float()


@pytest.fixture
def unchecked(monkeypatch):
    """Certify scripted networks as if they were functions of one image, which `test_independence` is about."""
    monkeypatch.setattr(SmoothedClassifier, "_check_independence", lambda *arguments: None)


def constant(winner: int = 1) -> Scripted:
    return Scripted(lambda call, sample: winner)


def always(*logits: float) -> nn.Module:
    linear = nn.Linear(4, len(logits))
    nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor(logits)
    return nn.Sequential(nn.Flatten(), linear)


# ---- what is certified is true


@pytest.fixture(scope="module")
def half_space_certificates():
    """5,000 certificates at alpha = 0.05, at distances that give class 0 probabilities from 0.7 to 0.999."""
    sigma, n, alpha, beta = 0.5, 300, 0.05, 2.0
    network = HalfSpace()
    direction = (network.w / network.w.norm()).detach().view(1, 2, 2)
    smoothed = SmoothedClassifier(network, sigma, 2, batch_size=300, seed=1, any_range=True)
    probabilities, kinds = np.linspace(0.7, 0.999, 5000), [Hard(), Soft(beta)]
    distances = sigma * stats.norm.ppf(probabilities)
    # 5,000 times the same shapes: checking them would take most of the time.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        both = [
            Fixed(kinds, 100, n, alpha).certify(smoothed, IMAGE + float(distance) * direction, image_index=index)
            for index, distance in enumerate(distances)
        ]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    return both, probabilities, distances, sigma, n, alpha, beta


def test_hard_certificates_fail_as_often_as_alpha_allows_and_no_less(half_space_certificates):
    """On a half-space the true radius is the distance to the plane (Cohen et al. 2019, appendix B).

    How often a radius exceeds it is known exactly from the binomial distribution, so both kinds of error show:
    certificates that claim too much, and certificates that are needlessly small.
    """
    both, probabilities, distances, _, n, alpha, _ = half_space_certificates
    failed = [hard.radius > distance or hard.predict == 1 for (hard, _), distance in zip(both, distances, strict=True)]
    assert stats.binomtest(sum(failed), len(failed), alpha, alternative="greater").pvalue > ERROR_RATE

    lower = [bounds.clopper_pearson_lower(count, n, alpha) for count in range(n + 1)]
    expected = stats.binom.sf(np.searchsorted(lower, probabilities, side="right") - 1, n, probabilities)
    assert 0.5 * alpha < expected.mean() < alpha
    deviation = (sum(failed) - expected.sum()) / math.sqrt((expected * (1 - expected)).sum())
    assert abs(deviation) < stats.norm.isf(ERROR_RATE / 2)


def test_soft_certificates_fail_no_more_often_than_alpha(half_space_certificates):
    """The truth of a soft certificate is the mean score, by quadrature; its radius is bounded by the distance too."""
    both, _, distances, sigma, n, alpha, beta = half_space_certificates
    # The score depends on the noise along one direction. The trapezoidal rule is exact to 1e-15 for such integrands.
    step = 0.02
    along = np.arange(-10, 10, step)
    weight = stats.norm.pdf(along) * step
    scores = special.expit(beta * HalfSpace().w.norm().item() * (distances[:, None] + sigma * along))
    truth, variance = scores @ weight, (scores**2) @ weight - (scores @ weight) ** 2
    failed = [
        soft.p_a_lower > mean or soft.radius > distance or soft.predict == 1
        for (_, soft), mean, distance in zip(both, truth, distances, strict=True)
    ]
    assert stats.binomtest(sum(failed), len(failed), alpha, alternative="greater").pvalue > ERROR_RATE
    # The bound leaves room, so the estimate itself is held against the truth as well.
    shift = np.array([soft.count / n for _, soft in both]) - truth
    assert abs(shift.sum() / math.sqrt(variance.sum() / n)) < stats.norm.isf(ERROR_RATE / 2)
    assert sum(soft.radius > 0 for _, soft in both) > 2000


@pytest.mark.parametrize("n", [100, 1037])
def test_certificates_are_the_literal_formulas_on_the_literal_noise(n):
    torch.manual_seed(0)
    network, x, sigma, alpha, beta = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), IMAGE, 0.7, 0.01, 3.0
    g = SmoothedClassifier(network, sigma, 3, seed=5)
    hard, soft = Fixed([Hard(), Soft(beta)], 50, n, alpha).certify(g, x, image_index=9)
    source = NoiseSource(sigma, 5)

    def logits(stage, samples):
        noisy = source.blocks(x, 9, stage, 0, math.ceil(samples / BLOCK))[:samples]
        return network(noisy).detach().double().numpy()

    selection, estimation = logits(Stage.SELECTION, 50), logits(Stage.ESTIMATION, n)
    top = np.bincount(selection.argmax(1)).argmax()
    votes = int((estimation.argmax(1) == top).sum())
    lower = stats.beta.ppf(alpha, votes, n - votes + 1)
    assert hard.count == votes
    assert hard.p_a_lower == pytest.approx(lower)
    assert hard.radius == pytest.approx(sigma * stats.norm.ppf(lower) if lower > 0.5 else 0)

    top = special.softmax(beta * selection, 1).sum(0).argmax()
    scores = special.softmax(beta * estimation, 1)[:, top]
    log_term = math.log(2 / alpha)
    lower = scores.mean() - math.sqrt(2 * scores.var(ddof=1) * log_term / n) - 7 * log_term / (3 * (n - 1))
    assert soft.count == pytest.approx(scores.sum())
    assert soft.p_a_lower == pytest.approx(max(lower, 0), abs=1e-7)


def test_variance_of_equal_scores_is_zero():
    """In float32 sums, scores of 0.9999 would vary by 1e-7, which is a third of what the bound subtracts here."""
    network = always(math.log(9999.0), 0.0)
    n, alpha = 20_000, 0.001
    certificate = SmoothedClassifier(network, 0.5, 2).certify(IMAGE, 100, n, alpha, kind=Soft(1.0))
    assert certificate.p_a_lower + 7 * math.log(2 / alpha) / (3 * (n - 1)) == pytest.approx(
        certificate.count / n, abs=1e-9
    )


@pytest.mark.parametrize("kind", [Hard(), Soft()], ids=lambda kind: kind.name)
def test_unanimous_samples_give_the_largest_radius(kind):
    certificate = SmoothedClassifier(Scripted(lambda call, sample: 2), 0.25, 3).certify(
        IMAGE, 1, 1037, 0.001, kind=kind
    )
    assert certificate.predict == 2
    assert not certificate.abstained
    assert certificate.count == pytest.approx(1037, rel=1e-6)
    assert certificate.n == 1037
    largest = radius.certified_radius(unanimous_bound(kind, 1037, 0.001), 0.25)
    assert certificate.radius == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("n", [50, 130])
def test_samples_that_are_ties_are_counted_once(n):
    """Blocks with ties are evaluated twice, and the last of them is used in part."""
    g = SmoothedClassifier(always(0.0, 0.0, 0.0), 0.5, 3)
    hard, soft = Fixed([Hard(), Soft()], 100, n, 0.001).certify(g, IMAGE, image_index=0)
    assert hard.count == n
    assert soft.count == pytest.approx(n / 3)


# ---- the same certificate however the work is divided


class Unstable(nn.Module):
    """Rounds differently for different batch sizes, in the worst way: a third of its samples are ties but for that.

    The wobble is 100 roundings of the largest logit. `cancelling` puts the ties at logits of almost 0, where the
    logits' own size does not tell how they were rounded.
    """

    def __init__(self, cancelling: bool) -> None:
        super().__init__()
        self.cancelling = cancelling

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        sample = torch.arange(len(x))
        wobble = torch.where((sample * 31 + len(x) * 17) // 7 % 2 == 0, 100.0, -100.0) * torch.finfo(x.dtype).eps * 8
        score = torch.where((pixel * 100).floor() % 3 == 0, wobble, 8 * (pixel - 0.2).sign())
        return torch.stack([score, -score] if self.cancelling else [score + 8, torch.full_like(score, 8.0)], 1)


def hard_results(network: nn.Module, batch_size: int, x: Tensor, classes: int) -> list[Certificate | int]:
    smoothed = SmoothedClassifier(network, 0.5, classes, batch_size=batch_size, seed=3)
    certified = [smoothed.certify(x, 150, 2050, 0.05, image_index=index) for index in range(3)]
    return [*certified, smoothed.predict(x, 930, 0.05)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("cancelling", [False, True])
def test_hard_certificates_do_not_depend_on_the_batch_size(cancelling, monkeypatch):
    network = Unstable(cancelling)
    results = [hard_results(network, batch_size, IMAGE, 2) for batch_size in (100, 200, 1000, 300, 350)]
    assert all(result == results[0] for result in results)
    # The network is as bad as it claims: without the second look at near-ties the same comparison fails.
    monkeypatch.setattr(sampling, "_close_to_a_tie", lambda logits: torch.zeros(len(logits) // BLOCK, dtype=torch.bool))
    without = [hard_results(network, batch_size, IMAGE, 2) for batch_size in (100, 200)]
    assert without[0] != without[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_near_ties_are_found_in_any_precision(dtype):
    logits = torch.tensor([[4.0, -4.0, -8.0], [3.0, 3.0, 0.0]]).repeat_interleave(BLOCK, 0).to(dtype)
    if dtype == torch.float64:
        logits[-1] = torch.tensor([3.0, 3.0 + 1e-13, 0.0])
        assert sampling._close_to_a_tie(logits).tolist() == [False, True]
    assert sampling._close_to_a_tie(logits)[1]


def test_a_convolutional_network_gives_the_same_certificates_for_any_batch_size():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10))
    x = torch.rand(1, 8, 8)
    results = [hard_results(network, batch_size, x, 10) for batch_size in (100, 200, 1000, 300)]
    assert all(result == results[0] for result in results)
    soft = [
        SmoothedClassifier(network, 0.5, 10, batch_size=batch_size).certify(x, 100, 1000, 0.05, kind=Soft())
        for batch_size in (100, 1000)
    ]
    assert soft[0].count == pytest.approx(soft[1].count, rel=1e-6)
    assert soft[0].p_a_lower == pytest.approx(soft[1].p_a_lower, rel=1e-6)


def test_certificates_do_not_depend_on_the_order_of_images_or_on_what_was_asked_before():
    network = HalfSpace()
    images = [IMAGE + 0.05 * step for step in range(4)]
    smoothed = SmoothedClassifier(network, 0.5, 2)
    forwards = {index: smoothed.certify(images[index], 100, 300, 0.05, image_index=index) for index in range(4)}
    smoothed.predict(IMAGE, 500)
    backwards = {index: smoothed.certify(images[index], 100, 300, 0.05, image_index=index) for index in (3, 1, 2, 0)}
    assert forwards == backwards
    alone = SmoothedClassifier(network, 0.5, 2).certify(images[2], 100, 300, 0.05, image_index=2)
    assert alone == forwards[2]


def test_seed_and_image_index_pick_the_noise():
    counts = {
        SmoothedClassifier(HalfSpace(), 0.5, 2, seed=seed).certify(IMAGE, 100, 3000, image_index=index).count
        for seed in (0, 1)
        for index in (0, 1)
    }
    assert len(counts) > 2


@pytest.mark.parametrize("beta", [1.0, 16.0])
def test_both_kinds_at_once_are_each_kind_alone(beta):
    smoothed = SmoothedClassifier(HalfSpace(), 0.5, 2)
    for index in range(5):
        x, arguments = IMAGE + 0.1 * index, (60, 730, 0.01)
        hard, soft = Fixed([Hard(), Soft(beta)], *arguments).certify(smoothed, x, image_index=index)
        assert hard == smoothed.certify(x, *arguments, image_index=index)
        assert soft == smoothed.certify(x, *arguments, kind=Soft(beta), image_index=index)


# ---- selection, estimation, prediction


@pytest.mark.usefixtures("unchecked")
def test_the_class_is_selected_and_bounded_on_different_samples():
    network = constant()
    smoothed = SmoothedClassifier(network, 0.5, 3, batch_size=100)
    smoothed.certify(IMAGE, 100, 500, 0.05)
    smoothed.predict(IMAGE, 200)
    samples = torch.cat(network.seen).flatten(1)
    assert len(samples) == 800
    assert len(samples.unique(dim=0)) == 800


@pytest.mark.usefixtures("unchecked")
def test_the_bound_is_that_of_the_selected_class_even_if_another_wins_later():
    certificate = SmoothedClassifier(Scripted(lambda call, sample: 0 if call == 0 else 1), 0.5, 3).certify(IMAGE)
    assert certificate == Certificate(predict=ABSTAIN, radius=0.0, p_a_lower=0.0, count=0.0, n=100_000)
    assert certificate.abstained


@pytest.mark.usefixtures("unchecked")
def test_selection_and_prediction_use_exactly_their_number_of_samples():
    """The last block is drawn whole but counted in part: every sample past the first 101, or 3, votes otherwise."""
    ballots = [0] * 52 + [1] * 49 + [1] * 99
    selecting = Scripted(lambda call, sample: ballots[sample] if call == 0 else 0)
    assert SmoothedClassifier(selecting, 0.5, 3).certify(IMAGE, 101, 100, 0.001).predict == 0
    predicting = Scripted(lambda call, sample: int(sample >= 3))
    assert SmoothedClassifier(predicting, 0.5, 3).predict(IMAGE, 3, 0.25) == 0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "votes", [(60, 40, 0), (61, 39, 0), (39, 61, 0), (50, 30, 20), (38, 31, 31), (0, 9, 91), (50, 50, 0)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_predict_abstains_by_the_two_sided_binomial_test(votes, alpha):
    ballots = np.repeat(np.arange(3), votes).tolist()
    answer = SmoothedClassifier(Scripted(lambda call, sample: ballots[sample]), 0.5, 3).predict(IMAGE, 100, alpha)
    second, first = sorted(votes)[1:]
    told_apart = stats.binomtest(first, first + second, 0.5).pvalue <= alpha
    assert answer == (int(np.argmax(votes)) if told_apart else ABSTAIN)


@pytest.mark.usefixtures("unchecked")
def test_predict_at_pinned_counts():
    """60 of 100 has p = 0.057, 61 has 0.035; 10 of 10 has exactly 2 / 2^10, which does not exceed an alpha of that."""

    def answer(first, n, alpha):
        return SmoothedClassifier(Scripted(lambda call, sample: int(sample >= first)), 0.5, 3).predict(IMAGE, n, alpha)

    assert [answer(60, 100, 0.05), answer(61, 100, 0.05)] == [ABSTAIN, 0]
    assert [answer(10, 10, 2 / 2**10), answer(10, 10, 1.9 / 2**10)] == [0, ABSTAIN]
    assert answer(1, 1, 0.99) == ABSTAIN


def test_predict_is_wrong_no_more_often_than_alpha():
    """Just beside the plane, where the two classes are hardest to tell apart."""
    smoothed = SmoothedClassifier(HalfSpace(), 0.5, 2)
    wrong = sum(smoothed.predict(IMAGE + 0.001, 100, 0.1, image_index=index) == 1 for index in range(400))
    assert stats.binomtest(wrong, 400, 0.1, alternative="greater").pvalue > ERROR_RATE


# ---- cost and side effects


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("batch_size", "largest"), [(100, 100), (350, 300), (None, 200)])
def test_the_network_sees_no_larger_batches_for_larger_n(batch_size, largest):
    for n in (1000, 10_000):
        network = constant()
        SmoothedClassifier(network, 0.5, 3, batch_size=batch_size).certify(IMAGE, 100, n)
        sizes = [len(batch) for batch in network.seen]
        assert max(sizes) == largest
        assert sum(sizes) == 100 + n


def test_the_network_is_evaluated_in_eval_mode_and_left_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout().eval(), nn.Flatten(), nn.Linear(4, 3)).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    g = SmoothedClassifier(network, 0.5, 3)
    assert g.certify(IMAGE, 100, 500, image_index=0) == g.certify(IMAGE, 100, 500, image_index=0)
    assert [each.training for each in (network, network[0], network[1])] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Merging(nn.Linear):
    """Merges a part of its weights for evaluation and takes it out again for training, as layers of LoRA do."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


def test_layers_that_change_with_the_mode_are_told_of_it():
    network = nn.Sequential(nn.Flatten(), Merging(4, 3)).train()
    SmoothedClassifier(network, 0.5, 3).predict(IMAGE, 100)
    assert (network.training, network[1].training, network[1].merged) == (True, True, False)


def test_threads_that_share_a_network_in_training_mode_certify_it_in_eval_mode():
    """The first to finish would else put the network back into training mode for the others."""
    modes = []

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.005)
            modes.append(self.training)
            return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    network = Slow().train()
    g = SmoothedClassifier(network, 0.5, 2, batch_size=100)
    with ThreadPoolExecutor(2) as pool:
        certificates = list(pool.map(lambda n: g.certify(IMAGE, 100, n, image_index=0), (1000, 100)))
    assert [each.n for each in certificates] == [1000, 100]
    assert not any(modes)
    assert network.training


@pytest.mark.parametrize("kind", [np.float16, np.float32, torch.tensor], ids=lambda kind: kind.__name__)
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("sound", [True, False])
def test_alpha_and_sigma_may_be_numbers_of_less_precision_and_bounds_are_not(kind, sound):
    """In float16, alpha^(1/n) of 10,000 agreeing votes is 0.9995 where 0.9993 was proved."""
    alpha, sigma, image = kind(0.001), kind(0.3), torch.ones(1, 2, 2)

    def made(alpha, sigma):
        g = SmoothedClassifier(always(0.0, 1.0, 0.0), sigma, 3, seed=0, sound=sound)
        hard, soft = (g.certify(image, n=10_000, alpha=alpha, kind=kind) for kind in (Hard(), Soft()))
        top, answer = g.certify_top_k(image, 1, n=10_000, alpha=alpha), g.predict(image, alpha=alpha)
        return hard, soft, g.certify(image, 0, 10_000, alpha=alpha), top, answer

    found = made(alpha, sigma)
    assert found == made(float(alpha), float(sigma))
    assert found[0].p_a_lower == float(alpha) ** (1 / 10_000)
    assert {type(each.radius) for each in found[:-1]} == {float}


@pytest.mark.parametrize("number", [np.int16, np.uint16, np.float16, lambda n: torch.tensor(n, dtype=torch.int16)])
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("kind", [Hard(), Soft()], ids=lambda kind: kind.name)
def test_n_may_be_a_number_of_few_bits_and_bounds_are_the_same(number, kind):
    """In int16, 3 (n - 1) of the empirical Bernstein bound overflows, and in float16 alpha^(1/n) can be 1."""

    def made(n0, n):
        g = SmoothedClassifier(always(0.0, 1.0, 0.0), 0.3, 3, seed=0, sound=False)
        top = g.certify_top_k(IMAGE, 1, n0=n0, n=n)
        return g.certify(IMAGE, n0, n, kind=kind), top, g.predict(IMAGE, n), g.predict(IMAGE, n, kind=kind)

    found = made(number(100), number(20_000))
    assert found == made(100, 20_000)
    assert {type(each.n) for each in found[:2]} == {int}


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.certify(IMAGE, n=9), "n = 9 is too small.*at least 10"),
        (lambda g: g.certify(IMAGE, n=36, kind=Soft()), "n = 36 is too small.*at least 37"),
        (lambda g: g.certify(IMAGE, n=0), "n must be at least 1"),
        (lambda g: g.certify(IMAGE, n0=-1), "n0 must be at least 1"),
        (lambda g: g.certify(IMAGE, n0=0, n=10), "n = 10 is too small.*at least 11"),
        (lambda g: g.certify(IMAGE, n0=0, kind=Soft()), "n0 = 0 is for hard certificates with the one-class bound"),
        (lambda g: g.predict(IMAGE, n=0), "n must be at least 1"),
        (lambda g: g(IMAGE, samples=0), "samples must be at least 1"),
        (lambda g: g.certify(IMAGE, alpha=0.0), "alpha"),
        (lambda g: g.certify(IMAGE, alpha=1.0), "alpha"),
        (lambda g: g.predict(IMAGE, alpha=1.5), "alpha"),
        (lambda g: g.certify(IMAGE, kind=Soft(0.0)), "beta must be a positive number"),
        (lambda g: g.certify(IMAGE, kind=Soft(math.nan)), "beta must be a positive number"),
        (lambda g: g.certify(IMAGE * math.nan), "finite"),
        (lambda g: g.predict(IMAGE / 0), "finite"),
        (lambda g: g.certify(255 * IMAGE), r"\[0, 1\].*range from 127.5 to 127.5.*divide.*by 255"),
        (lambda g: g.predict(IMAGE - 1), r"\[0, 1\].*range from -0.5"),
        (lambda g: g.certify(torch.zeros(2, 1, 2, 2) + 2), r"\[0, 1\]"),
        (lambda g: g.certify(torch.zeros(2, 2)), r"channels, height, width.*not \(2, 2\)"),
        (lambda g: g.predict(torch.zeros(1, 1, 1, 2, 2)), "channels, height, width"),
        (lambda g: g.certify(torch.zeros(32, 32, 3)), "looks like .height, width, channels"),
        (lambda g: g.predict(np.zeros((5, 28, 28, 1))), "looks like .height, width, channels"),
        (lambda g: g.predict(torch.zeros(1, 2, 2, dtype=torch.int64)), "torch.int64"),
        (lambda g: g.predict(torch.zeros(2, 1, 2, 2), image_index=[1, 2, 3]), "3 indices for 2 images"),
    ],
)
def test_impossible_requests_are_refused_before_the_network_runs(call, message):
    network = constant()
    with pytest.raises(SettingsError, match=message):
        call(SmoothedClassifier(network, 0.5, 3))
    assert not network.seen


@pytest.mark.parametrize(("x", "kind"), [([IMAGE], "list"), (np.array(["a"]), "array of <U1"), ("a", "str")])
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_array_is_refused(x, kind):
    with pytest.raises(SettingsError, match=f"tensor or an array of numbers, not.*{kind}"):
        SmoothedClassifier(constant(), 0.5).predict(x)


@pytest.mark.usefixtures("unchecked_shapes")
def test_numbers_that_are_not_whole_are_refused():
    """1501 samples would be drawn, and taken for 1500.5; and the noise be that of image 1."""
    g = SmoothedClassifier(constant(), 0.5, 3)
    for ask in (g.certify, g.predict, lambda x, n: g.certify_top_k(x, 1, n=n)):
        with pytest.raises(SettingsError, match=r"n must be a whole number, not 1500\.5"):
            ask(IMAGE, n=1500.5)
    with pytest.raises(SettingsError, match="image_index must be a whole number"):
        g.predict(IMAGE, image_index=1.5)


def test_the_least_n_is_enough():
    smoothed = SmoothedClassifier(constant(), 0.5, 3)
    assert smoothed.certify(IMAGE, 1, 10).predict == 1
    assert smoothed.certify(IMAGE, 1, 37, kind=Soft()).predict == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": -0.5}, "sigma"),
        ({"sigma": math.inf}, "sigma"),
        ({"num_classes": 1}, "at least 2 classes, not 1"),
        ({"batch_size": 99}, "blocks of 100 samples"),
    ],
)
def test_impossible_classifiers_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        SmoothedClassifier(**{"network": constant(), "sigma": 0.5, "num_classes": 3, **arguments})


class Damaged(nn.Module):
    """Certain of class 1 of 3, but for what `damage` does to its logits."""

    def __init__(self, damage) -> None:
        super().__init__()
        self.damage = damage

    def forward(self, x: Tensor) -> Any:
        return self.damage(nn.functional.one_hot(torch.ones(len(x), dtype=torch.int64), 3).float())


def one_bad_sample(value):
    return lambda logits: logits.index_put((torch.tensor(57), torch.tensor(2)), torch.tensor(value))


def fails(logits):
    raise RuntimeError("mat1 and mat2 cannot be multiplied")


def takes_more(logits):
    raise TypeError("missing 1 required positional argument: 'mask'")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_bad_sample(math.nan), "not finite"),
        (one_bad_sample(math.inf), "not finite"),
        (one_bad_sample(-math.inf), "not finite"),
        (lambda z: z[:, :2], r"shape \(200, 2\) for 200 images of 3 classes"),
        (lambda z: z[:-1], r"shape \(199, 3\)"),
        (lambda z: z.unsqueeze(2), r"shape \(200, 3, 1\)"),
        (lambda z: z.sum(1), r"shape \(200,\)"),
        (lambda z: (z, z), "returned a tuple: wrap it"),
        (lambda z: {"scores": z}, "returned a dict"),
        (lambda z: z.long(), "torch.int64"),
        (fails, r"fails on images of shape \(1, 2, 2\): mat1 and mat2"),
        (takes_more, r"fails on images of shape \(1, 2, 2\): missing 1 required positional argument"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda g: g.certify(IMAGE, 200, 1000),
        lambda g: g.certify(IMAGE, 200, kind=Soft()),
        lambda g: g.predict(IMAGE, 200),
    ],
)
def test_outputs_that_are_not_finite_logits_prove_nothing(damage, message, ask):
    with pytest.raises(SettingsError, match=message):
        ask(SmoothedClassifier(Damaged(damage), 0.5, 3))


@pytest.mark.parametrize("damage", [lambda z: z[:, :1], lambda z: z.sum(1)])
def test_a_number_of_classes_is_not_taken_from_an_output_without_classes(damage):
    with pytest.raises(SettingsError, match="at least 2 classes"):
        SmoothedClassifier(Damaged(damage), 0.5).predict(IMAGE)


# ---- whatever images and outputs people have


class Bright(nn.Module):
    """Class 1 where the mean pixel exceeds 0.5: smoothed, that is decided by the image's mean alone."""

    def __init__(self, wrap=lambda logits: logits) -> None:
        super().__init__()
        self.threshold, self.wrap = nn.Parameter(torch.tensor(0.5)), wrap

    def forward(self, x: Tensor) -> Any:
        score = x.mean((1, 2, 3)) - self.threshold
        return self.wrap(torch.stack([-score, score], 1))


BYTES = torch.arange(0, 240, 20).view(3, 1, 2, 2).to(torch.uint8)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.float() / 255,
        lambda x: (x.float() / 255).double(),
        lambda x: x.numpy(),
        lambda x: x.numpy()[:, :, ::-1].copy()[:, :, ::-1],
        lambda x: (x.float() / 255).numpy().astype(np.float64),
        lambda x: (x.float() / 255).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: (x.float() / 255).requires_grad_(),
    ],
)
def test_an_image_is_the_same_in_every_form(convert):
    """Noise and certificates included, for a batch and for each image alone."""
    g = SmoothedClassifier(Bright(), 0.5)
    expected = SmoothedClassifier(Bright(), 0.5).certify(BYTES.float() / 255, 100, 300, 0.05)
    x = convert(BYTES)
    assert g.certify(x, 100, 300, 0.05) == expected
    assert [g.certify(x[place], 100, 300, 0.05, image_index=place) for place in range(3)] == list(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_of_images_or_of_the_network_but_not_of_the_noise(dtype):
    halves = (BYTES.float() / 255).to(dtype)
    certificates = [
        SmoothedClassifier(Bright().to(of_network), 0.5, seed=2).certify(x, 100, 300, 0.05)
        for x, of_network in [(halves, torch.float32), (halves.float(), torch.float32), (halves, dtype)]
    ]
    assert certificates[0] == certificates[1]
    assert np.abs(certificates[0].radius - certificates[2].radius).max() < 0.1
    g = SmoothedClassifier(Bright(), 0.5).to(dtype)
    assert g(halves).dtype == torch.float32


def test_a_double_precision_network_gets_double_precision_noise():
    network = Scripted(lambda call, sample: 1)
    network.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    SmoothedClassifier(network, 0.5).predict(IMAGE, 100)
    assert network.seen[0].dtype == torch.float64


@pytest.mark.parametrize(
    "wrap", [lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z), lambda z: OrderedDict(loss=None, logits=z)]
)
def test_outputs_may_hold_their_logits(wrap):
    plain, wrapped = (SmoothedClassifier(network, 0.5) for network in (Bright(), Bright(wrap)))
    assert wrapped.certify(BYTES, n=100) == plain.certify(BYTES, n=100)
    assert (wrapped.predict(BYTES) == plain.predict(BYTES)).all()
    assert wrapped(BYTES).shape == (3, 2)
    forward, _ = fastest(Bright(wrap).eval(), BYTES / 255)
    wrapped.evaluate_with(forward)
    assert wrapped.certify(BYTES, n=100, image_index=0) == plain.certify(BYTES, n=100, image_index=0)


def test_one_image_gives_one_answer_and_a_batch_one_per_image():
    g = SmoothedClassifier(Bright(), 0.25)
    answer, answers = g.predict(BYTES[2]), g.predict(BYTES)
    assert (type(answer), answers.shape, answers.dtype) == (int, (3,), np.int64)
    assert (answer, answers.tolist()) == (1, [0, 0, 1])
    certificate, certificates = g.certify(BYTES[2], n=1000), g.certify(BYTES, n=1000)
    assert isinstance(certificate, Certificate)
    assert isinstance(certificates, Certificates)
    assert certificates.predict.tolist() == [each.predict for each in certificates]
    assert certificates.radius.tolist() == [each.radius for each in certificates]
    assert isinstance(certificates[1:], Certificates)
    assert len(certificates[1:]) == 2
    frame = certificates.frame()
    assert list(frame.columns) == ["predict", "radius", "p_a_lower", "count", "n", "sound"]
    assert frame.radius.tolist() == certificates.radius.tolist()
    nobody = g.certify(BYTES[:0], n=100)
    assert (len(nobody), len(nobody.frame()), len(g.predict(BYTES[:0]))) == (0, 0, 0)


@pytest.mark.usefixtures("unchecked")
def test_every_image_has_noise_of_its_own():
    """In one batch, from call to call, and again where an index is given."""
    network = constant()
    g = SmoothedClassifier(network, 0.5)
    g.predict(IMAGE.expand(3, 1, 2, 2), 100)
    g.predict(IMAGE, 100)
    g.predict(IMAGE, 100)
    g.predict(IMAGE.expand(2, 1, 2, 2), 100, image_index=[4, 1])
    g.predict(IMAGE.expand(2, 1, 2, 2), 100, image_index=2)
    noise = [batch.flatten().tolist() for batch in network.seen]
    assert len({tuple(each) for each in noise[:5]}) == 5
    assert noise[5:] == [noise[4], noise[1], noise[2], noise[3]]


def test_it_is_a_module():
    g = SmoothedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 0.25)
    assert repr(g) == "SmoothedClassifier(sigma=0.25, num_classes=None, device=cpu, network=Sequential)"
    assert g.eval() is g
    assert not g.network.training
    assert set(g.state_dict()) == {"network.1.weight", "network.1.bias"}
    assert copy.deepcopy(g).predict(IMAGE) == g.predict(IMAGE)
    g.evaluate_with(copy.deepcopy(g.network))
    assert len(list(g.parameters())) == 2
    assert g.double().logits(IMAGE.double().unsqueeze(0)).dtype == torch.float64  # of the network itself
    moved = SmoothedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 0.25).to("meta")
    assert moved.device.type == "meta"
    assert moved.batch_size == 1000
    assert SmoothedClassifier(nn.Flatten(), 0.25).to("meta").device.type == "meta"


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 1, 2, 2)])
def test_calling_it_gives_the_mean_softmax_with_gradients(shape):
    """The score of a half-space by quadrature; its gradient points away from the plane."""
    g = SmoothedClassifier(HalfSpace(), 0.5, any_range=True)
    x = torch.full(shape, 0.6).requires_grad_()
    scores = g(x, samples=20_000, generator=torch.Generator().manual_seed(0))
    assert scores.shape == (*shape[:-3], 2)
    along = np.arange(-10, 10, 0.02)
    w = g.network.w.detach()
    distance = (0.1 * w.sum() / w.norm()).item()
    expected = special.expit(2.0 * (distance + 0.5 * along)) @ stats.norm.pdf(along) * 0.02
    np.testing.assert_allclose(scores[..., 0].detach(), expected, atol=4 * 0.5 / math.sqrt(20_000))
    scores[..., 0].sum().backward()
    direction = x.grad.flatten(-3).reshape(-1, 4)[0]
    torch.testing.assert_close(direction / direction.norm(), w / w.norm())
    assert g.network.w.grad is not None
    assert not torch.equal(g(x), g(x))


def test_calling_it_keeps_the_mode_of_the_network():
    g = SmoothedClassifier(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3)), 0.25)
    g(IMAGE)
    assert int(g.network[0].num_batches_tracked) == 1
    g.eval()(IMAGE)
    assert int(g.network[0].num_batches_tracked) == 1


# ---- the arithmetic of what is certified


@pytest.fixture
def coarse():
    """What a person may have set for speed: TF32 and bfloat16 in place of float32."""
    backends = torch.backends
    places = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before = [place.fp32_precision for place in places]
    torch.set_float32_matmul_precision("medium")
    yield lambda: (
        *(each.fp32_precision for each in places),
        backends.cudnn.allow_tf32,
        torch.is_autocast_enabled("cpu"),
    )
    torch.set_float32_matmul_precision("highest")
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


@pytest.mark.parametrize("ask", ["certify", "predict"])
def test_what_is_certified_is_computed_in_float32(coarse, ask):
    """And what was set before is set again."""
    seen = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((coarse(), torch.get_float32_matmul_precision(), x.dtype))
            return x.flatten(1)

    set_before = coarse()
    assert set_before[0] == "tf32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        getattr(SmoothedClassifier(Looks(), 0.5, 4), ask)(BYTES[0], n=100)
    assert set(seen) == {((*5 * ("ieee",), False, False), "highest", torch.float32)}
    assert coarse() == set_before
    assert torch.get_float32_matmul_precision() == "medium"


def test_where_a_near_tie_is_settled_logits_that_are_not_finite_are_refused():
    """A fast evaluation that is finite, and ties everywhere; the network itself is not."""

    class Infinite(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_full((len(x), 3), float("inf"))

    smoothed = SmoothedClassifier(Infinite(), 0.5, 3)
    smoothed._check_independence = lambda *_: None
    smoothed.evaluate_with(lambda x: x.new_zeros(len(x), 3))
    with pytest.raises(SettingsError, match="not finite"):
        smoothed.certify(IMAGE, 100, 100)


# ---- the prediction of soft certificates


def test_a_soft_prediction_is_the_class_with_the_largest_mean_score():
    """Class 1 has most votes, 60%, by a little each; class 0 has the largest mean score, 0.4 + 0.6 * 0.45."""
    sure, unsure = torch.tensor([1.0, 0.0, 0.0]).log().clamp(min=-50), torch.tensor([0.45, 0.5, 0.05]).log()

    class Votes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where((x.flatten(1)[:, :1] > float(special.ndtri(0.6))), sure, unsure)

    smoothed = SmoothedClassifier(Votes(), 1.0, 3, any_range=True)
    image = torch.zeros(1, 1, 1)
    assert smoothed.predict(image, 1000) == 1
    assert smoothed.predict(image, 1000, kind=Soft(1.0)) == 0
    assert smoothed.certify(image, n=1000, kind=Soft(1.0)).predict == 0
    assert smoothed.predict(image, 20, kind=Soft(1.0)) == -1  # too few to tell


def test_a_soft_prediction_is_wrong_with_probability_at_most_alpha():
    """Two classes with the same mean score: each answer is wrong, 400 times at alpha = 0.2; and a wide lead is seen."""

    class Lead(nn.Module):
        def __init__(self, threshold: float) -> None:
            super().__init__()
            self.threshold = threshold

        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1) > self.threshold
            return torch.cat([first, ~first], 1).float() * 50

    image = torch.zeros(1, 1, 1)
    even, ahead = (SmoothedClassifier(Lead(each), 1.0, 2, any_range=True) for each in (0.0, -1.0))
    answers = [even.predict(image, 200, 0.2, kind=Soft(1.0)) for _ in range(400)]
    assert sum(answer != -1 for answer in answers) <= stats.binom.isf(1e-3, 400, 0.2)
    assert [ahead.predict(image, 200, 0.2, kind=Soft(1.0)) for _ in range(20)] == 20 * [0]
