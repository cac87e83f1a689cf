"""Training a denoiser, which makes a classifier certifiable that was never trained on noise."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn import Module

from macer.errors import SettingsError
from macer.objectives.base import Images, Labels, Loss, Objective, Progress
from macer.smoothing.network import logits_of
from macer.smoothing.training_noise import Generators, noisy_copies


@dataclass(frozen=True, kw_only=True)
class Denoise(Objective):
    """Mean squared error of the denoised image; or, behind a classifier, the cross-entropy of its answer to that image.

    These are the objectives MSE and stability of Salman et al. (NeurIPS 2020, arXiv 2003.01908). For stability the
    label is the class that the classifier, which stays as it is, gives the clean image; the paper starts it from the
    weights that MSE gave. Costs one forward and backward pass per image, and for stability those of the classifier.
    """

    name = "denoiser"
    denoises = True

    @property
    def samples(self) -> int:
        return 1

    def loss(
        self,
        network: Module,
        images: Images,
        labels: Labels,
        *,
        generator: Generators | None,
        progress: Progress,
        classifier: Module | None = None,
    ) -> Loss:
        denoised = network(noisy_copies(images, self.sigma, 1, generator).squeeze(1))
        if denoised.shape != images.shape:
            raise SettingsError(
                f"the network returned shape {tuple(denoised.shape)} for images of shape {tuple(images.shape)}: a "
                "denoiser returns images"
            )
        if classifier is None:
            error = F.mse_loss(denoised.float(), images.float())
            return Loss(error, {"squared_error": error.detach()})
        with torch.no_grad():
            answers = logits_of(classifier(images)).argmax(1)
        logits = logits_of(classifier(denoised))
        if denoised.requires_grad and not logits.requires_grad:
            raise SettingsError(
                "the classifier gives no gradients, as ONNX does not: give its PyTorch module or weights"
            )
        stability = F.cross_entropy(logits.float(), answers)
        return Loss(stability, {"stability": stability.detach()})
