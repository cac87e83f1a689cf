"""Gaussian noise that is a function of (seed, image index, stage, block) and of nothing else.

Samples come in blocks of BLOCK. A block holds the same numbers in any order, batch, process and device, so that
certificates do not depend on how the work was divided. (The last digits of float noise depend on the device, which
rounds logarithms and cosines in its own way. Grid noise is the same to the last bit.)
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from macer.smoothing.radius import certified_radius
from macer.smoothing.sequential import Question
from macer.smoothing.words import Stage, random_words

BLOCK = 100
"""Noise samples per block. n0 = 100 is one block; the last block of a stage may be used in part."""

LARGEST_FLOAT_NOISE = math.sqrt(62 * math.log(2))
"""The largest value of float noise, in standard deviations: 6.56. One Gaussian value in 2 * 10^10 is larger."""


def uniform_of_bound(seed: int, image_index: int) -> float:
    """Return the number that randomises an image's bound, uniform on {1, 2, ..., 2^53} / 2^53.

    A randomised bound holds if this number is independent of the votes, so of the noise that selects and estimates, and
    of the network. No noise shares a counter of Philox with it. The network is independent of it as of all noise: it
    was made without knowing the seed. The same seed gives the same number, so that certificates can be made and checked
    again; nobody may draw seeds until it suits. No value is less likely to be exceeded than under the continuous
    uniform distribution, so that bounds fail no more often.

    Raises:
        SettingsError: seed or image index is negative or too large.
    """
    word = int(random_words(seed, image_index, Stage.BOUND, 0, 1, torch.device("cpu")).take(1))
    return ((word & (2**53 - 1)) + 1) / 2**53


@runtime_checkable
class Noise(Protocol):
    """Noise of one sigma and seed, and the radii that it proves.

    Attributes:
        sound: whether what it proves also holds in floating-point arithmetic.
    """

    sound: bool

    def check(self, image: Float[Tensor, "channels height width"]) -> None:
        """Refuse an image to which this noise cannot be added. Not part of `blocks`: on a GPU it waits for the device.

        Raises:
            SettingsError: a pixel is not one that this noise is for.
        """
        ...

    def blocks(
        self,
        image: Float[Tensor, "channels height width"],
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
    ) -> Float[Tensor, "samples channels height width"]:
        """Return noisy copies of `image` for blocks first .. first + count - 1: count * BLOCK samples on its device.

        Raises:
            SettingsError: seed, image index or block is negative or too large.
        """
        ...

    def radius(self, p_a_lower: float, p_b_upper: float | None, shape: Sequence[int]) -> float:
        """Return the certified radius of an image of this shape in [0, 1] pixel units; 0 where nothing is certified."""
        ...

    def sharpened(self, question: Question, shape: Sequence[int]) -> Question:
        """Return the question whose "yes", with this noise, proves what a "yes" to `question` promises."""
        ...


class NoiseSource:
    """Blocks of noise N(0, sigma^2 I). Certificates from them take the noise for exactly Gaussian and sums for exact.

    Args:
        sigma: standard deviation in [0, 1] pixel units.
        seed: the seed from which all noise follows.
    """

    sound = False

    def __init__(self, sigma: float, seed: int) -> None:
        self.sigma = sigma
        self.seed = seed

    def check(self, image: Float[Tensor, "channels height width"]) -> None:
        pass

    def blocks(
        self,
        image: Float[Tensor, "channels height width"],
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
    ) -> Float[Tensor, "samples channels height width"]:
        words = random_words(self.seed, image_index, stage, first, count, image.device)
        noise = standard_normal(words.take(BLOCK * image.numel() // 2)).to(image.dtype)
        return noise.mul_(self.sigma).view(-1, *image.shape).add_(image)

    def radius(self, p_a_lower: float, p_b_upper: float | None, shape: Sequence[int]) -> float:
        return certified_radius(p_a_lower, self.sigma, p_b_upper)

    def sharpened(self, question: Question, shape: Sequence[int]) -> Question:
        return question


def standard_normal(words: Int64[Tensor, "blocks words"]) -> Float32[Tensor, "blocks 2*words"]:
    """Return two standard normal values per random word, by the transform of Box and Muller (1958) in float32.

    One half of the 32-bit integers, made odd, gives a uniform number in (0, 1], the other half an angle.
    """
    first, second = words.view(torch.int32).chunk(2, dim=1)
    radius = first.bitwise_or(1).float().abs_().mul_(2**-31).log_().mul_(-2).sqrt_()
    angle = second.float().mul_(math.pi * 2**-31)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
