"""The interface between a training method and the training loop."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import Module

from macer.runs.settings import Settings, option, require
from macer.smoothing.network import logits_of_copies
from macer.smoothing.noise import Generators, noisy_copies

Images = Float[Tensor, "batch channels height width"]
Labels = Int64[Tensor, " batch"]
Logits = Float[Tensor, "batch k classes"]


@dataclass(frozen=True)
class Progress:
    """The state of training, for methods that change during it.

    Attributes:
        epoch: finished epochs, with the fraction of the current one.
        learning_rate_dropped: whether the schedule has passed its first drop.
    """

    epoch: float = 0.0
    learning_rate_dropped: bool = False

    def warmed_up(self, epochs: int) -> float:
        """Return the state of a linear warm-up over so many epochs: e / epochs in epoch e, counted from 1; then 1."""
        return 1.0 if self.epoch >= epochs else (math.floor(self.epoch) + 1) / epochs


END = Progress(epoch=math.inf, learning_rate_dropped=True)
"""The state at the end of training, past every warm-up."""


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    Attributes:
        total: the scalar to minimise.
        terms: its named parts, detached, for the log.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Objective(Settings):
    """A training method: its settings as keyword-only fields, its loss as a call.

    Subclasses are frozen dataclasses. Each field made with `option` becomes an option of the command line.
    """

    name: ClassVar[str]
    attacks: ClassVar[bool] = False
    """Whether it needs gradients with respect to the images."""
    panel = "Training method"
    sigma: float = option(0.25, "Standard deviation of the noise, in units of [0, 1] pixels.", above=0)

    @property
    def samples(self) -> int:
        """Forward and backward passes per image."""
        raise NotImplementedError

    def samples_at(self, progress: Progress) -> int:
        """Return the same number at one point of the training, for methods that begin with fewer samples."""
        return self.samples

    @property
    def copies(self) -> int:
        """Noisy copies of an image that are in memory at once."""
        return self.samples

    def __call__(
        self,
        network: Module,
        images: Images,
        labels: Labels,
        *,
        generator: Generators | None = None,
        progress: Progress = END,
    ) -> Loss:
        """Return the mean loss of a batch.

        Args:
            network: maps images to logits, or to an object or dictionary with `logits`.
            images: in [0, 1].
            labels: their classes.
            generator: source of all noise; None: PyTorch's global generator.
            progress: the state of training. Default: the method in full, past any warm-up.
        """
        raise NotImplementedError

    def noisy_logits(self, network: Module, images: Images, k: int, generator: Generators | None) -> Logits:
        """Return the network's logits, in float32 or more, on k noisy copies of each image."""
        return logits_of_copies(network, noisy_copies(images, self.sigma, k, generator))


def cross_entropy(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the images and their copies."""
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


__all__ = ["END", "Images", "Labels", "Logits", "Loss", "Objective", "Progress", "cross_entropy", "option", "require"]
