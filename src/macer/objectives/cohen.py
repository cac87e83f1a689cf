"""Gaussian data augmentation: the training of Cohen et al."""

from dataclasses import dataclass

from torch.nn import Module

from macer.objectives.base import Images, Labels, Loss, Objective, Progress, cross_entropy, option
from macer.smoothing.training_noise import Generators


@dataclass(frozen=True, kw_only=True)
class Cohen(Objective):
    """Cross-entropy on x + N(0, sigma^2 I): Cohen et al. 2019 (arXiv 1902.02918), section 3.3.

    Costs gauss_num forward and backward passes per image; the paper and the released code use one. With more, the loss
    is the mean over the copies.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: k, noisy copies of each image in a batch.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.randint(3, (8,))
    >>> loss = Cohen(sigma=0.25)(network, images, labels)
    >>> loss.total.backward()
    """

    name = "cohen"
    gauss_num: int = option(1, "Number of noisy copies of each image in a step (k).", least=1)

    @property
    def samples(self) -> int:
        return self.gauss_num

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        loss = cross_entropy(self.noisy_logits(network, images, self.gauss_num, generator), labels)
        return Loss(loss, {"classification": loss.detach()})
