"""Training on hard data: easy images and easy noise give way to hard ones, and hopeless images to all others."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import Module

from macer.attacks import misleading_noise
from macer.objectives.base import (
    CLIMB_SIZE,
    AttackingObjective,
    Images,
    Labels,
    Loss,
    Measure,
    Progress,
    cross_entropy,
    option,
    require,
)
from macer.smoothing.bounds import clopper_pearson_lower
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, noisy_copies, training_noise

_TO_DROP, _TO_WEIGH = 100, 16
"""Noisy copies per image that tell which images are dropped, and how often the others are drawn."""
_FLOOR, _ALPHA = 0.75, 0.1
"""The least share of right copies that a weight assumes, and the failure probability of its bound."""


@dataclass(frozen=True, kw_only=True)
class HardData(AttackingObjective):
    """Gaussian augmentation that turns to what pays off in certified radius: Sun et al. 2025 (ICML; arXiv 2410.06895).

    Before epoch hard_from this is Gaussian augmentation. Then images of which too few noisy copies are classified
    correctly are dropped for good. The others are drawn with weights Phi^-1(p), p a lower confidence bound on the
    probability that a noisy copy is classified correctly, and the noise is attacked at constant length. An epoch keeps
    its number of images. The paper's message is that the average certified radius, which this method raises, says
    little about robustness: it neglects the images that are hard to classify.

    Costs gauss_num forward and backward passes per image, and gauss_num * (steps + 1) from hard_from on; choosing
    images costs 116 forward passes per image once, and 16 whenever they are weighed again.

    Where released code differs: it takes an optimiser step on each of gauss_num parts of a batch, which
    steps_per_batch does here.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: m, noisy copies of each image.
        hard_from: E_t, the number of epochs of Gaussian augmentation.
        drop_below: images with a smaller share of correctly classified noisy copies are dropped.
        reweigh_every: epochs between two estimates of the weights; 0: all images that are kept have the same weight.
        steps: T, steps of each attack on the noise.
        climb_size: length of each step, in units of [0, 1] pixels.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = HardData(sigma=0.25)(network, images, labels)
    >>> loss.total.backward()
    """

    name = "hard-data"
    passes = 1
    hard_from: int = option(60, "Number of epochs of Gaussian augmentation before hard data are chosen.", least=1)
    drop_below: float = option(
        0.5, "Share of correctly classified noisy copies below which an image is dropped.", least=0, most=1
    )
    reweigh_every: int = option(10, "Epochs between estimates of the images' weights; 0: equal weights.", least=0)
    climb_size: float = option(0.25, CLIMB_SIZE, above=0)

    def samples_at(self, progress: Progress) -> int:
        return self.gauss_num if self.held_back_by(progress) else self.samples

    def held_back_by(self, progress: Progress) -> str | None:
        return "hard_from" if progress.epoch < self.hard_from else None

    def image_weights(
        self, epoch: int, current: Float64[Tensor, " images"] | None, measure: Measure
    ) -> Float64[Tensor, " images"] | None:
        if epoch < self.hard_from:
            return None
        weigh = self.reweigh_every > 0 and (epoch - self.hard_from) % self.reweigh_every == 0
        if current is None:
            current = (measure(partial(self._share_right, _TO_DROP)) >= self.drop_below).double()
            require(
                bool(current.any()),
                f"drop_below {self.drop_below:g} drops every image after {epoch} epochs: train longer before hard_from",
            )
            weigh = self.reweigh_every > 0
        if weigh:
            current = sampling_weights(measure(partial(self._share_right, _TO_WEIGH))).where(current > 0, 0.0)
        return current

    def _share_right(
        self, copies: int, network: Module, images: Images, labels: Labels, generator: Generators
    ) -> Float[Tensor, " batch"]:
        """Return the share of noisy copies of each image that the network classifies correctly."""
        right = torch.zeros(len(labels), device=labels.device, dtype=torch.float32)
        for _ in range(copies):  # one at a time, so that memory is that of a step
            logits = logits_of_copies(network, noisy_copies(images, self.sigma, 1, generator))
            right += logits.argmax(2).squeeze(1) == labels
        return right / copies

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        noise = training_noise(images, self.sigma, self.gauss_num, generator)
        if not self.held_back_by(progress):
            noise = misleading_noise(network, images, labels, noise, step_size=self.climb_size, steps=self.steps)
        loss = cross_entropy(logits_of_copies(network, images.unsqueeze(1) + noise), labels)
        return Loss(loss, {"classification": loss.detach()})


def sampling_weights(share: Float64[Tensor, " images"]) -> Float64[Tensor, " images"]:
    """Return Phi^-1 of a lower confidence bound on the probability that a noisy copy is classified correctly.

    Sun et al. 2025 (arXiv 2410.06895): the one-sided Clopper-Pearson bound at level 0.1 of 16 copies, of which at least
    12 are taken to be right. So the weights lie between 0.15 and 1.11: the more certain an image, the more often it
    is drawn.

    Args:
        share: of 16 noisy copies of each image, those that are classified correctly.
    """
    bounds = [clopper_pearson_lower(count, _TO_WEIGH, _ALPHA) for count in range(_TO_WEIGH + 1)]
    weights = torch.special.ndtri(torch.tensor(bounds, dtype=torch.float64))
    return weights[(share.clamp(min=_FLOOR) * _TO_WEIGH).round().long()]
