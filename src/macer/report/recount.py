"""A network's votes on noisy copies of some images; certificates record the votes for one class only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from macer.certification.evaluation import smoothed_classifier
from macer.certification.settings import CertificationSettings
from macer.certification.source import Places, plan_of, recorded_checkpoint
from macer.compute.device import exact_float32, find_device
from macer.compute.progress import ProgressView
from macer.data import LabelledImages
from macer.errors import CheckpointError, DataError
from macer.pretrained.exported import read_header
from macer.report.sources import Source
from macer.runs.checkpoint import load_checkpoint
from macer.runs.run import CertificationRun
from macer.smoothing import SmoothedClassifier
from macer.smoothing.kinds import Hard
from macer.smoothing.noise import BLOCK
from macer.smoothing.spending import scores_of
from macer.smoothing.words import Stage


@dataclass(frozen=True)
class Recount:
    """Votes and accuracy of a certified network, counted again.

    Attributes:
        votes: the votes of each class, by index of the chosen images.
        clean: accuracy on all images of the certificates without noise; of a denoiser and its network together.
    """

    votes: dict[int, list[int]]
    clean: float


@torch.inference_mode()
def recount(
    source: Source, images: LabelledImages, chosen: Sequence[int], samples: int, *, device: str, console: Console
) -> Recount:
    """Count the votes on the first noisy copies of some images, and the accuracy without noise.

    The classifier is built from the settings as it was for the certificates, with its denoiser and in its precision.
    These are therefore the samples that the certificates counted first. In bfloat16 rounding may change votes where
    they are evaluated in smaller batches. They are for illustration only.

    Args:
        source: the certificates, with the settings they were made with.
        images: the data set's split.
        chosen: indices of the images to look at.
        samples: noisy copies per image, at least 1.
        device: what computes.
        console: where progress is shown.

    Raises:
        MacerError: network or denoiser is missing, is code, or is no longer what was certified, or the data differ.
    """
    labels = _labels(source, images)
    classifier = _classifier(source, images, device)
    indices = list(labels)
    votes: dict[int, list[int]] = {}
    title = f"counting votes {source.records.name}"
    total = len(indices) + len(chosen)
    with ProgressView(title, total, unit="images", console=console) as view, exact_float32(classifier.device):
        right = 0
        for first in range(0, len(indices), BLOCK):
            batch = [images[index] for index in indices[first : first + BLOCK]]
            if [label for _, label in batch] != [labels[index] for index in indices[first : first + len(batch)]]:
                raise DataError(f"{images.name}: its labels are not those of the images that were certified")
            pixels = classifier.placed(torch.stack([image for image, _ in batch]))
            answers = classifier.logits(pixels).argmax(1).tolist()
            right += sum(answer == label for answer, (_, label) in zip(answers, batch, strict=True))
            view.advance(len(batch), len(batch))
        for index in chosen:
            (counts,) = classifier.sums(images[index][0], index, Stage.ESTIMATION, samples, [scores_of(Hard())])
            votes[index] = counts.long().tolist()
            view.advance(1, samples)
    return Recount(votes, right / len(indices))


def _labels(source: Source, images: LabelledImages) -> dict[int, int]:
    """Return the labels in the certificates, by image, if the data set has all these images."""
    idx, label = source.records.idx, source.records.label
    if idx is None or label is None or idx[-1] >= len(images):
        raise DataError(f"{images.name}: does not have the images of {source.file}")
    return dict(zip(idx.tolist(), label.tolist(), strict=True))


def _classifier(source: Source, images: LabelledImages, device: str) -> SmoothedClassifier:
    """Return the classifier that was certified, which its settings and the digests of its weights identify."""
    run = CertificationRun(source.file.parent)
    settings = CertificationSettings.read(source.certification, run.settings_file)
    file = recorded_checkpoint(run, settings)
    # The author of the record chose this file, so nothing in it may be run: only weights are loaded, no programs.
    if not (read_header(file) if file.suffix == ".safetensors" else load_checkpoint(file)):
        raise CheckpointError(f"{file}: not weights that macer wrote; a report opens no other files")
    plan = plan_of(run, settings, Places(checkpoint=file, images=images))
    network = plan.network.to(find_device(device))
    return smoothed_classifier(plan.settings, network, images.num_classes, images.shape)
