"""SmoothAdv: adversarial training against the smoothed network."""

from dataclasses import dataclass
from typing import Literal

from torch.nn import Module

from macer.attacks import DDN, PGD, Attack
from macer.objectives.base import Images, Labels, Loss, Progress, WarmedUpObjective, cross_entropy, option, require
from macer.objectives.consistency import add_consistency
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, training_noise

_GREY_LEVEL = 1 / 255


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(WarmedUpObjective):
    """Cross-entropy on x' + noise, where x' attacks the smoothed network: Salman et al. 2019 (arXiv 1906.04584).

    Pseudocode 1 with objective (S) of section 2.2: x' maximises -log((1/m) sum_i softmax(f(x' + noise_i))_y)
    within the ball ||x' - x||_2 <= epsilon, and f is trained on x' with the very same noise. Costs
    gauss_num * (steps + 1) forward and backward passes per image; with multi_noise off, gauss_num * steps + 1.
    With no_grad_attack the steps of the attack are forward passes alone.

    Where released code differs (Salman et al., and its copies in the code of the consistency and CAT-RS papers, which
    the published settings come from):
    - It divides epsilon by 256, the papers by 255, as here: a ball 0.4 % larger.
    - It splits a batch into gauss_num parts and, with multi_noise, takes an optimiser step after each, which
      steps_per_batch does here.
    - It clamps the mean softmax at 1e-20, below which the gradient is 0, and an image without gradient takes a random
      step. Here the gradient is exact, and an image without any takes no step.
    - Its no_grad_attack is ignored where gauss_num = 1 and refused for DDN. Here it holds for all.
    - Its multi_noise is an option that is off; the copies always train on all samples, which is the default here.

    Attributes:
        sigma: standard deviation of the noise.
        epsilon: radius of the ball in grey levels, 1/255 of the [0, 1] pixel range: 255 is 1.0.
        steps: steps of each attack.
        step_size: step size of PGD in grey levels; None: 2 * epsilon / steps, with epsilon as it warms up.
        gauss_num: m, noise samples per image.
        warmup: epochs over which epsilon grows linearly; it is epsilon * e / warmup in epoch e, counted from 1.
        attack: pgd or ddn.
        multi_noise: train on all m noisy copies; otherwise on the first.
        no_grad_attack: estimate the attack's gradient from outputs alone; see `macer.attacks.ascent_direction`.
        consistency: lambda of Consistency's loss on the noisy copies of the adversarial images, which is added.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = SmoothAdv(sigma=0.25, epsilon=64.0, steps=2)(network, images, labels)
    >>> loss.total.backward()
    """

    name = "smoothadv"
    passes = 1
    epsilon: float = option(
        256.0, "Radius of the L2 ball of an attack, in units of 1/255: 255 is the range of a pixel.", above=0
    )
    steps: int = option(10, "Number of steps of an attack.", least=1)
    step_size: float | None = option(
        None, "Step size of PGD, in units of 1/255. [default: 2 * epsilon / steps]", above=0
    )
    attack: Literal["pgd", "ddn"] = option(
        "pgd", "Attack: projected gradient descent, or decoupled direction and norm."
    )
    multi_noise: bool = option(True, "Train on all noisy copies of each image, not on one.")
    no_grad_attack: bool = option(False, "Estimate the gradients of an attack from the outputs alone.")
    consistency: float = option(
        0.0, "Weight (lambda) of Consistency's loss, which is added on the same noisy copies; 0: none.", least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.step_size is None or self.attack == PGD.name, f"step_size is for {PGD.name} alone")
        copies = self.gauss_num if self.multi_noise else 1
        require(not self.consistency or copies >= 2, "consistency needs gauss_num (m) of at least 2, all trained on")

    @property
    def samples(self) -> int:
        return super().samples if self.multi_noise else self.gauss_num * self.steps + 1

    def attacker(self, progress: Progress) -> Attack:
        """Return the attack at this point of the training."""
        epsilon = self.epsilon * _GREY_LEVEL * progress.warmed_up(self.warmup)
        if self.attack == DDN.name:
            return DDN(epsilon=epsilon, steps=self.steps, gradient_free=self.no_grad_attack)
        size = None if self.step_size is None else self.step_size * _GREY_LEVEL
        return PGD(epsilon=epsilon, steps=self.steps, gradient_free=self.no_grad_attack, step_size=size)

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        noise = training_noise(images, self.sigma, self.gauss_num, generator)
        adversarial = self.attacker(progress).attack(network, images, labels, noise)
        if not self.multi_noise:
            noise = noise[:, :1]
        logits = logits_of_copies(network, adversarial.unsqueeze(1) + noise)
        classification = cross_entropy(logits, labels)
        loss = Loss(classification, {"classification": classification.detach()})
        return add_consistency(loss, logits, self.consistency) if self.consistency else loss
