"""Consistency regularisation: the noisy copies of an image get the same answer."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from macer.objectives.base import Images, Labels, Loss, Objective, Progress, cross_entropy, option
from macer.smoothing.training_noise import Generators

ENTROPY_WEIGHT = 0.5
"""Weight of the entropy in every published setting but one (0.1: ImageNet at sigma = 1)."""


@dataclass(frozen=True, kw_only=True)
class Consistency(Objective):
    """Cross-entropy on noisy copies, plus their disagreement: Jeong and Shin 2020 (arXiv 2006.04062).

    Costs gauss_num forward and backward passes per image.

    Where released code differs: it takes the logarithm of the mean prediction no lower than 1e-20, below which the
    gradient is 0; here the gradient is exact. It splits a batch of 256 images into gauss_num parts and takes an
    optimiser step on each, which steps_per_batch does here.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: m, noisy copies of each image in a batch.
        lbd: lambda, weight of the disagreement.
        entropy_weight: eta, weight of the entropy of the mean prediction.
    """

    name = "consistency"
    gauss_num: int = option(2, "Number of noisy copies of each image in a step (k).", least=2)
    lbd: float = option(10.0, "Weight (lambda) of the loss that the method adds to the classification loss.", least=0)
    entropy_weight: float = option(
        ENTROPY_WEIGHT, "Weight (eta) of the entropy of the copies' mean prediction.", least=0
    )

    @property
    def samples(self) -> int:
        return self.gauss_num

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        logits = self.noisy_logits(network, images, self.gauss_num, generator)
        classification = cross_entropy(logits, labels)
        loss = Loss(classification, {"classification": classification.detach()})
        return add_consistency(loss, logits, self.lbd, self.entropy_weight)


def add_consistency(
    loss: Loss, logits: Float[Tensor, "batch copies classes"], lbd: float, entropy_weight: float = ENTROPY_WEIGHT
) -> Loss:
    """Return the loss of a batch plus the mean consistency loss of its images, which becomes one more term."""
    consistency = consistency_loss(logits, lbd, entropy_weight).mean()
    return Loss(loss.total + consistency, {**loss.terms, "consistency": consistency.detach()})


def consistency_loss(
    logits: Float[Tensor, "batch copies classes"], lbd: float, entropy_weight: float = ENTROPY_WEIGHT
) -> Float[Tensor, " batch"]:
    """Return lambda * mean_i KL(F || F_i) + eta * H(F) of each image, with F_i = softmax(z_i) and F the mean of F_i.

    Jeong and Shin 2020. The gradient flows through F as well. Sums are in double precision: the
    logarithms nearly cancel where the copies are certain of one class.

    Args:
        logits: z of the noisy copies of each image.
        lbd: lambda, weight of the disagreement.
        entropy_weight: eta, weight of the entropy of the mean prediction.
    """
    log_each = torch.log_softmax(logits.double(), dim=2)
    log_mean = log_each.logsumexp(1) - math.log(logits.shape[1])
    mean = log_mean.exp()
    disagreement = (mean * (log_mean - log_each.mean(1))).sum(1)
    entropy = -(mean * log_mean).sum(1)
    return (lbd * disagreement + entropy_weight * entropy).to(logits.dtype)
