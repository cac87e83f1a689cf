"""Random crops and flips of whole batches, on the device of the images."""

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor


def crop_and_flip(
    images: Shaped[Tensor, "batch channels height width"], generator: torch.Generator, padding: int = 4
) -> Shaped[Tensor, "batch channels height width"]:
    """Crop each zero-padded image at random, and mirror it with probability 1/2: the usual augmentation for CIFAR.

    Each image is thereby shifted by up to `padding` pixels in each direction.
    """
    batch, _, height, width = images.shape
    device = images.device

    def uniform(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    rows = uniform(2 * padding + 1) + torch.arange(height, device=device)
    columns = uniform(2 * padding + 1) + torch.arange(width, device=device)
    columns = torch.where(uniform(2).bool(), columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding))
    picture = torch.arange(batch, device=device).view(-1, 1, 1)
    # Because of the slice between the indices, NumPy's rules put the channels last.
    return padded[picture, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
