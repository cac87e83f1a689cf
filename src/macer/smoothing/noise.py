"""Gaussian noise that is a function of (seed, image index, stage, block) and of nothing else.

Samples come in blocks of BLOCK. A block holds the same numbers in any order, batch or process, so that certificates do
not depend on how the work was divided. (They do depend on the device: all CPUs draw the same noise, and each model of
GPU its own.)
"""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing.radius import certified_radius
from macer.smoothing.sequential import Question

BLOCK = 100
"""Noise samples per block. n0 = 100 is one block; the last block of a stage may be used in part."""

SCHEME = 2
"""The version of `random_words`, which is recorded with certificates. Version 1 hashed its arguments into a seed of
PyTorch's generators, of which a CPU keeps 32 bits."""

SEED_BITS = 63
"""A seed is a whole number of so many bits, because TOML files hold no larger ones."""

LARGEST_FLOAT_NOISE = math.sqrt(62 * math.log(2))
"""The largest value of float noise, in standard deviations: 6.56. One Gaussian value in 2 * 10^10 is larger."""

_CUDA_BITS = {"image": 23, "stage": 2, "block": 22, "position": 14}
"""How the 61 bits that are used of the counter of PyTorch's generator on CUDA are divided."""


class Stage(IntEnum):
    """The purpose of samples. Samples of different stages are independent."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    COMPARISON = 3
    BOUND = 4  # no noise, see `uniform_of_bound`


Words = Callable[[int], Int64[Tensor, " count"]]
"""A stream of random words: returns so many integers that are uniform over int64, and goes on with the next ones."""


def random_words(seed: int, image_index: int, stage: Stage, block: int, device: torch.device) -> Words:
    """Return the stream of random words from which a block of noise is made. This is the whole scheme of the noise.

    Philox (Salmon et al. 2011) makes random bits of a key and a counter; with one key, different counters never give
    the same bits. The key is the seed. The counter is image, stage, block and position, side by side, so that no two
    blocks of one seed share any. On a CPU it is NumPy's Philox4x64, with 64 bits for each of the five numbers; NumPy
    promises that its words stay the same. On CUDA it is PyTorch's Philox4x32, whose counter is smaller. There a block
    is divided among as many threads as the GPU has, so that another model draws other noise.

    Philox is no linear function of its state, as the Mersenne twister is. A network could check on a single noisy
    image whether its noise obeys the twister's linear relations.

    Raises:
        SettingsError: seed, image index or block is negative or too large.
    """
    on_cuda = device.type == "cuda"
    bits = _CUDA_BITS if on_cuda else {"image": 64, "block": 64}
    for name, value, size in (
        ("the seed", seed, SEED_BITS),
        ("the index of an image", image_index, bits["image"]),
        ("the number of a block of noise", block, bits["block"]),
    ):
        if not 0 <= value < 2**size:
            raise SettingsError(f"{name} must lie between 0 and 2^{size} - 1 on this device, not {value}")
    if on_cuda:
        generator = torch.Generator(device).manual_seed(seed)
        generator.set_offset(cuda_offset(image_index, stage, block))
        return lambda count: torch.empty(count, dtype=torch.int64, device=device).random_(
            -(2**63), None, generator=generator
        )
    counter = np.array([0, block, stage, image_index], dtype=np.uint64)  # a list would pass through float64
    philox = np.random.Philox(key=seed, counter=counter)
    return lambda count: torch.from_numpy(philox.random_raw(count).view(np.int64)).to(device)


def uniform_of_bound(seed: int, image_index: int) -> float:
    """Return the number that randomises an image's bound, uniform on {1, 2, ..., 2^53} / 2^53.

    A randomised bound holds if this number is independent of the votes, so of the noise that selects and estimates, and
    of the network. No noise shares a counter of Philox with it; on CUDA, noise comes from another generator altogether.
    The network is independent of it as of all noise: it was made without knowing the seed. The same seed gives the same
    number, so that certificates can be made and checked again; nobody may draw seeds until it suits. No value is less
    likely to be exceeded than under the continuous uniform distribution, so that bounds fail no more often.

    Raises:
        SettingsError: seed or image index is negative or too large.
    """
    (word,) = random_words(seed, image_index, Stage.BOUND, 0, torch.device("cpu"))(1).tolist()
    return ((word & (2**53 - 1)) + 1) / 2**53


def cuda_offset(image_index: int, stage: Stage, block: int) -> int:
    """Return where a block begins in the stream of PyTorch's generator on CUDA, of which four words make one counter.

    A block has room for 2^14 counters in each of the thousands of streams that threads draw side by side: images of
    ten million pixels and channels, even on a GPU of few cores.
    """
    counter = (image_index << _CUDA_BITS["stage"] | int(stage)) << _CUDA_BITS["block"] | block
    return 4 * (counter << _CUDA_BITS["position"])


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
        noisy = torch.empty((count, BLOCK, *image.shape), dtype=torch.float32, device=image.device)
        for block, values in enumerate(noisy.flatten(1), first):
            words = random_words(self.seed, image_index, stage, block, image.device)
            standard_normal(words(len(values) // 2), out=values)
        return noisy.to(image.dtype).mul_(self.sigma).add_(image).flatten(0, 1)

    def radius(self, p_a_lower: float, p_b_upper: float | None, shape: Sequence[int]) -> float:
        return certified_radius(p_a_lower, self.sigma, p_b_upper)

    def sharpened(self, question: Question, shape: Sequence[int]) -> Question:
        return question


def standard_normal(words: Int64[Tensor, " count"], *, out: Float32[Tensor, " 2*count"]) -> None:
    """Fill `out` with two standard normal values per random word, by the transform of Box and Muller (1958) in float32.

    One half of the 32-bit integers, made odd, gives a uniform number in (0, 1], the other half an angle.
    """
    first, second = words.view(torch.int32).chunk(2)
    radius = first.bitwise_or(1).float().abs_().mul_(2**-31).log_().mul_(-2).sqrt_()
    angle = second.float().mul_(math.pi * 2**-31)
    cosines, sines = out.chunk(2)
    torch.mul(angle.cos(), radius, out=cosines)
    torch.mul(angle.sin_(), radius, out=sines)


Generators = torch.Generator | Sequence[torch.Generator]
"""The source of a batch's noise: one generator, or one generator per image."""


