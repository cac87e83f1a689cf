"""A network's votes on noisy copies of some images; certificates record the votes for one class only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from macer.certification.prepare import digest
from macer.compute.device import exact_float32, open_fabric
from macer.compute.progress import ProgressView
from macer.data import LabelledImages
from macer.errors import CheckpointError, DataError, RecordsError
from macer.pretrained import zoo
from macer.pretrained.exported import read_header
from macer.pretrained.find import find_network
from macer.report.sources import Source
from macer.runs.checkpoint import load_checkpoint
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.network import logits_of
from macer.smoothing.noise import BLOCK, Noise, NoiseSource, Stage

_CLEAN_BATCH = 200


@dataclass(frozen=True)
class Recount:
    """Votes and accuracy of a certified network, counted again.

    Attributes:
        votes: the votes of each class, by index of the chosen images.
        samples: votes per image.
        clean: the network's accuracy without noise, on all images of the certificates.
    """

    votes: dict[int, list[int]]
    samples: int
    clean: float


@torch.inference_mode()
def recount(
    source: Source, images: LabelledImages, chosen: Sequence[int], samples: int, *, device: str, console: Console
) -> Recount:
    """Count the votes on the first noisy copies of some images, and the accuracy without noise.

    On the kind of device that certified, these are the samples of the certificate, except for votes that rounding could
    change, which a certification counts twice (see `SmoothedClassifier`). They are for illustration only.

    Args:
        source: the certificates, with the settings they were made with.
        images: the data set's split.
        chosen: indices of the images to look at.
        samples: noisy copies per image, at least 1.
        device: what computes.
        console: where progress is shown.

    Raises:
        MacerError: the checkpoint is missing or no longer holds what was certified, or the data differ.
    """
    labels = _labels(source, images)
    noise = _noise(source)
    network, torch_device = _network(source, images, device)
    indices = list(labels)
    votes: dict[int, list[int]] = {}
    title = f"counting votes {source.records.name}"
    total = len(indices) + len(chosen)
    with ProgressView(title, total, unit="images", console=console) as view:
        right = 0
        for first in range(0, len(indices), _CLEAN_BATCH):
            batch = [images[index] for index in indices[first : first + _CLEAN_BATCH]]
            if [label for _, label in batch] != [labels[index] for index in indices[first : first + len(batch)]]:
                raise DataError(f"{images.name}: its labels are not those of the images that were certified")
            pixels = torch.stack([image for image, _ in batch]).to(torch_device)
            answers = logits_of(network(pixels)).argmax(1).tolist()
            right += sum(answer == label for answer, (_, label) in zip(answers, batch, strict=True))
            view.advance(len(batch), len(batch))
        for index in chosen:
            image = images[index][0].to(torch_device)
            with exact_float32(torch_device):
                votes[index] = _votes(network, image, index, samples, noise, images.num_classes)
            view.advance(1, samples)
    return Recount(votes, samples, right / len(indices))


def _labels(source: Source, images: LabelledImages) -> dict[int, int]:
    """Return the labels in the certificates, by image, if the data set has all these images."""
    idx, label = source.records.idx, source.records.label
    if idx is None or label is None or idx[-1] >= len(images):
        raise DataError(f"{images.name}: does not have the images of {source.file}")
    return dict(zip(idx.tolist(), label.tolist(), strict=True))


def _noise(source: Source) -> Noise:
    sigma, seed = source.records.sigma, source.certification.get("seed")
    if sigma is None or not isinstance(seed, int):
        raise RecordsError(f"{source.file}: the noise of its certificates is not recorded")
    return (GridNoiseSource if source.certification.get("sound") is True else NoiseSource)(sigma, seed)


def _votes(network: nn.Module, image: Tensor, index: int, samples: int, noise: Noise, num_classes: int) -> list[int]:
    counts = torch.zeros(num_classes, dtype=torch.long)
    noise.check(image)
    for block in range((samples + BLOCK - 1) // BLOCK):
        copies = noise.blocks(image, index, Stage.ESTIMATION, block, 1)[: samples - block * BLOCK]
        counts += logits_of(network(copies)).argmax(1).cpu().bincount(minlength=num_classes)
    return counts.tolist()


def _network(source: Source, images: LabelledImages, device: str) -> tuple[nn.Module, Any]:
    """Return the network that was certified, which the digest of its weights identifies."""
    table = source.certification
    recorded = zoo.located(str(table.get("checkpoint", "")))
    own = None if source.training is None else source.training.run.checkpoint_file.with_name(recorded.name)
    file = own if own is not None and own.is_file() else recorded
    # The author of the record chose this file, so nothing in it may be run: only weights are loaded, no programs.
    if not (read_header(file) if file.suffix == ".safetensors" else load_checkpoint(file)):
        raise CheckpointError(f"{file}: not weights that macer wrote; a report opens no other files")
    network = find_network(file, weights=table.get("weights")).build(images.num_classes, images.shape)
    if digest(network.state_dict()) != table.get("digest"):
        raise CheckpointError(f"{file}: no longer holds the weights that were certified")
    torch_device = open_fabric(device).device
    return network.to(torch_device), torch_device
