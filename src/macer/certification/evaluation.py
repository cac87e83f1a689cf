"""How one image is certified: the smoothed classifier that the settings describe, evaluated fast, on any worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.certification.settings import CertificationSettings
from macer.compute.device import describe_device, exact_float32
from macer.compute.rate import rate_of
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import fastest
from macer.models.programs import ProgramNetwork
from macer.runs.certificates import Row
from macer.runs.settings import require
from macer.smoothing import Certificate, SmoothedClassifier
from macer.smoothing.images import image_digest
from macer.smoothing.network import logits_of
from macer.smoothing.noise import BLOCK
from macer.smoothing.spending import Spending
from macer.smoothing.words import Stage

SECONDS_WORTH_COMPILING = 300.0
"""Compiling takes up to a minute; it pays where forward passes take at least this many seconds."""
TRIAL_SHARE = 20
"""A trial batch is at most the 20th part of the work: with large images it would else take longer than all the rest."""
_SECONDS_BEFORE_MEASURING = 10.0
"""Shorter certifications are not delayed by measuring how fast the network alone is."""

Item = tuple[int, Tensor, int]
"""An image's index in its data set, the image in [0, 1], and its label."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What certifying one image gave.

    Attributes:
        index: the image's index in its data set.
        label: its class.
        image: its digest.
        certificates: one per kind.
        seconds: what they took.
        samples: noisy images that were evaluated.
        device: what computed, as `describe_device` says it.
        network_rate: noisy images per second of the bare network there; None before it was measured.
    """

    index: int
    label: int
    image: str
    certificates: list[Certificate]
    seconds: float
    samples: int
    device: str
    network_rate: float | None

    def rows(self, settings: str = "", file: str | None = None) -> list[Row]:
        """Return a row per kind, of settings with this fingerprint and of an image that people know by this name."""
        image, label, digest = self.index, self.label, self.image
        return [Row.of(image, label, each, self.seconds, digest, settings, file) for each in self.certificates]


@dataclass(frozen=True, kw_only=True)
class ImageCertification:
    """The work of a certification: `macer.compute.workers.Work` for items of `Item` and results of `Outcome`.

    Images travel with the items: no worker needs the data set, which may be no more than arrays in memory, and at
    n = 100,000 an image is evaluated for as many seconds as it takes milliseconds to send.

    Attributes:
        settings: what decides the certificates.
        spending: how samples are spent, with what is carried over.
        network: the weights to certify.
        num_classes: of the data.
        shape: (channels, height, width) of an image.
        samples: how many noisy images each worker will evaluate, about.
    """

    settings: CertificationSettings
    spending: Spending
    network: nn.Module
    num_classes: int
    shape: tuple[int, int, int]
    samples: int

    def start(self, device: torch.device) -> Callable[[Item], Outcome]:
        """Build the classifier on a device, and return the function that certifies an image.

        Raises:
            SettingsError: another precision is asked of a network that is a program in a file, or it cannot be
                compiled here and was to be.
        """
        classifier = smoothed_classifier(self.settings, self.network.to(device), self.num_classes, self.shape)
        if not isinstance(classifier.network, InBFloat16):
            evaluate_fast(classifier, self.shape, compile=self.settings.compile, samples=self.samples)
        settings, name = self.settings, describe_device(device)
        started = time.monotonic()
        rate: float | None = None

        def certify(item: Item) -> Outcome:
            nonlocal rate
            index, image, label = item
            before = time.perf_counter()
            certificates = self.spending.certify(classifier, image, image_index=index, label=label)
            seconds = time.perf_counter() - before
            if rate is None and time.monotonic() - started > _SECONDS_BEFORE_MEASURING:
                rate = network_rate(classifier, image)
            samples = settings.samples(max(certificate.n for certificate in certificates))
            return Outcome(
                index=index,
                label=label,
                image=image_digest(image),
                certificates=certificates,
                seconds=seconds,
                samples=samples,
                device=name,
                network_rate=rate,
            )

        return certify


def smoothed_classifier(
    settings: CertificationSettings, network: nn.Module, num_classes: int, shape: tuple[int, int, int]
) -> SmoothedClassifier:
    """Return the classifier that the settings describe.

    Args:
        settings: what is certified.
        network: the weights, on the device to use.
        num_classes: of the data.
        shape: (channels, height, width) of an image.

    Raises:
        SettingsError: another precision is asked of a network that is a program in a file or becomes another function
            when batch norm is folded, or it cannot be compiled here and was to be.
    """

    def smoothed(network: nn.Module) -> SmoothedClassifier:
        return SmoothedClassifier(
            network.eval(),
            settings.sigma,
            num_classes,
            batch_size=settings.batch_size or None,
            seed=settings.seed,
            sound=settings.sound,
        )

    classifier = smoothed(network)
    if settings.precision != "bf16-true":
        return classifier
    require(not isinstance(network, ProgramNetwork), "a program has the precision that it was written with")
    with exact_float32(classifier.device):
        rounded = InBFloat16(network, _noisy_images(classifier, shape, BLOCK))
        classifier = smoothed(rounded)
        if settings.bf16_form == "compiled":
            rounded.compile_for(_noisy_images(classifier, shape, _whole_blocks(classifier)))
    return classifier


def evaluate_fast(classifier: SmoothedClassifier, shape: tuple[int, int, int], *, compile: str, samples: int) -> str:
    """Let a classifier evaluate its network as fast as the amount of work justifies, and return how, in words.

    Args:
        classifier: gets the faster evaluation.
        shape: (channels, height, width) of an image.
        compile: yes, no, or auto: where evaluating so many samples takes longer than some minutes.
        samples: how many noisy images will be evaluated, about.
    """
    size = _whole_blocks(classifier)
    batch = _noisy_images(classifier, shape, max(1, min(size, samples // TRIAL_SHARE)))
    wanted = compile == "yes"
    with exact_float32(classifier.device):
        if compile == "auto":
            wanted = samples / len(batch) * _seconds_per_batch(classifier.network, batch) > SECONDS_WORTH_COMPILING
        if wanted:
            batch = _noisy_images(classifier, shape, size)  # compiling is for one size
        evaluation, description = fastest(classifier.network, batch, compile=wanted)
    classifier.evaluate_with(evaluation)
    return description


def _whole_blocks(classifier: SmoothedClassifier) -> int:
    """Return how many samples are evaluated at once."""
    return classifier.batch_size // BLOCK * BLOCK


def _noisy_images(
    classifier: SmoothedClassifier, shape: tuple[int, int, int], count: int
) -> Float[Tensor, "count channels height width"]:
    """Return images to try an evaluation on: noisy copies of an image of random pixels."""
    image = classifier.placed(torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).float() / 255)
    blocks = classifier.noise_for(image).blocks(image, 0, Stage.COMPARISON, 0, ceil(count / BLOCK))
    return blocks[:count].to(classifier.dtype)


@torch.inference_mode()
def _seconds_per_batch(network: nn.Module, batch: Tensor) -> float:
    """Return the time of a forward pass; the first one, which is slower, does not count."""
    network(batch)
    started = time.perf_counter()
    logits_of(network(batch)).sum().item()  # waits for the device
    return time.perf_counter() - started


@torch.inference_mode()
def network_rate(classifier: SmoothedClassifier, image: Float[Tensor, "channels height width"]) -> float:
    """Return the images per second of the bare network on batches as here: no certification can exceed it.

    Args:
        classifier: whose network to measure.
        image: one like those to certify.
    """
    size = _whole_blocks(classifier)
    batch = image.to(classifier.device).repeat(size, 1, 1, 1)
    with exact_float32(classifier.device):
        return rate_of(lambda: classifier.logits(batch).sum().item(), size)  # waits for the device
