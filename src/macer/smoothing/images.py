"""Check and convert the images that a user gives: tensors or arrays, one image or a batch, floats or bytes."""

import hashlib
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from macer.errors import SettingsError

LEVELS = 255
"""Steps of the grid of 8-bit images from black to white: one step is 1/255."""

_ROUNDING = 1e-6
"""An image that was computed may leave [0, 1] by so much."""

_OVERSHOOT = 0.15
"""By how much bicubic resizing may leave [0, 1] at an edge."""

_SHAPES = {3: "(channels, height, width)", 4: "(images, channels, height, width)"}


def as_images(
    x: Tensor | np.ndarray, *, any_range: bool = False
) -> tuple[Float[Tensor, "batch channels height width"], bool]:
    """Return a batch of floating-point images, and whether `x` was a single image.

    Args:
        x: one image (channels, height, width) or a batch (batch, channels, height, width), as for `as_pixels`. Bytes
            are divided by 255.
        any_range: accept floating-point numbers outside [0, 1].

    Raises:
        SettingsError: the shape, the type or a value is not one of these.
    """
    other = " (SmoothedClassifier(any_range=True) accepts other ranges)"
    x = as_pixels(x, "images", (3, 4), any_range=any_range, other_remedy=other)
    x = from_levels(x.float()) if x.dtype == torch.uint8 else x.to(torch.promote_types(x.dtype, torch.float32))
    return (x.unsqueeze(0), True) if x.dim() == 3 else (x, False)


def from_levels(levels: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Divide grey levels by 255, in place: the same pixels on every device.

    CUDA multiplies by the reciprocal of a Python number, which rounds otherwise. By a tensor it divides.
    """
    return levels.div_(levels.new_full((), LEVELS))


def as_pixels(
    x: Any, what: str, dimensions: Collection[int], *, any_range: bool = False, other_remedy: str = ""
) -> UInt8[Tensor, "*batch channels height width"] | Float[Tensor, "*batch channels height width"]:
    """Return an image or a batch of images as a tensor of its type.

    Args:
        x: a tensor or an array of floating-point numbers in [0, 1], which rounding may exceed by 1e-6, or of bytes
            from 0 to 255.
        what: what to call it in an error.
        dimensions: how many it may have: 3 for (channels, height, width), 4 for (images, channels, height, width).
        any_range: accept floating-point numbers outside [0, 1].
        other_remedy: what the error about such numbers says in the end.

    Raises:
        SettingsError: the shape, the type or a value is not one of these.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
        x = torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(x, Tensor):
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise SettingsError(
            f"{what} must be a tensor or an array of numbers, not {kind} (macer.certify takes data sets, and PIL "
            "images in them)"
        )
    shape = tuple(x.shape)
    wanted = " or ".join(_SHAPES[each] for each in dimensions)
    if len(shape) not in dimensions:
        hint = ": grey images have one channel, images[:, None]" if (len(shape), *dimensions) == (3, 4) else ""
        raise SettingsError(f"{what} must be {wanted}, not {shape}{hint}")
    channels, height, width = shape[-3:]
    if width in (1, 3, 4) and channels > 4 and height > 4:
        raise SettingsError(
            f"{what} must be {wanted}, and {shape} looks like (height, width, channels), channels last: "
            f"permute{(0, 3, 1, 2) if len(shape) == 4 else (2, 0, 1)} (NumPy: transpose) puts them first"
        )
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise SettingsError(f"{what} must be of floating-point numbers in [0, 1] or uint8 from 0 to 255, not {x.dtype}")
    if x.dtype != torch.uint8 and x.numel():
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SettingsError(f"{what} must be finite; these hold NaN or infinity")
        if not any_range and (low < -_ROUNDING or high > 1 + _ROUNDING):
            raise SettingsError(
                f"{what} must lie in [0, 1], the unit of sigma and of radii, but the pixels range from {low:g} to "
                f"{high:g}: {_remedy(low, high)}{other_remedy}"
            )
    return x


def _remedy(low: float, high: float) -> str:
    """Return what to do about pixels from `low` to `high`, which are not all in [0, 1]."""
    if low > -_OVERSHOOT and high < 1 + _OVERSHOOT:
        return "if they come from resizing, which overshoots, clamp them to [0, 1]"
    if low < 0:
        return "if they are normalised, undo that, and put the normalisation in front of the network as a layer"
    if LEVELS / 2 <= high <= LEVELS:
        return f"divide all images by {LEVELS}"
    return "divide all images by the largest pixel of the data"


def image_digest(image: Float[Tensor, "channels height width"]) -> str:
    """Return 16 hexadecimal digits that stand for an image: of SHA-256 over its shape and its pixels in float32."""
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(repr(tuple(image.shape)).encode() + pixels.tobytes()).hexdigest()[:16]
