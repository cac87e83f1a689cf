"""The common parts of attacks on a smoothed network: the loss that they raise, its gradient, and the ball."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from macer.runs.settings import require
from macer.smoothing.loss import smoothed_loss
from macer.smoothing.network import evaluating, logits_of_copies

Images = Float[Tensor, "batch channels height width"]
Noise = Float[Tensor, "batch m channels height width"]
Ascent = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images to the unit direction in which each one's loss grows, and whether most noisy copies are misclassified."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A search for images near the given ones that a smoothed network misclassifies.

    Subclasses are frozen dataclasses that implement `search`.

    Attributes:
        epsilon: radius of the L2 ball, in [0, 1] pixel units.
        steps: evaluations of the network, each on all noise samples.
        gradient_free: estimate the direction from the network's outputs alone; see `ascent_direction`.
    """

    name: ClassVar[str]
    epsilon: float
    steps: int
    gradient_free: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < math.inf, f"epsilon must not be negative, not {self.epsilon:g}")
        require(self.steps >= 1, f"steps must be at least 1, not {self.steps}")

    def attack(
        self,
        network: nn.Module,
        images: Images,
        labels: Int64[Tensor, " batch"],
        noise: Noise,
    ) -> Images:
        """Return adversarial images, within epsilon of `images` up to rounding, and within [0, 1].

        Salman et al. 2019 (arXiv 1906.04584), section 2.2: the smoothed network is its mean softmax over m noise
        samples, which stay the same in all steps. As in their code the network runs in eval mode; its own mode is
        restored and its parameters get no gradients. Costs steps * m forward and backward passes per image.

        Args:
            network: maps images in [0, 1] to logits.
            images: the images to attack, in [0, 1].
            labels: their classes, which the attack tries to change.
            noise: the m noise samples of each image, already multiplied by sigma.

        Raises:
            SettingsError: the images do not lie in [0, 1].
        """
        low, high = torch.stack(images.aminmax()).tolist()
        require(low >= 0 and high <= 1, f"images to attack must lie in [0, 1], not [{low:g}, {high:g}]")

        def ascent(perturbation: Tensor) -> tuple[Tensor, Tensor]:
            return ascent_direction(network, images + perturbation, labels, noise, gradient_free=self.gradient_free)

        with evaluating(network):
            return images + self.search(ascent, images)

    def search(self, ascent: Ascent, images: Images) -> Images:
        """Return the perturbation, at most epsilon long, that `attack` adds to `images`."""
        raise NotImplementedError


def ascent_direction(
    network: nn.Module,
    images: Images,
    labels: Int64[Tensor, " batch"],
    noise: Noise,
    *,
    gradient_free: bool = False,
) -> tuple[Images, Bool[Tensor, " batch"]]:
    """Return the unit direction in which the smoothed network's loss at each image grows, and which images fool it.

    The gradient of -log((1/m) sum_i softmax(f(x + noise_i))_y) with respect to x: the sample estimate of objective (S)
    of Salman et al. 2019, section 2.2. With `gradient_free` instead -(1/m) sum_i softmax(f(x + noise_i))_y noise_i,
    as the option --no-grad-attack of their code does: in expectation sigma^2 times the gradient of
    -E softmax(f(x + noise))_y (Stein's lemma), whose direction is the loss's. No backward pass, but many samples.

    An image fools the network where most noisy copies get another class than its label (the lowest class, if several
    have equally many). An image without any gradient gets direction 0; their code gives it a random one.
    """
    with torch.set_grad_enabled(not gradient_free):
        point = images.detach().requires_grad_(not gradient_free)
        logits = logits_of_copies(network, point.unsqueeze(1) + noise)
        if gradient_free:
            index = labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
            gradient = -(torch.softmax(logits, dim=2).gather(2, index)[..., None, None] * noise).mean(1)
        else:
            (gradient,) = torch.autograd.grad(smoothed_loss(logits, labels).sum(), point)
    votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(1)
    return unit(gradient), votes.argmax(1) != labels


def norms(perturbation: Images) -> Float[Tensor, "batch 1 1 1"]:
    """Return the L2 norm of each image's perturbation, in a shape that broadcasts."""
    return perturbation.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def unit(vector: Images) -> Images:
    """Return each image's vector at length 1; 0 stays 0.

    It is scaled by its largest entry first: a confident network's gradients are so small that their squares are 0.
    """
    tiny = torch.finfo(vector.dtype).tiny
    scaled = vector / vector.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / norms(scaled).clamp_min(1)


def keep_in_ball(perturbation: Images, epsilon: float) -> Images:
    """Return the nearest perturbations that are at most epsilon long."""
    tiny = torch.finfo(perturbation.dtype).tiny
    return perturbation * (epsilon / norms(perturbation).clamp_min(tiny)).clamp_max(1)


def keep_in_box(images: Images, perturbation: Images) -> Images:
    """Return the nearest perturbations that keep the images in [0, 1]. None becomes longer."""
    return (images + perturbation).clamp(0, 1) - images
