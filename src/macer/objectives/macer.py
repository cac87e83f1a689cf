"""MACER: maximise the certified radius of the soft smoothed classifier, without attacks."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from macer.objectives.base import Loss, Objective, Progress, option, require
from macer.objectives.consistency import add_consistency
from macer.smoothing.loss import smoothed_loss
from macer.smoothing.noise import Generators, noisy_copies


@dataclass(frozen=True, kw_only=True)
class Macer(Objective):
    """Algorithm 1 of Zhai et al. 2020 (ICLR; arXiv 2001.02378): classification loss + lbd * robustness loss.

    Costs gauss_num forward and backward passes an image.

    Where paper and released code differ: the code adds 1e-10 inside the logarithm of the classification loss, which
    we do not need. It drops an image whose xi is infinite, undefined or above gamma from the robustness
    loss; the paper's hinge gives such an image 0, which is the same sum. The code computes Phi^-1(p_y) from p_y, which
    in float32 is infinite above 1 - 6e-8; here, above 1/2, it is -Phi^-1(1 - p_y) with 1 - p_y summed from the other
    classes, which keeps loss and gradient exact where gamma lets such an image in.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: k, noise samples an image.
        lbd: lambda, weight of the robustness loss.
        gamma: hinge: an image with xi above it is robust enough.
        beta: inverse temperature of the softmax in the robustness loss.
        deferred: keep lambda at 0 until the learning rate first drops.
        deferred_gauss_num: k as long as lambda is deferred, where few samples teach as much; 0: gauss_num.
        consistency: lambda of Consistency's loss on the same noisy copies, which is added from the first step on.
    """

    name = "macer"
    gauss_num: int = option(16, "k: noise samples an image")
    lbd: float = option(12.0, "lambda: weight of the robustness loss")
    gamma: float = option(8.0, "gamma: hinge of the robustness loss")
    beta: float = option(16.0, "beta: inverse temperature of the softmax")
    deferred: bool = option(False, "lambda is 0 until the learning rate first drops")
    deferred_gauss_num: int = option(0, "k as long as lambda is deferred; 0: gauss_num")
    consistency: float = option(0.0, "lambda of Consistency's loss, added on the same noisy copies; 0: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gauss_num >= 1, f"gauss_num (k) must be at least 1, not {self.gauss_num}")
        require(self.deferred_gauss_num >= 0, f"deferred_gauss_num must not be negative, not {self.deferred_gauss_num}")
        require(self.deferred or not self.deferred_gauss_num, "deferred_gauss_num is for training with --deferred")
        require(0 <= self.lbd < math.inf, f"lbd (lambda) must not be negative, not {self.lbd:g}")
        require(0 <= self.consistency < math.inf, f"consistency must not be negative, not {self.consistency:g}")
        require(not self.consistency or self.gauss_num >= 2, "consistency needs gauss_num (k) of at least 2")
        require(0 < self.gamma < math.inf, f"gamma must be a positive number, not {self.gamma:g}")
        require(0 < self.beta < math.inf, f"beta must be a positive number, not {self.beta:g}")

    @property
    def samples(self) -> int:
        """k."""
        return self.gauss_num

    def samples_at(self, progress: Progress) -> int:
        """k, or deferred_gauss_num as long as lambda is deferred."""
        return self.gauss_num if self._robustness_counts(progress) else self.deferred_gauss_num or self.gauss_num

    def _robustness_counts(self, progress: Progress) -> bool:
        return progress.learning_rate_dropped or not self.deferred

    def __call__(
        self,
        network: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        *,
        generator: Generators,
        progress: Progress,
    ) -> Loss:
        """Mean over the batch of classification + lambda * robustness."""
        k = self.samples_at(progress)
        logits = network(noisy_copies(images, self.sigma, k, generator))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits.unflatten(0, (len(images), k))
        classification = smoothed_loss(logits, labels).mean()
        if self._robustness_counts(progress):
            robustness = robustness_loss(logits, labels, sigma=self.sigma, gamma=self.gamma, beta=self.beta).mean()
            total = classification + self.lbd * robustness
        else:
            robustness = torch.zeros_like(classification)
            total = classification
        loss = Loss(total, {"classification": classification.detach(), "robustness": robustness.detach()})
        return add_consistency(loss, logits, self.consistency) if self.consistency else loss


def robustness_loss(
    logits: Float[Tensor, "batch k classes"],
    labels: Int64[Tensor, " batch"],
    *,
    sigma: float,
    gamma: float,
    beta: float,
) -> Float[Tensor, " batch"]:
    """(sigma/2) max(gamma - xi, 0) of each image that the soft smoothed classifier gets right, 0 of the others.

    xi = Phi^-1(p_y) - Phi^-1(max_{c != y} p_c) with p = (1/k) sum_j softmax(beta z_j). Zhai et al. 2020, equations 13
    and 16 and Algorithm 1. An image whose xi is infinite or undefined counts 0 and carries no gradient.

    Args:
        logits: z of k noise samples of each image.
        labels: the images' classes y.
        sigma: standard deviation of the noise.
        gamma: the hinge.
        beta: inverse temperature of the softmax.
    """
    p = torch.softmax(beta * logits, dim=2).mean(1)
    is_label = F.one_hot(labels, p.shape[1]).bool()
    others = p.masked_fill(is_label, 0.0)
    p_y = p.gather(1, labels.unsqueeze(1)).squeeze(1)
    complement, runner_up = others.sum(1), others.amax(1)
    # Near the smallest number Phi^-1 has a gradient that overflows: there p_y is 1 for all purposes.
    finfo = torch.finfo(p.dtype)
    usable = (p.argmax(1) == labels) & (runner_up >= finfo.tiny / finfo.eps)
    # Phi^-1(p_y) = -Phi^-1(1 - p_y): the smaller of the two is the one that rounding has left exact.
    small = torch.where(complement < p_y, complement, p_y)
    sign = torch.where(complement < p_y, -1.0, 1.0)
    # Unusable images get a harmless value before Phi^-1, because a gradient of infinity times 0 is not 0.
    xi = sign * torch.special.ndtri(small.where(usable, torch.full_like(small, 0.5)))
    xi = xi - torch.special.ndtri(runner_up.where(usable, torch.full_like(runner_up, 0.5)))
    return torch.where(usable & (xi <= gamma), (sigma / 2) * (gamma - xi), torch.zeros_like(xi))
