"""Gaussian data augmentation: the training of Cohen et al."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from macer.objectives.base import Loss, Objective, Progress, option, require
from macer.smoothing.noise import Generators, noisy_copies


@dataclass(frozen=True, kw_only=True)
class Cohen(Objective):
    """Cross-entropy on x + N(0, sigma^2 I): Cohen et al. 2019 (arXiv 1902.02918), section 3.3.

    Costs gauss_num forward and backward passes an image; the paper and the released code use one. Where
    gauss_num > 1, the loss is the mean over the copies.

    Attributes:
        sigma: standard deviation of the noise.
        gauss_num: k, noisy copies of each image in a batch.
    """

    name = "cohen"
    gauss_num: int = option(1, "k: noisy copies of an image in a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gauss_num >= 1, f"gauss_num (k) must be at least 1, not {self.gauss_num}")

    @property
    def samples(self) -> int:
        """k."""
        return self.gauss_num

    def __call__(
        self,
        network: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        *,
        generator: Generators,
        progress: Progress,
    ) -> Loss:
        """Mean cross-entropy over the batch and its noisy copies."""
        logits = network(noisy_copies(images, self.sigma, self.gauss_num, generator))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, labels.repeat_interleave(self.gauss_num))
        return Loss(loss, {"classification": loss.detach()})