def training_noise(
    images: Float[Tensor, "batch channels height width"], sigma: float, k: int, generator: Generators | None = None
) -> Float[Tensor, "batch {k} channels height width"]:
    """Return k draws of N(0, sigma^2 I) per image."""
    batch, *shape = images.shape
    noise = torch.empty((batch, k, *shape), dtype=images.dtype, device=images.device)
    return _filled(torch.Tensor.normal_, noise, generator).mul_(sigma)


def uniform_draws(
    images: Float[Tensor, "batch channels height width"], k: int, generator: Generators | None = None
) -> Float[Tensor, "batch {k}"]:
    """Return k numbers from the uniform distribution on [0, 1) per image."""
    empty = torch.empty(len(images), k, dtype=torch.float32, device=images.device)
    return _filled(torch.Tensor.uniform_, empty, generator)


def _filled(draw: Callable[..., Tensor], empty: Tensor, generator: Generators | None) -> Tensor:
    """Fill a tensor with random numbers, in place: those of each image come from its generator if it has its own."""
    if generator is None or isinstance(generator, torch.Generator):
        return draw(empty, generator=generator)
    for part, own in zip(empty, generator, strict=True):
        draw(part, generator=own)
    return empty


def noisy_copies(
    images: Float[Tensor, "batch channels height width"], sigma: float, k: int, generator: Generators | None = None
) -> Float[Tensor, "batch {k} channels height width"]:
    """Return k noisy copies x + N(0, sigma^2 I) per image."""
    return training_noise(images, sigma, k, generator).add_(images.unsqueeze(1))
