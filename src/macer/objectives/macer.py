"""MACER: maximise the certified radius of the soft smoothed classifier, without attacks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import Module

from macer.objectives.base import Images, Labels, Loss, Objective, Progress, option, require
from macer.objectives.consistency import add_consistency
from macer.smoothing.loss import smoothed_loss
from macer.smoothing.training_noise import Generators


@dataclass(frozen=True, kw_only=True)
class Macer(Objective):
    """Classification loss + lbd * robustness loss: Algorithm 1 of Zhai et al. 2020 (ICLR; arXiv 2001.02378).

    Costs gauss_num forward and backward passes per image.

    Where paper and released code differ: the code adds 1e-10 inside the logarithm of the classification loss, which is
    not needed here. It drops an image whose xi is infinite, undefined or above gamma from the robustness loss; the
    paper's hinge gives such an image 0, which is the same sum. The code computes Phi^-1(p_y) from p_y, which in float32
    is infinite above 1 - 6e-8; here, above 1/2, it is -Phi^-1(1 - p_y) with 1 - p_y summed from the other classes,
    which keeps loss and gradient exact for images that gamma admits.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: k, noise samples per image.
        lbd: lambda, weight of the robustness loss.
        gamma: hinge: an image with xi above it is robust enough.
        beta: inverse temperature of the softmax in the robustness loss.
        deferred: keep lambda at 0 until the learning rate first drops.
        deferred_gauss_num: k while lambda is 0, when few samples are enough; 0: gauss_num.
        consistency: lambda of Consistency's loss on the same noisy copies, added from the first step on.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = Macer(sigma=0.25)(network, images, labels)
    >>> loss.total.backward()
    >>> sorted(loss.terms)
    ['classification', 'robustness']
    """

    name = "macer"
    gauss_num: int = option(16, "Number of noisy copies of each image in a step (k).", least=1)
    lbd: float = option(12.0, "Weight (lambda) of the loss that the method adds to the classification loss.", least=0)
    gamma: float = option(
        8.0, "Hinge (gamma) of the robustness loss: images that are robust beyond it add nothing.", above=0
    )
    beta: float = option(16.0, "Inverse temperature (beta) of the softmax in the robustness loss.", above=0)
    deferred: bool = option(False, "Keep lambda at 0 until the learning rate first drops.")
    deferred_gauss_num: int = option(0, "Number of noisy copies (k) while lambda is kept at 0; 0: gauss_num.", least=0)
    consistency: float = option(
        0.0, "Weight (lambda) of Consistency's loss, which is added on the same noisy copies; 0: none.", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.deferred or not self.deferred_gauss_num, "deferred_gauss_num is for training with deferred")
        require(not self.consistency or self.gauss_num >= 2, "consistency needs gauss_num (k) of at least 2")

    @property
    def samples(self) -> int:
        return self.gauss_num

    def samples_at(self, progress: Progress) -> int:
        deferred = self.deferred_gauss_num if self.held_back_by(progress) else 0
        return deferred or self.gauss_num

    def held_back_by(self, progress: Progress) -> str | None:
        return "deferred" if self.deferred and not progress.learning_rate_dropped else None

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        k = self.samples_at(progress)
        logits = self.noisy_logits(network, images, k, generator)
        classification = smoothed_loss(logits, labels).mean()
        if self.held_back_by(progress):
            robustness = torch.zeros_like(classification)
            total = classification
        else:
            robustness = robustness_loss(logits, labels, sigma=self.sigma, gamma=self.gamma, beta=self.beta).mean()
            total = classification + self.lbd * robustness
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
    """Return (sigma/2) max(gamma - xi, 0) of each image that the soft smoothed classifier gets right, 0 of the others.

    xi = Phi^-1(p_y) - Phi^-1(max_{c != y} p_c) with p = (1/k) sum_j softmax(beta z_j). Zhai et al. 2020, equations 13
    and 16 and Algorithm 1. An image whose xi is infinite or undefined gets 0 and no gradient.

    Args:
        logits: z of k noisy copies of each image.
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
    # Near the smallest number the gradient of Phi^-1 overflows; p_y is practically 1 there.
    finfo = torch.finfo(p.dtype)
    usable = (p.argmax(1) == labels) & (runner_up >= finfo.tiny / finfo.eps)
    # Phi^-1(p_y) = -Phi^-1(1 - p_y): rounding leaves the smaller of p_y and 1 - p_y exact.
    small = torch.where(complement < p_y, complement, p_y)
    sign = torch.where(complement < p_y, -1.0, 1.0)
    # Unusable images get a harmless value before Phi^-1, because a gradient of infinity times 0 is not 0.
    xi = sign * torch.special.ndtri(small.where(usable, torch.full_like(small, 0.5)))
    xi = xi - torch.special.ndtri(runner_up.where(usable, torch.full_like(runner_up, 0.5)))
    return torch.where(usable & (xi <= gamma), (sigma / 2) * (gamma - xi), torch.zeros_like(xi))
