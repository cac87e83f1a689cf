"""Gaussian noise in whole grey levels of an 8-bit image, exact to 64 bits, and the radius it proves.

A certificate from float noise takes rounded numbers for real ones, and can be wrong (Voracek and Hein, ICLR 2023,
arXiv 2207.07209). Here an image is integers k, its pixels k/255. The noise is t = round(Z) with
Z ~ N(0, (255 sigma)^2), drawn by comparing random integers with thresholds, and the network sees (k + t)/255, a
function of the integer k + t alone. As k + t = round(k + Z), rounding has become part of the network, which is smoothed
with real Gaussian noise: Cohen's theorem holds. What remains is that 64 random bits do not hit every probability
exactly, and that error is bounded. docs/sound.md has the derivation.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import mpmath
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing.images import LEVELS, from_levels
from macer.smoothing.noise import BLOCK
from macer.smoothing.radius import certified_radius, check_sigma
from macer.smoothing.sequential import Question, RadiusAtLeast
from macer.smoothing.words import Stage, Words, random_words

LARGEST_SIGMA = 10.0
"""Each threshold is computed to 40 digits. At this sigma, too large for pixels in [0, 1], that takes some seconds."""

DIGITS = 40
"""Decimal digits of the arithmetic for thresholds. 2^64 has 20."""

TAIL = 9.2
"""Thresholds reach this many standard deviations: the mass beyond, 1.8e-20 per side, is less than 2^-64."""


def largest_noise(sigma: float) -> int:
    """Return the largest number m of grey levels in the noise: the least m with m + 1/2 >= TAIL standard deviations.

    Raises:
        SettingsError: sigma is not positive or larger than LARGEST_SIGMA.
    """
    check_sigma(sigma)
    if sigma > LARGEST_SIGMA:
        raise SettingsError(f"sound certificates take a sigma of at most {LARGEST_SIGMA:g}, not {sigma:g}")
    return math.ceil(TAIL * LEVELS * sigma - 0.5)


def gaussian_thresholds(sigma: float) -> list[int]:
    """Return floor(2^64 P(t <= j)) for j = -m .. m - 1, where t = round(Z), Z ~ N(0, (255 sigma)^2), m = largest_noise.

    P(t <= j) = Phi((j + 1/2) / (255 sigma)). A uniform 64-bit integer u stands for t = j where it lies from the
    threshold of j - 1, inclusive, to that of j. Both halves come from the lower tail, where no digits are lost.

    Raises:
        SettingsError: sigma is not positive or larger than LARGEST_SIGMA.
    """
    largest = largest_noise(sigma)
    with mpmath.workdps(DIGITS):
        deviation = LEVELS * mpmath.mpf(sigma)
        lower = [2**64 * mpmath.ncdf((j + mpmath.mpf(0.5)) / deviation) for j in range(-largest, 0)]
        return [int(mpmath.floor(mass)) for mass in [*lower, *(2**64 - mass for mass in reversed(lower))]]


def discretisation_gap(shape: Sequence[int], sigma: float) -> float:
    """Return delta: a bound on how likely sampled noise differs from exact noise made of the same randomness.

    The real uniform variable U whose first 64 bits are the integer u falls between a threshold and its exact value
    with probability below 2^-64, and beyond all thresholds of a side with probability below 2^-64. There are
    2 m thresholds, two sides, and as many pixels as the product of `shape`. So no event, and no mean of a score in
    [0, 1], differs by more than delta = pixels (2 m + 2) / 2^64 between the two noises.

    Args:
        shape: of the image; the noise is independent in every pixel and channel.
        sigma: standard deviation of the noise, in [0, 1] pixel units.

    Raises:
        SettingsError: sigma is not positive or larger than LARGEST_SIGMA.
    """
    return math.prod(shape) * (2 * largest_noise(sigma) + 2) / 2**64


def grid_levels(image: Float[Tensor, "channels height width"]) -> Float32[Tensor, "channels height width"]:
    """Return the grey levels k = 0 .. 255 of an image with pixels k/255, however a float32 division rounded them."""
    return (image.double() * LEVELS).round().float()


def on_grid(image: Float[Tensor, "*batch channels height width"]) -> bool:
    """Return whether every pixel of an image is k/255 with k = 0 .. 255, as far as float32 can tell.

    Two roundings of a float32 near 1 move a level by at most 3 * 255 / 2^24 < 2^-14.
    """
    scaled = image.double() * LEVELS
    levels = scaled.round()
    return bool((((scaled - levels).abs() < 2**-14) & (levels >= 0) & (levels <= LEVELS)).all())


class RoundedGaussian:
    """t = round(Z), Z ~ N(0, (255 sigma)^2), from 64 uniformly random bits per value, on one device.

    A 64-bit integer is held as int64, less 2^63, which keeps the order.

    Nearly all values are decided by their first 16 bits, looked up in a table. The other 48 bits are drawn only where a
    threshold lies among the integers that begin with these 16 (one value in 70 at sigma 0.5).

    Args:
        sigma: standard deviation in [0, 1] pixel units.
        device: the device on which values are drawn.

    Raises:
        SettingsError: sigma is not positive or larger than LARGEST_SIGMA.
    """

    def __init__(self, sigma: float, device: torch.device) -> None:
        self.lowest = -largest_noise(sigma)
        thresholds = [threshold - 2**63 for threshold in gaussian_thresholds(sigma)]
        self.thresholds = torch.tensor(thresholds, dtype=torch.int64, device=device)
        first_bits = torch.arange(-(2**15), 2**15, device=device) << 48
        least, most = self.decide(first_bits), self.decide(first_bits + (2**48 - 1))
        self.table = torch.where(least == most, least, math.nan)

    def decide(self, bits: Int64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """Return the value of each 64-bit integer: the lowest one, plus 1 for each threshold not above the integer."""
        return torch.searchsorted(self.thresholds, bits, right=True).float() + self.lowest

    def draw(self, words: Words, count: int) -> Float32[Tensor, "blocks {count}"]:
        """Return `count` independent values per block, from 16 bits each and, where these do not decide, 48 more."""
        first_bits = words.take(math.ceil(count / 4)).view(torch.int16)[:, :count].flatten()
        values = self.table.index_select(0, first_bits.int().add_(2**15))
        undecided = _undecided(values)
        last_bits = words.take_for(undecided // count) & (2**48 - 1)
        values[undecided] = self.decide((first_bits[undecided].long() << 48) + last_bits)
        return values.view(-1, count)


def _undecided(values: Float32[Tensor, " values"]) -> Int64[Tensor, " places"]:
    """Return where values are NaN. On a CPU, NumPy finds that in a tenth of the time; on a GPU this waits."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(np.isnan(values.numpy())))
    return values.isnan().nonzero().squeeze(1)


