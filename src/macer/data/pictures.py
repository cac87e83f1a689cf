"""Decode pictures (JPEG, PNG, ...), and cut from them the images that the network sees."""

import io
import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from macer.data.files import reason
from macer.errors import DataError, needs

with needs("data"):
    from PIL import Image, ImageOps

SIZE = 224
"""Height and width that pictures are brought to where nothing else is asked for, as usual for ImageNet."""
_LONGEST = 100
"""Largest ratio of the sides of a picture that is scaled as a whole."""


class Pictures(ABC):
    """Encoded pictures with labels, which are read one by one.

    Attributes:
        labels: the class of each picture.
    """

    labels: Int64[Tensor, " pictures"]

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, str]:
        """Return an encoded picture, and its name in messages.

        Raises:
            DataError: the picture cannot be read.
        """

    def open(self, index: int) -> tuple[io.BufferedIOBase, str]:
        """Return a stream of an encoded picture, of which only the start may be needed, and its name in messages.

        Raises:
            DataError: the picture cannot be read.
        """
        content, source = self.read(index)
        return io.BytesIO(content), source

    def file_name(self, index: int) -> str | None:
        """Return the name that a person knows a picture by, or None if it has none."""
        return None


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the warning of Pillow about pictures that are half as large as those that it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@_silence()
def open_picture(stream: io.BufferedIOBase, source: str) -> Image.Image:
    """Open a picture, without reading its pixels.

    Args:
        stream: the encoded picture.
        source: name of the picture in messages.

    Raises:
        DataError: the content is not a picture, or has more than 179 million pixels, which Pillow refuses.
    """
    try:
        return Image.open(stream)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # decoders of damaged pictures fail in many ways
        # Pillow's own message names an object in memory.
        what = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else reason(error)
        raise DataError(f"{source}: cannot be decoded: {what}") from error


@_silence()
def decode(
    content: bytes, source: str, *, mode: str = "RGB", size: tuple[int, int] | None = None, upright: bool = False
) -> Image.Image:
    """Decode a picture to 8-bit colour or grey, from any mode.

    Args:
        content: the encoded picture.
        source: name of the picture in messages.
        mode: "RGB", or "L" for grey.
        size: the (width, height) that it must have; None for any.
        upright: whether it is turned as EXIF says that the camera was held.

    Raises:
        DataError: the picture is damaged or cut off, has too many pixels, more than 8 bits per channel,
            or another size.
    """
    picture = open_picture(io.BytesIO(content), source)
    try:
        if has_more_than_8_bits(picture):
            raise ValueError("more than 8 bits per channel, which is not supported")
        if upright:
            picture = ImageOps.exif_transpose(picture)
        if size is not None and picture.size != size:
            raise ValueError(f"{picture.size[0]} x {picture.size[1]} pixels where {size[0]} x {size[1]} are expected")
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return picture.convert(mode)
    except Exception as error:
        raise DataError(f"{source}: cannot be decoded: {reason(error)}") from error


def has_more_than_8_bits(picture: Image.Image) -> bool:
    """Return whether a channel has more than 8 bits. Of colour only the file tells, before its pixels are read."""
    return picture.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def to_tensor(picture: Image.Image) -> UInt8[Tensor, "channels height width"]:
    """Return the pixels of a grey or RGB picture."""
    return torch.from_numpy(np.atleast_3d(np.array(picture))).permute(2, 0, 1)


def unchanged(picture: Image.Image) -> Image.Image:
    """Return the picture, which has the size that the network needs."""
    return picture


@_silence()
def centre_view(picture: Image.Image, size: int, shorter: int | None = None) -> Image.Image:
    """Return the centre of a picture: its shorter side is scaled bilinearly, and a central square is kept.

    Lengths are rounded as in torchvision, so that certificates can be compared with published ones.

    Args:
        picture: of any size.
        size: width and height of the square.
        shorter: length that the shorter side is scaled to. Default: size * 256 / 224, as usual for tests on ImageNet.
    """
    width, height = picture.size
    # Only the middle of an extremely long picture is scaled, because the whole would take gigabytes.
    left, top = max(0, width - _LONGEST * height) // 2, max(0, height - _LONGEST * width) // 2
    if left or top:
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    shorter = shorter or size * 256 // 224
    width, height = (
        (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    )
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = picture.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


@_silence()
def random_view(picture: Image.Image, rng: random.Random, size: int) -> Image.Image:
    """Return a random part of a picture, scaled to `size` x `size`, and mirrored with probability 1/2.

    This is the usual augmentation for ImageNet: the part covers 8% to 100% of the picture, and its ratio of sides lies
    between 3/4 and 4/3 (Szegedy et al. 2015, Going Deeper with Convolutions, section 6). If ten random parts do not fit
    into the picture, the largest central part with such a ratio is used.
    """
    full_width, full_height = picture.size
    for _ in range(10):
        area = full_width * full_height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            left, top = rng.randint(0, full_width - width), rng.randint(0, full_height - height)
            break
    else:
        width, height = min(full_width, round(full_height * 4 / 3)), min(full_height, round(full_width * 4 / 3))
        left, top = (full_width - width) // 2, (full_height - height) // 2
    view = picture.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view
