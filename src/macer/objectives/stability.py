"""Stability training: a noisy copy of an image gets the answer that the image gets."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch.nn import Module

from macer.objectives.base import Images, Labels, Loss, Objective, Progress, option
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, noisy_copies


@dataclass(frozen=True, kw_only=True)
class Stability(Objective):
    """Cross-entropy on the image, plus that of its noisy copy under the image's prediction: Li et al. 2019.

    arXiv 1809.03113, as the code of the consistency paper (Jeong and Shin 2020) has it: the gradient flows through both
    predictions, and batch norm sees clean and noisy images in batches of their own. Costs two forward and backward
    passes per image, one of them without noise. Some other code gives the name to a loss on two noisy copies, which is
    another method.

    Attributes:
        sigma: standard deviation of the noise.
        lbd: lambda, weight of the stability loss.
    """

    name = "stability"
    lbd: float = option(2.0, "Weight (lambda) of the loss that the method adds to the classification loss.", least=0)

    @property
    def samples(self) -> int:
        return 2

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        copies = images.unsqueeze(1), noisy_copies(images, self.sigma, 1, generator)
        clean, noisy = (logits_of_copies(network, each).squeeze(1) for each in copies)
        classification = F.cross_entropy(clean, labels)
        stability = F.cross_entropy(noisy, clean.softmax(1))
        return Loss(
            classification + self.lbd * stability,
            {"classification": classification.detach(), "stability": stability.detach()},
        )
