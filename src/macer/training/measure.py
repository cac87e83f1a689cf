"""A number for every training image, computed with the network as it is between two epochs."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from macer.compute.seeding import derive_seed, generator
from macer.data import LabelledImages
from macer.objectives.base import Score
from macer.smoothing.network import evaluating
from macer.training.state import TrainingState


@torch.no_grad()
def measure(
    state: TrainingState, images: LabelledImages, after_batch: Callable[[], None], score: Score
) -> Float64[Tensor, " images"]:
    """Return a score of every training image, the same in all processes.

    Images are augmented as in training, and the network runs in eval mode. All processes must call this together.

    Args:
        state: of the training, at the beginning of an epoch.
        images: what is trained on.
        after_batch: called after each batch; it may raise.
        score: one number per image.
    """
    settings, processes, device = state.settings, state.processes, state.fabric.device
    share = (processes.rank, processes.size)
    size, seed = settings.images_per_step, derive_seed(settings.seed, "measure")
    batches = images.batches(state.indices, size, device=device, seed=seed, epoch=state.epoch, share=share)
    scores = torch.zeros(len(state.indices), dtype=torch.float64)
    with evaluating(state.network):
        for number, (batch, labels) in enumerate(batches):
            first = number * size
            own = torch.tensor(processes.positions(min(size, len(scores) - first)), dtype=torch.int64)
            generators = [generator(device, seed, state.epoch, first + each) for each in own.tolist()]
            # A process without an image of its own evaluates one all the same: batch norm may wait for it.
            found = score(state.network, batch, labels, generators or generator(device, seed))
            scores[first + own] = found[: len(own)].double().cpu()
            after_batch()
    return torch.tensor(processes.all_reduce(scores.tolist(), "sum"), dtype=torch.float64)
