"""The noise of training: as many draws per image as a method takes, from PyTorch's generators."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

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
