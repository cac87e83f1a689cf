"""What a training step works on: its batch, the images of each backward pass, and their noise."""

from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Int64
from torch import Tensor

from macer.compute.seeding import generator
from macer.data import LabelledImages
from macer.data.images import own_share
from macer.objectives import Progress
from macer.smoothing.training_noise import Generators
from macer.training.selection import Part, select
from macer.training.state import TrainingState, couples_images

_CACHED_IMAGES = 256
"""Noisy images whose activations stay in a CPU's cache; measured for LeNet."""


def batches_left(state: TrainingState, images: LabelledImages) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Return this process's images, labels and indices in the split, of each step of the epoch that is left."""
    settings, processes = state.settings, state.processes
    order, share = state.indices[order_of_images(state)], (processes.rank, processes.size)
    batches = images.batches(
        order,
        settings.images_per_step,
        device=state.fabric.device,
        seed=settings.seed,
        epoch=state.epoch,
        share=share,
    )
    indices = (own_share(part, share) for part in order.split(settings.images_per_step))
    return islice(((*batch, own) for batch, own in zip(batches, indices, strict=True)), state.step, None)


def order_of_images(state: TrainingState) -> Int64[Tensor, " images"]:
    """Return which training images the running epoch has, by position: each once, or drawn with their weights."""
    count, drawn = len(state.indices), generator("cpu", state.settings.seed, "order", state.epoch)
    if state.image_weights is None:
        return torch.randperm(count, generator=drawn)
    return torch.multinomial(state.image_weights, count, replacement=True, generator=drawn)


def noise_generators(state: TrainingState, batch: int) -> Generators:
    """Return what a step's noise is drawn from: one generator, or one for each of this process's images.

    Args:
        state: of the training.
        batch: images of the whole batch, over all processes.
    """
    settings, processes, device = state.settings, state.processes, state.fabric.device
    parts = (settings.seed, "noise", state.epoch, state.step)
    if settings.noise_per == "image":
        return [generator(device, *parts, position) for position in processes.positions(batch) or range(1)]
    return generator(device, *parts, *([] if processes.is_first else [f"process {processes.rank}"]))


def generators_of(generators: Generators, positions: Tensor) -> Generators:
    """Return the generators for some images of the batch."""
    return generators if isinstance(generators, torch.Generator) else [generators[each] for each in positions.tolist()]


def split_batch(state: TrainingState, images: Tensor, labels: Tensor, progress: Progress) -> list[Part]:
    """Return the images that a step uses, in parts of one backward pass each."""
    settings, device = state.settings, state.fabric.device
    selected = select(
        state.network,
        images,
        labels,
        sigma=settings.objective.sigma,
        easy_fraction=settings.easy_fraction,
        generator=generator(device, settings.seed, "selection", state.epoch, state.step),
    )
    size = micro_batch(state, len(labels), progress)
    return [Part(positions, part.weight) for part in selected for positions in part.positions.split(size)]


def micro_batch(state: TrainingState, batch: int, progress: Progress) -> int:
    """Return the number of images per backward pass. Gradients of parts add up unless batch norm couples images."""
    if state.settings.micro_batch:
        return state.settings.micro_batch
    if couples_images(state.module) or state.fabric.device.type != "cpu":
        return batch
    objective = state.settings.objective
    return max(1, _CACHED_IMAGES // min(objective.copies, objective.samples_at(progress)))
