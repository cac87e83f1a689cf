"""SmoothAdv: adversarial training against the smoothed network."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from macer.attacks import ATTACKS, DDN, PGD, Attack
from macer.objectives.base import Loss, Objective, Progress, option, require
from macer.objectives.consistency import add_consistency
from macer.smoothing.noise import Generators, training_noise

_GREY_LEVEL = 1 / 255


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Objective):
    """Cross-entropy on x' + noise, where x' attacks the smoothed network: Salman et al. 2019 (arXiv 1906.04584).

    Pseudocode 1 with the objective (S) of section 2.2: x' maximises -log((1/m) sum_i softmax(f(x' + noise_i))_y)
    within the ball ||x' - x||_2 <= epsilon, and f is trained on x' with the very same noise. Costs
    noise_samples * (steps + 1) forward and backward passes an image; with multi_noise off, noise_samples * steps + 1.
    With no_grad_attack the steps of the attack are forward passes alone.

    Where released code differs (Salman et al., and its copies in the code of the consistency and CAT-RS papers, which
    the published settings come from):
    - It divides epsilon by 256, the papers by 255, as here: a ball 0.4 % larger.
    - It splits a batch into noise_samples parts and, with multi_noise, takes an optimiser step after each: its
      batch_size 256 with 4 samples is 64 images a step, four times each.
    - It clamps the mean softmax at 1e-20, below which the gradient is 0, and an image without gradient takes a random
      step. Here the gradient is exact, and an image without any takes no step.
    - Its no_grad_attack is ignored where noise_samples = 1 and refused for DDN. Here it holds for all.
    - Its multi_noise is an option that is off; the copies always train on all samples, which is the default here.

    Attributes:
        sigma: standard deviation of the noise.
        epsilon: radius of the ball in grey levels, 1/255 of the [0, 1] pixel range: 255 is 1.0.
        steps: of the attack.
        step_size: of PGD, in grey levels; None is 2 * epsilon / steps, with epsilon as it warms up.
        noise_samples: m, noise samples of an image.
        warmup: epochs over which epsilon grows linearly: epsilon * e / warmup in the e-th epoch, counted from 1.
        attack: pgd or ddn.
        multi_noise: train on all m noisy copies; otherwise on the first.
        no_grad_attack: estimate the attack's gradient from outputs alone, see `macer.attacks.ascent_direction`.
        consistency: lambda of Consistency's loss on the noisy copies of the adversarial images, which is added.
    """

    name = "smoothadv"
    attacks = True
    epsilon: float = option(256.0, "radius of the attacks' L2 ball, in units of 1/255")
    steps: int = option(10, "steps of an attack")
    step_size: float | None = option(None, "step size of PGD, in units of 1/255; by default 2 * epsilon / steps")
    noise_samples: int = option(4, "m: noise samples of an image")
    warmup: int = option(10, "epochs over which epsilon grows to its full size")
    attack: str = option("pgd", f"the attack: {' or '.join(ATTACKS)}")
    multi_noise: bool = option(True, "train on all noisy copies of an image instead of one")
    no_grad_attack: bool = option(False, "attack with gradients estimated from outputs alone")
    consistency: float = option(0.0, "lambda of Consistency's loss, added on the same noisy copies; 0: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.epsilon < math.inf, f"epsilon must be a positive number, not {self.epsilon:g}")
        require(self.noise_samples >= 1, f"noise_samples (m) must be at least 1, not {self.noise_samples}")
        require(self.warmup >= 0, f"warmup must not be negative, not {self.warmup}")
        require(self.attack in ATTACKS, f"no attack is named {self.attack!r}: choose {' or '.join(ATTACKS)}")
        require(self.step_size is None or self.attack == PGD.name, f"step_size is for {PGD.name} alone")
        require(0 <= self.consistency < math.inf, f"consistency must not be negative, not {self.consistency:g}")
        copies = self.noise_samples if self.multi_noise else 1
        require(
            not self.consistency or copies >= 2, "consistency needs noise_samples (m) of at least 2, all trained on"
        )
        self.attacker(Progress())  # refuses what is left

    @property
    def samples(self) -> int:
        """m * steps for the attack, and m, or 1, to train on."""
        return self.noise_samples * self.steps + (self.noise_samples if self.multi_noise else 1)

    @property
    def copies(self) -> int:
        """m."""
        return self.noise_samples

    def attacker(self, progress: Progress) -> Attack:
        """The attack at this point of the training."""
        grown = min(1.0, (math.floor(progress.epoch) + 1) / max(1, self.warmup))
        epsilon = self.epsilon * _GREY_LEVEL * grown
        if self.attack == DDN.name:
            return DDN(epsilon=epsilon, steps=self.steps, gradient_free=self.no_grad_attack)
        size = None if self.step_size is None else self.step_size * _GREY_LEVEL
        return PGD(epsilon=epsilon, steps=self.steps, gradient_free=self.no_grad_attack, step_size=size)

    def __call__(
        self,
        network: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        *,
        generator: Generators,
        progress: Progress,
    ) -> Loss:
        """Mean cross-entropy over the adversarial images and their noisy copies."""
        noise = training_noise(images, self.sigma, self.noise_samples, generator)
        adversarial = self.attacker(progress).attack(network, images, labels, noise)
        if not self.multi_noise:
            noise = noise[:, :1]
        logits = network((adversarial.unsqueeze(1) + noise).flatten(0, 1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classification = F.cross_entropy(logits, labels.repeat_interleave(noise.shape[1]))
        loss = Loss(classification, {"classification": classification.detach()})
        logits = logits.unflatten(0, (len(images), -1))
        return add_consistency(loss, logits, self.consistency) if self.consistency else loss
