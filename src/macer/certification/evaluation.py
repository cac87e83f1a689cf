"""The smoothed classifier that a certification's settings describe, evaluated as fast as is worth the preparation."""

import time

import torch
from torch import Tensor, nn

from macer.certification.settings import CertificationSettings
from macer.models.fast import fastest
from macer.models.programs import ProgramNetwork
from macer.runs.settings import require
from macer.smoothing import SmoothedClassifier
from macer.smoothing.network import logits_of
from macer.smoothing.noise import BLOCK

WORTH_COMPILING = 300.0
"""Seconds of forward passes from which on compiling, which takes up to a minute, pays."""
TRIAL_SHARE = 20
"""A trial batch is at most the 20th part of the work: with large images it would else take longer than all the rest."""


class InPrecision(nn.Module):
    """A network computed in another arithmetic, its logits in float32: another function, certified as such.

    Args:
        network: a copy of it is kept, in this arithmetic.
        dtype: the arithmetic.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        return logits_of(self.network(x.to(self.dtype))).float()


def smoothed_classifier(settings: CertificationSettings, network: nn.Module, num_classes: int) -> SmoothedClassifier:
    """The classifier that the settings describe.

    Args:
        settings: what is certified.
        network: the weights, on the device to use.
        num_classes: of the data.

    Raises:
        SettingsError: another precision of a network that is a program in a file.
    """
    if settings.precision == "bf16-true":
        require(not isinstance(network, ProgramNetwork), "a program's precision was settled when it was written")
        network = InPrecision(network, torch.bfloat16)
    return SmoothedClassifier(
        network.eval(),
        settings.sigma,
        num_classes,
        batch_size=settings.batch_size or None,
        seed=settings.seed,
        sound=settings.sound,
    )


def evaluate_fast(classifier: SmoothedClassifier, shape: tuple[int, int, int], *, compile: str, samples: int) -> str:
    """Let a classifier evaluate its network as fast as is worth it; returns how, in words.

    Args:
        classifier: gets the faster evaluation.
        shape: (channels, height, width) of an image.
        compile: yes, no, or auto: where evaluating so many samples takes longer than some minutes.
        samples: noisy images that this process will evaluate, at most.
    """
    size = classifier.batch_size // BLOCK * BLOCK

    def noisy_images(count: int) -> Tensor:
        return torch.rand(count, *shape, device=classifier.device, generator=torch.Generator(classifier.device))

    batch = noisy_images(max(1, min(size, samples // TRIAL_SHARE)))
    wanted = compile == "yes"
    if compile == "auto":
        wanted = samples / len(batch) * _seconds(classifier.network, batch) > WORTH_COMPILING
    if wanted:
        batch = noisy_images(size)  # compiling is for one size
    evaluation, description = fastest(classifier.network, batch, compile=wanted)
    classifier.evaluate_with(evaluation)
    return description


@torch.inference_mode()
def _seconds(network: nn.Module, batch: Tensor) -> float:
    """What a batch takes once the first one is over."""
    network(batch)
    started = time.perf_counter()
    logits_of(network(batch)).sum().item()  # waits for the device
    return time.perf_counter() - started
