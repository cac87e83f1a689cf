"""Check and convert the images that a user gives: tensors or arrays, one image or a batch, floats or bytes."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from macer.errors import SettingsError

_ROUNDING = 1e-6
"""An image that was computed may leave [0, 1] by so much."""


def as_images(
    x: Tensor | np.ndarray, *, any_range: bool = False
) -> tuple[Float[Tensor, "batch channels height width"], bool]:
    """Return a batch of floating-point images, and whether `x` was a single image.

    Args:
        x: one image (channels, height, width) or a batch (batch, channels, height, width), either in floating-point
            numbers in [0, 1] or in bytes from 0 to 255, which are divided by 255.
        any_range: accept floating-point numbers outside [0, 1].

    Raises:
        SettingsError: the shape, the type or a value is not one of these.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
        x = torch.from_numpy(np.array(x, order="C"))
    if not isinstance(x, Tensor):
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise SettingsError(
            f"images must be a tensor or an array of numbers, not {kind} (macer.certify takes data sets)"
        )
    shape = tuple(x.shape)
    if x.dim() not in (3, 4):
        raise SettingsError(
            f"images must be (channels, height, width), or (batch, channels, height, width) for a batch, not {shape}"
        )
    channels, height, width = shape[-3:]
    if width in (1, 3, 4) and channels > 4 and height > 4:
        raise SettingsError(
            f"images must be (channels, height, width), and {shape} looks like (height, width, channels): "
            "move the last axis to the front"
        )
    if x.dtype == torch.uint8:
        x = x.float().div(255)
    elif not x.is_floating_point():
        raise SettingsError(f"pixels must be floating-point numbers in [0, 1] or uint8 from 0 to 255, not {x.dtype}")
    elif x.numel():
        _check_values(x.detach(), any_range)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x.unsqueeze(0), True) if x.dim() == 3 else (x, False)


def image_digest(image: Float[Tensor, "channels height width"]) -> str:
    """Return 16 hexadecimal digits that stand for an image: of SHA-256 over its shape and its pixels in float32."""
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(repr(tuple(image.shape)).encode() + pixels.tobytes()).hexdigest()[:16]


def _check_values(x: Tensor, any_range: bool) -> None:
    if not bool(torch.isfinite(x).all()):
        raise SettingsError("images must be finite; these hold NaN or infinity")
    low, high = torch.stack(x.aminmax()).tolist()
    if not any_range and (low < -_ROUNDING or high > 1 + _ROUNDING):
        raise SettingsError(
            f"images must lie in [0, 1], the unit of sigma and of radii, but these range from {low:g} to {high:g}: "
            "divide pixels of 0..255 by 255 and normalise inside the network (any_range=True accepts other ranges)"
        )
