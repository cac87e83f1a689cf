"""SmoothMix: training on mixtures of each image with an adversarial image of the smoothed network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from macer.attacks import climb
from macer.attacks.base import keep_in_ball, keep_in_box
from macer.objectives.base import (
    CLIMB_SIZE,
    Images,
    Labels,
    Logits,
    Loss,
    Progress,
    WarmedUpObjective,
    cross_entropy,
    option,
    require,
)
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, training_noise, uniform_draws


@dataclass(frozen=True, kw_only=True)
class SmoothMix(WarmedUpObjective):
    """Cross-entropy on noisy copies, plus a loss on mixtures with adversarial images: Jeong et al. 2021.

    arXiv 2111.09277. The attack climbs the loss of the smoothed network from the image, without a ball. The mixture of
    the image and the end of the attack gives the end a weight of at most 1/2. Its label is the smoothed network's own
    prediction of the image, mixed with the uniform distribution by the same weight. Images that the smoothed network
    misclassifies have no mixture. Attack, image and mixture share their noise. Costs gauss_num * (steps + 2) forward
    and backward passes per image.

    As in released code, the gradient flows through the label of the mixture as well. Where released code differs: it
    takes logarithms no lower than 1e-20, below which the gradient is 0; here the gradient is exact. It splits a
    batch of 256 images into gauss_num parts and takes an optimiser step on each, which steps_per_batch does here.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: m, noise samples per image.
        steps: T, steps of each attack.
        climb_size: alpha, length of each step, in units of [0, 1] pixels.
        lbd: eta, weight of the loss on mixtures.
        first_step: 0: mix with the image itself; k: with the image after k steps ("one-step adversary" for 1).
        warmup: epochs over which eta, and the ball that first_step is kept in, grow to their full size.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = SmoothMix(sigma=0.25, steps=2)(network, images, labels)
    >>> loss.total.backward()
    """

    name = "smoothmix"
    passes = 2
    climb_size: float = option(1.0, CLIMB_SIZE, above=0)
    lbd: float = option(5.0, "Weight (eta) of the loss on mixtures.", least=0)
    first_step: int = option(0, "Mix with the image after this many attack steps; 0: with the image itself.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.first_step < self.steps, f"first_step {self.first_step} leaves none of the {self.steps} steps")

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        grown = progress.warmed_up(self.warmup)
        noise = training_noise(images, self.sigma, self.gauss_num, generator)
        path = climb(network, images, labels, noise, step_size=self.climb_size, steps=self.steps)
        ball = grown * self.climb_size * self.first_step
        start = images + keep_in_box(images, keep_in_ball(path[self.first_step] - images, ball))
        share = uniform_draws(images, 1, generator).to(images.dtype) / 2
        weight = share.view(-1, 1, 1, 1)
        logits = logits_of_copies(network, start.unsqueeze(1) + noise)
        mixed = logits_of_copies(network, ((1 - weight) * start + weight * path[-1]).unsqueeze(1) + noise)
        classification = cross_entropy(logits, labels)
        mixture = mixture_loss(logits, mixed, labels, share.squeeze(1)).mean()
        return Loss(
            classification + self.lbd * grown * mixture,
            {"classification": classification.detach(), "mixture": mixture.detach()},
        )


def mixture_loss(logits: Logits, mixed: Logits, labels: Labels, share: Tensor) -> Tensor:
    """Return mean_i KL((1 - s) F + s / classes || F_i) for each image that F classifies correctly, 0 for the others.

    F is the mean of the softmax over the noisy copies of the image, F_i the softmax of a noisy copy of the mixture, and
    s the weight of the attack's end in it: Jeong et al. 2021 (arXiv 2111.09277). Sums are in double precision.

    Args:
        logits: of the noisy copies of each image.
        mixed: of the noisy copies of each mixture.
        labels: the images' classes, shape (batch,).
        share: s of each image, in [0, 1/2], shape (batch,).

    Returns:
        Shape (batch,).
    """
    copies, classes = logits.shape[1:]
    log_mean = logits.double().log_softmax(2).logsumexp(1) - math.log(copies)
    s = share.double().unsqueeze(1)
    # log((1 - s) F + s / classes), which is finite for any F and s.
    log_label = torch.logaddexp(torch.log1p(-s) + log_mean, (s / classes).log())
    divergence = (log_label.exp() * (log_label - mixed.double().log_softmax(2).mean(1))).sum(1)
    right = log_mean.argmax(1) == labels
    return torch.where(right, divergence, torch.zeros_like(divergence)).to(logits.dtype)
