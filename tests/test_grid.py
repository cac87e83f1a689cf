"""Noise on the grid of 8-bit images: its distribution to the last bit, and certificates that rounding cannot break.

Statistical tests have fixed seeds and fail correct code with probability 1e-3 each (chosen before looking).
"""

import bisect
import math
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

import jaxtyping
import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from macer.certification import prepare
from macer.data.own import own_images
from macer.pretrained.find import find_network
from macer.smoothing import Hard, SmoothedClassifier, Soft
from macer.smoothing.bounds import clopper_pearson_lower
from macer.smoothing.grid import (
    LARGEST_SIGMA,
    GridNoiseSource,
    RoundedGaussian,
    discretisation_gap,
    gaussian_thresholds,
    grid_levels,
    largest_noise,
)
from macer.smoothing.kinds import HardTwoClass
from macer.smoothing.noise import BLOCK
from macer.smoothing.radius import certified_radius
from macer.smoothing.words import Stage, Words, random_words

ERROR_RATE = 1e-3
SIGMAS = [1 / 255, 0.01, 0.25, 0.5]


def image_of(*levels: int) -> Tensor:
    """One row of grey levels, as the data sets make images of bytes."""
    return torch.tensor(levels, dtype=torch.uint8).view(1, 1, -1).float().div(255)


def mass(low: float, high: float, sigma: float) -> mpmath.mpf:
    """P(low < Z < high) for Z ~ N(0, (255 sigma)^2), to 60 digits."""
    with mpmath.workdps(60):
        scale = mpmath.sqrt(2) * 255 * mpmath.mpf(sigma)
        return (mpmath.erfc(low / scale) - mpmath.erfc(high / scale)) / 2


