"""Normalisation as the network's first layer, so that images, noise and radii stay in [0, 1] pixel units."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.errors import SettingsError, UnknownName


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std for each channel of an image in [0, 1].

    Attributes:
        description: its name in messages.
        mean: one number per channel.
        std: one number per channel; ones if the images are only centred.
    """

    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def check_channels(self, channels: int) -> None:
        """Refuse images of another number of channels.

        Raises:
            SettingsError: the layer is for another number.
        """
        if len(self.mean) != channels:
            raise SettingsError(f"{self.description} is for {len(self.mean)} channels, the images have {channels}")

    @property
    def is_assumed(self) -> bool:
        """Whether the file of the network does not state it."""
        return self.description.endswith(_ASSUMED)


_ASSUMED = " (assumed)"
_CIFAR10 = (0.4914, 0.4822, 0.4465)
_IMAGENET = (0.485, 0.456, 0.406)

NORMALISATIONS = {
    "cifar10": Normalisation("CIFAR-10 normalisation", _CIFAR10, (0.2023, 0.1994, 0.2010)),
    "cifar10-center": Normalisation("CIFAR-10 centring", _CIFAR10, (1.0, 1.0, 1.0)),
    "cifar100": Normalisation("CIFAR-100 normalisation", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": Normalisation("ImageNet normalisation", _IMAGENET, (0.229, 0.224, 0.225)),
    "imagenet-center": Normalisation("ImageNet centring", _IMAGENET, (1.0, 1.0, 1.0)),
}
"""The layers that published networks were trained behind, from the code of Cohen (github.com/locuslab/smoothing),
Salman (Hadisalman/smoothing-adversarial; the centring ones) and Jeong (alinlab/smoothing-catrs; CIFAR-100)."""


def normalisation_named(name: str) -> Normalisation:
    """Return one of NORMALISATIONS.

    Raises:
        UnknownName: there is none of this name.
    """
    if name not in NORMALISATIONS:
        raise UnknownName(f"no normalisation is named {name!r}: choose one of {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[name]


def recorded_name(description: str | None) -> str | None:
    """Return the name of a layer that the settings of certificates record by its description.

    Returns:
        One of NORMALISATIONS; None where there is no layer, or where the file of weights contains its numbers.
    """
    words = None if description is None else description.removesuffix(_ASSUMED)
    return next((name for name, layer in NORMALISATIONS.items() if layer.description == words), None)


def assumed(name: str) -> Normalisation:
    """Return one of NORMALISATIONS for a file that states none; its description says that it is assumed."""
    layer = normalisation_named(name)
    return replace(layer, description=layer.description + _ASSUMED)


def behind(layer: Normalisation | None) -> str:
    """Return " behind ..." to follow the name of a network in messages; nothing for None."""
    return "" if layer is None else f" behind {layer.description}"


class Normalize(nn.Module):
    """(x - mean) / std for each channel. Both are buffers, so that files of weights contain them.

    Args:
        mean: one number per channel.
        std: one number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        return (x - self.mean) / self.std


def with_normalisation(network: nn.Module, normalisation: Normalisation) -> nn.Sequential:
    """Put a normalisation in front of a network. In the state dict, names are then `0.mean`, `0.std` and `1. ...`."""
    return nn.Sequential(Normalize(normalisation.mean, normalisation.std), network)
