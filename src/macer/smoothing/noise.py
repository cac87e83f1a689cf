"""Gaussian noise that is a function of (seed, image index, stage, block) and of nothing else.

Samples come in blocks of BLOCK. A block holds the same numbers in any order, batch or process, so that certificates do
not depend on how the work was divided. (They do depend on the kind of device: the generators of CPU and CUDA differ.)
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from macer.compute.seeding import derive_seed
from macer.smoothing.radius import certified_radius
from macer.smoothing.sequential import Question

BLOCK = 100
"""Noise samples per block. n0 = 100 is one block; the last block of a stage may be used in part."""


class Stage(IntEnum):
    """The purpose of samples. Samples of different stages are independent."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    COMPARISON = 3


def block_seed(seed: int, image_index: int, stage: Stage, block: int) -> int:
    """Return the generator's seed for one block, in 64 bits.

    PyTorch's CPU generator keeps only the low 32 bits of its seed. Within an image the blocks count up from a hashed
    start, so that all of an image's blocks have different low bits: no two hold the same noise. Two images may share a
    block by chance (on a CPU, some dozens of the pairs among 10,000 images of 1,000 blocks). No certificate is
    affected, because each depends on the noise of its own image alone.
    """
    start = derive_seed(seed, "certification", image_index)
    return (start + (int(stage) << 28) + block) % 2**63


class Noise(Protocol):
    """Noise of one sigma and seed, and the radii that it proves."""

    def blocks(
        self,
        image: Float[Tensor, "channels height width"],
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
    ) -> Float[Tensor, "samples channels height width"]:
        """Return noisy copies of `image` for blocks first .. first + count - 1: count * BLOCK samples on its device."""
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

    def __init__(self, sigma: float, seed: int) -> None:
        self.sigma = sigma
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def blocks(
        self,
        image: Float[Tensor, "channels height width"],
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
    ) -> Float[Tensor, "samples channels height width"]:
        generator = self._generators.setdefault(image.device, torch.Generator(image.device))
        noisy = torch.empty((count, BLOCK, *image.shape), dtype=image.dtype, device=image.device)
        for position in range(count):
            generator.manual_seed(block_seed(self.seed, image_index, stage, first + position))
            noisy[position].normal_(generator=generator)
        return noisy.mul_(self.sigma).add_(image).flatten(0, 1)

    def radius(self, p_a_lower: float, p_b_upper: float | None, shape: Sequence[int]) -> float:
        return certified_radius(p_a_lower, self.sigma, p_b_upper)

    def sharpened(self, question: Question, shape: Sequence[int]) -> Question:
        return question


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
    return _filled(torch.Tensor.uniform_, torch.empty(len(images), k, device=images.device), generator)


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
