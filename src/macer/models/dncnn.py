"""DnCNN, the convolutional denoiser of denoised smoothing, with the layer names of the published checkpoints.

Zhang et al., Beyond a Gaussian Denoiser (arXiv 1608.03981), as Salman et al. use it (NeurIPS 2020, arXiv 2003.01908).
"""

from jaxtyping import Float
from torch import Tensor, nn


class DnCNN(nn.Module):
    """Return y - noise(y): 3 x 3 convolutions at full resolution predict the noise that is in the images.

    Args:
        channels: of the images.
        depth: number of convolutions, at least 2.
        width: channels between them: 64, or 128 in the published wide network.
    """

    def __init__(self, channels: int = 3, *, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(width, eps=1e-4, momentum=0.95))
            layers.append(nn.ReLU(inplace=True))
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        for module in layers:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
        nn.init.zeros_(last.weight)  # so that training starts from the images as they are
        self.dncnn = nn.Sequential(*layers, last)

    def forward(self, y: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return y - self.dncnn(y)
