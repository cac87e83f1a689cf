"""A classifier behind a denoiser, which makes a network certifiable that was never trained on noise."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from macer.errors import SettingsError
from macer.models.diffusion import from_diffusers
from macer.smoothing.network import logits_of


class Denoised(nn.Module):
    """A network for noisy images: denoises them, resizes them if asked, and classifies the result.

    This is denoised smoothing (Salman et al., NeurIPS 2020, arXiv 2003.01908; Carlini et al., ICLR 2023, arXiv
    2206.10550). As the whole is a function of the noisy image, certificates of it are those of any network.

    >>> import torch, macer
    >>> denoiser = torch.nn.AvgPool2d(3, stride=1, padding=1)
    >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> g = macer.SmoothedClassifier(macer.Denoised(denoiser, classifier), sigma=0.25)
    >>> g.certify(torch.rand(1, 8, 8), n=1000).n
    1000

    Args:
        denoiser: from noisy images in [0, 1] to clean ones of the same shape: any module, such as a `DnCNN`, a
            `OneStepDiffusion`, or a pipeline of diffusers with `unet` and `scheduler`.
        classifier: from clean images in [0, 1] to logits, or to an object or mapping that holds logits.
        sigma: standard deviation of the noise in [0, 1] pixel units, which a pipeline must know.
        size: (height, width) that the classifier takes. Default: that of the images.

    Raises:
        SettingsError: a pipeline without sigma, or a sigma that it was not trained for.
    """

    def __init__(
        self,
        denoiser: Any,
        classifier: nn.Module,
        sigma: float | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, nn.Module):
            if sigma is None:
                raise SettingsError("a diffusion pipeline denoises images of one sigma: give it")
            denoiser = from_diffusers(denoiser, sigma)
        self.denoiser = denoiser
        self.classifier = classifier
        self.size = size

    def forward(self, y: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.denoiser(y)
        if not isinstance(x, Tensor) or x.shape != y.shape:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise SettingsError(f"the denoiser returned {found} for noisy images of shape {tuple(y.shape)}")
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return logits_of(self.classifier(x))
