"""CAT-RS: training whose difficulty follows the confidence of each image's noisy copies."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Module

from macer.attacks import worst_noise
from macer.objectives.base import (
    AttackingObjective,
    Images,
    Labels,
    Logits,
    Loss,
    Progress,
    TeacherShares,
    option,
)
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, training_noise, uniform_draws


@dataclass(frozen=True, kw_only=True)
class CatRs(AttackingObjective):
    """Confidence-aware training: Jeong, Kim and Shin 2023 (AAAI; arXiv 2212.09000), with an online estimate.

    Let p be the probability that a noisy copy of an image is classified correctly. Only the Binomial(gauss_num, p)
    copies with the smallest cross-entropy count, but at least one. An image whose copies all count is also trained on
    the worst of its noise samples after an attack on the noise. The attack's target is the share of each class in the
    votes of a teacher on noisy copies of the image (in the paper a network of Gaussian augmentation at sigma 0.25, with
    10,000 votes); without a teacher it is the mean prediction of the copies of the same step, as in FT-CADIS (arXiv
    2411.08933). p is always the share of correct copies of the same step, as in released code, which has an option for
    the teacher's p. Costs gauss_num * (steps + 2) forward and backward passes per image.

    Where released code differs: the code of CAT-RS splits a batch of 256 images into gauss_num parts and takes an
    optimiser step on each, which steps_per_batch does here. Its teacher votes on one augmented view of each image,
    whose votes then go with other views; here it votes on the image as it is. The code of FT-CADIS lets the gradient
    flow through the target; here the target is a constant, as a teacher's is.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: M, noise samples per image.
        steps: T, steps of each attack on the noise.
        noise_epsilon: radius of the L2 ball around each noise sample, in units of [0, 1] pixels.
        lbd: lambda, weight of the loss on the worst noise.

    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = CatRs(sigma=0.25, steps=2)(network, images, labels)
    >>> loss.total.backward()
    """

    name = "cat-rs"
    passes = 2
    takes_teacher = True
    noise_epsilon: float = option(
        1.0, "Radius of the L2 ball around each noise sample, in units of [0, 1] pixels, not of 1/255.", above=0
    )
    lbd: float = option(1.0, "Weight (lambda) of the loss on the worst noise.", least=0)

    def loss(
        self,
        network: Module,
        images: Images,
        labels: Labels,
        *,
        generator: Generators | None,
        progress: Progress,
        teacher: TeacherShares | None = None,
    ) -> Loss:
        noise = training_noise(images, self.sigma, self.gauss_num, generator)
        draws = uniform_draws(images, self.gauss_num, generator)
        logits = logits_of_copies(network, images.unsqueeze(1) + noise)
        low, complete = bottom_loss(logits, labels, draws)
        targets = logits.detach().softmax(2).mean(1) if teacher is None else teacher.to(logits.dtype)
        worst = worst_noise(network, images, targets, noise, epsilon=self.noise_epsilon, steps=self.steps)
        high = worst_case_loss(logits_of_copies(network, images.unsqueeze(1) + worst), targets)
        bottom, top = low.mean(), torch.where(complete, high, torch.zeros_like(high)).mean()
        return Loss(bottom + self.lbd * top, {"bottom": bottom.detach(), "worst_case": top.detach()})


def bottom_loss(
    logits: Logits, labels: Labels, draws: Float[Tensor, "batch k"]
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Return the sum of the K smallest cross-entropies of each image, divided by k, and whether K = k.

    K = max(1, number of draws below the share of copies that are classified correctly), which is Binomial(k, share) for
    uniform draws: Jeong, Kim and Shin 2023 (arXiv 2212.09000), the bottom-K loss.

    Args:
        logits: of the noisy copies of each image.
        labels: the images' classes.
        draws: from the uniform distribution on [0, 1).
    """
    k = logits.shape[1]
    share = (logits.argmax(2) == labels.unsqueeze(1)).double().mean(1, keepdim=True)
    kept = (draws < share).sum(1, keepdim=True).clamp_min(1)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(k), reduction="none").unflatten(0, (-1, k))
    counts = torch.arange(k, device=logits.device) < kept
    total = torch.where(counts, losses.sort(1).values, torch.zeros_like(losses)).sum(1)
    return total / k, (kept == k).squeeze(1)


def worst_case_loss(logits: Logits, targets: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return the largest KL(target || F_i) over the noisy copies of each image: the worst-case loss of the same paper.

    Args:
        logits: of the noisy copies of each image.
        targets: the class probabilities of each image.
    """
    entropy = -torch.special.xlogy(targets, targets).sum(1)
    cross = -(targets.unsqueeze(1) * logits.log_softmax(2)).sum(2)
    return cross.amax(1) - entropy