@lru_cache(maxsize=8)
def rounded_gaussian(sigma: float, device: torch.device) -> RoundedGaussian:
    """Return the noise of a sigma on a device. It is kept, because the thresholds take some tenths of a second."""
    return RoundedGaussian(sigma, device)


class GridNoiseSource:
    """Blocks of noisy 8-bit images whose certificates hold in floating point; in place of `noise.NoiseSource`.

    A noisy pixel is the float32 (k + t)/255, divided as the data sets divide theirs: a function of the integer
    k + t alone, and the image's own pixel where t = 0. Values outside [0, 1] are left as they are.

    Args:
        sigma: standard deviation in [0, 1] pixel units.
        seed: the seed from which all noise follows.

    Raises:
        SettingsError: sigma is not positive or larger than LARGEST_SIGMA.
    """

    sound = True

    def __init__(self, sigma: float, seed: int) -> None:
        largest_noise(sigma)
        self.sigma = sigma
        self.seed = seed

    def check(self, image: Float[Tensor, "channels height width"]) -> None:
        if not on_grid(image):
            raise SettingsError(
                "a sound certificate is for an 8-bit image: every pixel must be k/255 with k = 0 .. 255"
            )

    def blocks(
        self,
        image: Float[Tensor, "channels height width"],
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
    ) -> Float[Tensor, "samples channels height width"]:
        words = random_words(self.seed, image_index, stage, first, count, image.device)
        noise = rounded_gaussian(self.sigma, image.device).draw(words, BLOCK * image.numel())
        noisy = noise.view(-1, *image.shape).add_(grid_levels(image))
        return from_levels(noisy).to(image.dtype)

    def radius(self, p_a_lower: float, p_b_upper: float | None, shape: Sequence[int]) -> float:
        return certified_radius(p_a_lower, self.sigma, p_b_upper, discretisation_gap(shape, self.sigma))

    def sharpened(self, question: Question, shape: Sequence[int]) -> Question:
        # A radius that is larger by so little that its "yes" gives a sound radius of at least the one asked about.
        if not isinstance(question, RadiusAtLeast):
            return question  # RadiusWithin spares more than is lost here
        larger, step = question, 1e-9 * question.radius
        while self.radius(larger.probability(self.sigma), None, shape) < question.radius:
            larger, step = RadiusAtLeast(larger.radius + step), 2 * step
        return larger
