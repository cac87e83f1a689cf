"""Encoded pictures (JPEG, PNG, ...): decoding one, and cutting what the network sees from it."""

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
    from PIL import Image

_LONGEST = 100
"""How many times as long as the shorter side the longer one may be, for a picture to be scaled as a whole."""


class Pictures(ABC):
    """Encoded pictures with labels, read one at a time from where they are stored.

    Attributes:
        labels: the class of each.
    """

    labels: Int64[Tensor, " pictures"]

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, str]:
        """One encoded picture, and a name for it in messages.

        Raises:
            DataError: it cannot be read.
        """


@contextmanager
def _silence() -> Iterator[None]:
    """Pillow warns of pictures half as large as those that it refuses, which nobody needs to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@_silence()
def open_picture(stream: io.BufferedReader | io.BytesIO, source: str) -> Image.Image:
    """A picture of which the size is known, and no pixels yet.

    Args:
        stream: the encoded picture.
        source: a name for it in messages.

    Raises:
        DataError: it is no picture, or has more than 179 million pixels, which Pillow refuses.
    """
    try:
        return Image.open(stream)
    except Exception as error:  # decoders of damaged pictures fail in many ways
        # Pillow names the object in memory that it could not identify, which helps nobody.
        what = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else reason(error)
        raise DataError(f"{source}: cannot be decoded: {what}") from error


@_silence()
def decode(content: bytes, source: str, size: tuple[int, int] | None = None) -> Image.Image:
    """The picture as 8-bit RGB; grey, palette, CMYK and transparent ones are converted. EXIF rotation is not applied.

    Args:
        content: the encoded picture.
        source: a name for it in messages.
        size: the (width, height) it must have, if known.

    Raises:
        DataError: it is damaged or cut off, has too many pixels, more than 8 bits a channel, or another size.
    """
    picture = open_picture(io.BytesIO(content), source)
    try:
        if size is not None and picture.size != size:
            raise ValueError(f"{picture.size[0]} x {picture.size[1]} pixels where {size[0]} x {size[1]} are expected")
        if picture.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits a channel, which are not supported")
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return picture.convert("RGB")
    except Exception as error:
        raise DataError(f"{source}: cannot be decoded: {reason(error)}") from error


def to_tensor(picture: Image.Image) -> UInt8[Tensor, "channels height width"]:
    """The pixels of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def unchanged(picture: Image.Image) -> Image.Image:
    """The view of pictures that all have the size the network sees."""
    return picture


@_silence()
def centre_view(picture: Image.Image, size: int) -> Image.Image:
    """The centre `size` x `size` pixels after scaling the shorter side to size * 256 / 224: ImageNet's usual test view.

    Bilinear scaling; lengths are rounded as torchvision rounds them, so that certificates compare with published ones.
    """
    width, height = picture.size
    # Of an extremely long picture only the middle is scaled: the whole of it would take gigabytes.
    left, top = max(0, width - _LONGEST * height) // 2, max(0, height - _LONGEST * width) // 2
    if left or top:
        picture = picture.crop((left, top, width - left, height - top))
        width, height = picture.size
    shorter = size * 256 // 224
    width, height = (
        (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    )
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = picture.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size, top + size))


@_silence()
def random_view(picture: Image.Image, rng: random.Random, size: int) -> Image.Image:
    """A random part of the picture scaled to `size` x `size`, mirrored with probability 1/2: the usual training view.

    The part covers 8% to 100% of the picture and its ratio of sides lies between 3/4 and 4/3 (Szegedy et al. 2015,
    Going Deeper with Convolutions, section 6). Where ten draws do not fit, it is the largest centred part that does.
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