def exact(number: mpmath.mpf) -> Fraction:
    sign, mantissa, exponent, _ = number._mpf_
    return (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** exponent


@cache
def thresholds_at(sigma: float) -> list[int]:
    return gaussian_thresholds(sigma)


@cache
def noise_at(sigma: float) -> RoundedGaussian:
    return RoundedGaussian(sigma, torch.device("cpu"))


def words_of(seed: int) -> Words:
    return random_words(seed, 0, Stage.ESTIMATION, 0, 1, torch.device("cpu"))


@cache
def exact_probabilities(sigma: float) -> list[Fraction]:
    """P(t = j) for j = -m .. m."""
    largest = largest_noise(sigma)
    return [exact(mass(j - 0.5, j + 0.5, sigma)) for j in range(-largest, largest + 1)]


def sampled_probabilities(sigma: float) -> list[Fraction]:
    """The same of the values that the sampler makes of 2^64 equally likely integers."""
    edges = [0, *thresholds_at(sigma), 2**64]
    return [Fraction(right - left, 2**64) for left, right in pairwise(edges)]


def probabilities(sigma: float) -> np.ndarray:
    return np.array([float(p) for p in sampled_probabilities(sigma)])


# ---- the distribution


@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_value_has_its_probability_to_the_last_bit(sigma):
    sampled = sampled_probabilities(sigma)
    wanted = exact_probabilities(sigma)
    assert all(p >= 0 for p in sampled)
    assert sum(sampled) == 1
    assert max(abs(p - q) for p, q in zip(sampled, wanted, strict=True)) < Fraction(1, 2**63)


def test_probabilities_are_those_of_tables():
    """Origin: the standard normal has 0.3829249225 within 1/2 of its mean and 0.2417303375 from 1/2 to 3/2."""
    middle = largest_noise(1 / 255)
    values = probabilities(1 / 255)
    assert values[middle - 1 : middle + 2] == pytest.approx([0.2417303375, 0.3829249225, 0.2417303375], abs=1e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gap_bounds_the_total_variation_distance(sigma):
    """Of one pixel, exactly; and by no more than a factor of ten, so that it is no empty bound."""
    pairs = zip(sampled_probabilities(sigma), exact_probabilities(sigma), strict=True)
    beyond = exact(2 * mass(largest_noise(sigma) + 0.5, math.inf, sigma))
    distance = (sum(abs(p - q) for p, q in pairs) + beyond) / 2
    assert distance <= discretisation_gap((1, 1, 1), sigma) <= 10 * distance
    assert beyond < Fraction(2, 2**64)


def test_the_gap_grows_with_the_image_and_is_pinned():
    """Origin: m = ceil(9.2 * 63.75 - 0.5) = 586 and 3,072 pixels."""
    assert discretisation_gap((3, 32, 32), 0.25) == 3072 * (2 * 586 + 2) / 2**64
    assert discretisation_gap((3, 32, 32), 0.25) == pytest.approx(1.96e-13, rel=0.01)
    assert discretisation_gap((3, 224, 224), 0.25) == 49 * discretisation_gap((3, 32, 32), 0.25)
    assert discretisation_gap((3, 224, 224), LARGEST_SIGMA) < 1e-9


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_draws_have_the_distribution(sigma):
    count = 300_001  # not a multiple of the four values that come from one word
    (drawn,) = noise_at(sigma).draw(words_of(3), count)
    largest, expected = largest_noise(sigma), count * probabilities(sigma)
    observed = np.bincount(drawn.long().numpy() + largest, minlength=2 * largest + 1)
    enough = expected >= 10
    observed = np.append(observed[enough], observed[~enough].sum())
    expected = np.append(expected[enough], expected[~enough].sum())
    assert stats.chisquare(observed, expected).pvalue > ERROR_RATE


def test_values_from_one_word_and_its_neighbours_are_independent():
    drawn = noise_at(0.25).draw(words_of(4), 400_000)[0].double()
    for values in (drawn, drawn**2):
        for lag in (1, 2, 3, 4, 5, 8):
            r = torch.corrcoef(torch.stack([values[lag:], values[:-lag]]))[0, 1]
            assert abs(float(r)) * math.sqrt(len(values) - lag) < stats.norm.isf(ERROR_RATE / 2)


# ---- the two ways to draw


def decided_one_by_one(bits: list[int], sigma: float) -> list[int]:
    """Literally: u, from 0 to 2^64 - 1, stands for the lowest value plus one for each threshold not above it."""
    thresholds, largest = thresholds_at(sigma), largest_noise(sigma)
    return [bisect.bisect_right(thresholds, u) - largest for u in bits]


@pytest.mark.parametrize("sigma", [1e-4, *SIGMAS])
def test_thresholds_are_kept_to_the_bit(sigma):
    """At each threshold and right below it, at the ends of the range, and at the ends of cells of 16 bits."""
    thresholds = thresholds_at(sigma)
    cells = [cell << 48 for cell in range(0, 2**16, 251)]
    bits = [u for edge in [*thresholds, *cells, 2**64] for u in (edge - 1, edge) if 0 <= u < 2**64]
    values = noise_at(sigma).decide(torch.tensor([u - 2**63 for u in bits]))
    assert values.tolist() == decided_one_by_one(bits, sigma)


@pytest.mark.parametrize("sigma", [1e-4, *SIGMAS])
def test_the_table_holds_what_16_bits_decide_and_nothing_else(sigma):
    """The cells without a threshold past their first integer, each with the value of its first and last integer."""
    undecided = {threshold >> 48 for threshold in thresholds_at(sigma) if threshold % 2**48}
    first = decided_one_by_one([cell << 48 for cell in range(2**16)], sigma)
    wanted = [math.nan if cell in undecided else float(first[cell]) for cell in range(2**16)]
    torch.testing.assert_close(noise_at(sigma).table, torch.tensor(wanted), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("sigma", [1e-4, *SIGMAS])
@pytest.mark.parametrize("count", [1, 4, 4001])
def test_drawing_by_table_is_drawing_64_bits(sigma, count):
    """The same words read again as plain integers: 16 bits a value, and 48 for each value these leave open."""
    words = words_of(count)
    high = (np.frombuffer(words.take(-(-count // 4)).numpy().tobytes(), "<i2")[:count].astype(int) + 2**15).tolist()
    open_cells = {threshold >> 48 for threshold in thresholds_at(sigma) if threshold % 2**48}
    places = [place for place in range(count) if high[place] in open_cells]
    low = dict(zip(places, (words.take(len(places))[0] % 2**48).tolist(), strict=True))
    whatever = np.random.default_rng(0).integers(0, 2**48, count).tolist()
    bits = [(high[place] << 48) + low.get(place, whatever[place]) for place in range(count)]
    noise = noise_at(sigma)
    (drawn,) = noise.draw(words_of(count), count)
    assert drawn.tolist() == decided_one_by_one(bits, sigma)
    assert torch.equal(drawn, noise.decide(torch.tensor([u - 2**63 for u in bits])))
    if sigma > 0.005 and count > 1000:
        assert places


def test_a_noise_finer_than_the_grid_is_no_noise():
    """At sigma 1e-4 half a grey level is 19 standard deviations."""
    source = GridNoiseSource(1e-4, 0)
    image = image_of(0, 100, 255)
    assert torch.equal(source.blocks(image, 0, Stage.ESTIMATION, 0, 3), image.expand(3 * BLOCK, -1, -1, -1))


# ---- blocks


ALL_LEVELS = image_of(*range(256)).view(1, 16, 16)


def integers(noisy: Tensor) -> Tensor:
    """k + t: what the noisy pixels are multiples of 1/255 by."""
    return (noisy.double() * 255).round()


def test_noisy_pixels_are_functions_of_an_integer_and_the_pixel_itself_without_noise():
    noisy = GridNoiseSource(0.25, 0).blocks(ALL_LEVELS, 0, Stage.ESTIMATION, 0, 4)
    assert noisy.dtype == torch.float32
    assert torch.equal(noisy, integers(noisy).float().div(255))
    unmoved = integers(noisy) == grid_levels(ALL_LEVELS)
    assert 0.003 < unmoved.float().mean() < 0.01  # P(t = 0) = 0.0063
    assert torch.equal(noisy[unmoved], ALL_LEVELS.expand_as(noisy)[unmoved])


def test_another_image_gets_exactly_the_shifted_noise():
    source = GridNoiseSource(0.5, 9)
    noise = [
        integers(source.blocks(image, 2, Stage.ESTIMATION, 5, 2)) - grid_levels(image)
        for image in (ALL_LEVELS, ALL_LEVELS.flip(1, 2), torch.zeros(1, 16, 16))
    ]
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])
    assert noise[0].std() == pytest.approx(127.5, rel=0.02)


def test_noise_is_pinned():
    """Certificates of one version are those of the next. Origin: this code on NumPy 2.4, CPU."""
    noisy = GridNoiseSource(0.25, 0).blocks(torch.zeros(1, 2, 3), 0, Stage.ESTIMATION, 0, 1)
    assert integers(noisy[0]).flatten().tolist() == [97, -56, 74, -68, -9, -107]


@pytest.mark.parametrize("divide", [lambda k: k / 255, lambda k: k * (1 / 255), lambda k: (k.double() / 255).float()])
def test_every_way_to_divide_by_255_is_on_the_grid(divide):
    levels = torch.arange(256.0).view(1, 16, 16)
    assert torch.equal(grid_levels(divide(levels)), levels)
    noisy = GridNoiseSource(0.01, 0).blocks(divide(levels), 0, Stage.ESTIMATION, 0, 1)
    assert torch.equal(noisy, GridNoiseSource(0.01, 0).blocks(ALL_LEVELS, 0, Stage.ESTIMATION, 0, 1))


# ---- the radius


def test_the_correction_is_small_and_never_in_our_favour():
    delta = discretisation_gap((3, 32, 32), 0.25)
    for p in np.linspace(0.51, 0.99993, 30):
        plain, sound = certified_radius(p, 0.25), certified_radius(p, 0.25, gap=delta)
        assert plain - 1e-9 < sound < plain


@pytest.mark.parametrize("p", [0.0, 0.5, 0.5 + 2e-12])
def test_nothing_is_certified_without_a_majority_beyond_the_gap(p):
    assert certified_radius(p, 0.25, gap=1e-12) == 0
    assert certified_radius(0.5 + 3e-12, 0.25, gap=1e-12) > 0


# ---- what is certified is true


class DetectsRounding(nn.Module):
    """Class 0 where every pixel is a multiple of 2^-24, else class 1.

    1 + noise in float32 always is: between 1/2 and 2 the sum is rounded to such a multiple, and a sum below 1/2 comes
    from noise beyond -1/2, which is one itself. Of 254/255 + noise, sums below 1/2 come from noise above -1/2 as
    well, half of which is not.
    """

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.flatten(1) * 2**24  # exact
        inside = (scaled == scaled.round()).all(1)
        return torch.stack([inside, ~inside], 1).float()


def test_rounding_breaks_certificates_of_float_noise_but_not_ours():
    """Voracek and Hein 2023 (arXiv 2207.07209): a network that tells images apart by how their noise was rounded."""
    x, nearby = torch.ones(3, 32, 32), torch.full((3, 32, 32), 254.0).div(255)
    distance = float((x - nearby).norm())
    assert distance < 0.218

    plain = SmoothedClassifier(DetectsRounding(), 0.25, 2, batch_size=1000, sound=False)
    certificate = plain.certify(x, n=10_000)
    assert (certificate.predict, round(certificate.radius, 2)) == (0, 0.8)
    assert plain.predict(nearby) == 1  # within the radius, and wrong with probability at most 0.001

    sound = SmoothedClassifier(DetectsRounding(), 0.25, 2, batch_size=1000)
    certificate = sound.certify(x, n=2000)
    assert certificate.radius > distance
    assert sound.predict(nearby) == certificate.predict


def detected(levels: np.ndarray) -> np.ndarray:
    """On which integers k + t the network above answers 0, for images of one pixel."""
    pixels = torch.from_numpy(levels).float().div(255).view(-1, 1, 1, 1)
    return DetectsRounding()(pixels).argmax(1).numpy() == 0


def random_set(levels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(len(levels)).random(len(levels)) < 0.6


def half_line(levels: np.ndarray) -> np.ndarray:
    return levels <= 40


def even(levels: np.ndarray) -> np.ndarray:
    return levels % 2 == 0


@pytest.mark.parametrize("sigma", [0.004, 0.01, 0.25])
@pytest.mark.parametrize("chosen", [detected, random_set, half_line, even])
def test_no_function_of_the_integers_changes_faster_than_the_radius_says(sigma, chosen):
    """Phi^-1 P(k + t in S) changes by at most 1/(255 sigma) a level, by exact sums; on a half-line by just as much."""
    largest, p = largest_noise(sigma), probabilities(sigma)
    levels = np.arange(-largest, 255 + largest + 1)
    inside = chosen(levels)
    at = np.array([p @ inside[k : k + 2 * largest + 1] for k in range(256)])
    k = np.flatnonzero((at > 1e-6) & (at < 1 - 1e-6))
    assert len(k) >= 8
    score = special.ndtri(at[k])
    change = np.abs(score[:, None] - score[None, :])
    allowed = np.abs(k[:, None] - k[None, :]) / (255 * sigma)
    assert (change <= allowed + 1e-9).all()
    if chosen is half_line:
        assert score == pytest.approx((40.5 - k) / (255 * sigma), abs=1e-9)


class Linear(nn.Module):
    """Class 0 where w . (k + t) <= bound for the integers that the pixels are, else class 1."""

    def __init__(self, w: list[int], bound: int) -> None:
        super().__init__()
        self.w, self.bound = torch.tensor(w).double(), bound

    def forward(self, x: Tensor) -> Tensor:
        inside = (x.flatten(1).double() * 255).round() @ self.w <= self.bound
        return torch.stack([inside, ~inside], 1).float()


W = [2, -1, 2]
START = (120, 130, 140)


@pytest.fixture(scope="module")
def linear_noise():
    """The distribution function of w . t at sigma 0.02, exactly by convolution: value -> P(w . t <= value)."""
    sigma = 0.02
    largest, p = largest_noise(sigma), probabilities(sigma)
    total = np.ones(1)
    for weight in W:
        spread = np.zeros(2 * largest * abs(weight) + 1)
        spread[:: abs(weight)] = p
        total = np.convolve(total, spread)
    centre = len(total) // 2
    return sigma, lambda value: float(total[: centre + value + 1].sum())


def nearest_other(sigma, distribution, margin) -> float:
    """Distance, in [0, 1] units, to the nearest 8-bit image at which class 0 has no majority."""
    steps = np.array(list(product(range(-25, 26), repeat=3)))
    lengths = np.linalg.norm(steps, axis=1)
    shifts = steps @ np.array(W)
    for place in np.argsort(lengths, kind="stable"):
        if distribution(margin - int(shifts[place])) <= 0.5:
            return lengths[place] / 255
    raise AssertionError("the search is too narrow")


MARGINS = range(10, 40, 5)


def test_radii_from_known_probabilities_never_reach_another_answer(linear_noise):
    """Nor are they needlessly small: the nearest image of another class is less than a grey level further."""
    sigma, distribution = linear_noise
    for margin in MARGINS:
        radius = certified_radius(distribution(margin), sigma, gap=discretisation_gap((1, 1, 3), sigma))
        nearest = nearest_other(sigma, distribution, margin)
        assert nearest - 1 / 255 < radius < nearest


def test_certificates_of_a_linear_classifier_fail_as_often_as_alpha_allows_and_no_less(linear_noise):
    """300 certificates at alpha = 0.05. One fails where its radius exceeds that of the known probability.

    How often that happens follows from the binomial distribution of the votes, so noise of any other distribution,
    and radii too large or needlessly small, show.
    """
    sigma, distribution = linear_noise
    n, alpha, x = 300, 0.05, image_of(*START)
    surprise = variance = 0.0
    lower = np.array([clopper_pearson_lower(count, n, alpha) for count in range(n + 1)])
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for margin in MARGINS:
            network = Linear(W, int(np.dot(W, START)) + margin)
            smoothed = SmoothedClassifier(network, sigma, 2, batch_size=n, sound=True)
            p_a = distribution(margin)
            truth = certified_radius(p_a, sigma, gap=discretisation_gap(x.shape, sigma))
            failing = float(stats.binom.pmf(np.flatnonzero(lower > p_a), n, p_a).sum())
            assert failing <= alpha
            for index in range(100):
                certificate = smoothed.certify(x, 100, n, alpha, image_index=1000 * margin + index)
                assert certificate.predict == 0
                surprise += (certificate.radius > truth) - failing
                variance += failing * (1 - failing)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert abs(surprise) < stats.norm.isf(ERROR_RATE / 2) * math.sqrt(variance)


# ---- the bound on the second class


class Ends(nn.Module):
    """Of an image of one pixel: class 0 up to one integer, class 1 from another on, classes 2 and 3 between them."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        level = (x.flatten().double() * 255).round()
        between = torch.where(level % 2 == 0, 2, 3)
        answer = torch.where(level <= self.low, 0, torch.where(level >= self.high, 1, between))
        return nn.functional.one_hot(answer.long(), 4).float()


ENDS = [(100, 130), (100, 112), (118, 135)]
"""At level 100 and sigma 0.1, 25.5 levels, class 0 has 51% or 77%, and class 1 between 9% and 33%."""


def shares(low: int, high: int, level: int, sigma: float) -> tuple[float, float]:
    """P(class 0) and P(class 1) at a level under the noise that is drawn, by exact sums."""
    largest, p = largest_noise(sigma), probabilities(sigma)
    noisy = np.arange(level - largest, level + largest + 1)
    return float(p[noisy <= low].sum()), float(p[noisy >= high].sum())


@pytest.mark.parametrize("sigma", [0.02, 0.1])
@pytest.mark.parametrize("low", range(90, 120, 3))
@pytest.mark.parametrize("gap", [1, 8, 30])
def test_a_second_bound_reaches_no_image_where_the_second_class_wins(sigma, low, gap):
    """Two half-lines are the worst case of theorem 1: the next level that class 1 wins is just beyond the radius."""
    level, high = 100, low + gap
    p_a, p_b = shares(low, high, level, sigma)
    radius = certified_radius(p_a, sigma, p_b, discretisation_gap((1, 1, 1), sigma))
    steps = range(1, 120)
    lost = next(step for step in [0, *steps] if np.subtract(*shares(low, high, level + step, sigma)) <= 0)
    assert radius <= lost / 255
    assert radius > (lost - 1) / 255 - 1e-9 or p_b < 1e-9  # where the gap counts


def test_two_class_certificates_fail_no_more_often_than_alpha():
    """600 certificates at alpha = 0.05, of which a third has less than 60%. One fails that reaches the other class."""
    sigma, level, n, alpha, failed, certified = 0.1, 100, 300, 0.05, 0, 0
    x = image_of(level)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for low, high in ENDS:
            smoothed = SmoothedClassifier(Ends(low, high), sigma, 4, batch_size=n)
            lost = next(step for step in range(120) if np.subtract(*shares(low, high, level + step, sigma)) <= 0)
            for index in range(100):
                made = smoothed.certify(x, 100, n, alpha, kind=HardTwoClass(), image_index=index)
                assert made.sound
                certified += made.predict == 0
                failed += made.predict > 0 or made.radius > lost / 255
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert certified > 150
    assert failed <= stats.binom.isf(ERROR_RATE, 300, alpha)


# ---- sound wherever it is possible


def on_and_off() -> tuple[Tensor, Tensor]:
    return image_of(0, 100, 255), torch.full((1, 1, 3), 0.123)


@pytest.mark.parametrize(
    ("options", "sound"),
    [({}, True), ({"sound": False}, False), ({"any_range": True}, False), ({"sigma": 11.0}, False)],
)
@pytest.mark.parametrize("kind", [Hard(), HardTwoClass(), Soft()], ids=lambda kind: type(kind).__name__)
def test_an_8_bit_image_is_certified_soundly_unless_it_cannot_or_shall_not(options, sound, kind):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 4))
    smoothed = SmoothedClassifier(network, **{"sigma": 0.25, **options})
    bytes_, floats = on_and_off()
    assert smoothed.certify(bytes_, n=100, kind=kind).sound is sound
    assert smoothed.certify(bytes_.mul(255).byte(), n=100, kind=kind).sound is sound
    assert smoothed.certify(floats, n=100, kind=kind).sound is False
    assert [each.sound for each in smoothed.certify(torch.stack([bytes_, floats]), n=100)] == [sound, False]


def test_prediction_draws_the_noise_of_certification():
    """Otherwise it would be another function that is certified: integers are seen, or not."""
    seen = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(bool(((x.double() * 255).round() / 255 - x).abs().max() < 1e-6))
            return x.flatten(1)

    smoothed = SmoothedClassifier(Looks(), 0.25)
    for image in on_and_off():
        smoothed.predict(image, 100)
    assert seen[0] is True
    assert seen[-1] is False


@pytest.mark.parametrize("sound", [None, False, True])
def test_own_images_are_sound_where_all_are_8_bit_and_noted_otherwise(sound):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 4))
    bytes_, floats = on_and_off()
    labels, options = torch.tensor([0, 1]), {"sigma": 0.25, **({} if sound is None else {"sound": sound})}
    found = find_network(None, network)

    def plan(*images):
        return prepare(found, chosen=options, images=own_images((torch.stack(images), labels), "test", num_classes=4))

    assert plan(bytes_, bytes_).settings.sound is (sound is not False)
    assert plan(bytes_, floats).settings.sound is (sound is True)
    noted = [note for note in plan(bytes_, floats).notes if "multiples of 1/255 (images that are rounded to" in note]
    assert len(noted) == (sound is None)
    assert not plan(bytes_, bytes_).notes
