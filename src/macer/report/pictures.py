"""Which images the page shows, and their pictures as data URIs."""

import base64
import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
from jaxtyping import Float
from torch import Tensor

from macer.errors import needs
from macer.report.classes import labels_and_predictions
from macer.results.records import Records

with needs("report"):
    from PIL import Image

_EXTREME = 12
"""How many of the most and least robust, wrong and abstained images come first, whatever their class."""
_LOSSLESS_PIXELS = 128 * 128


def choose_images(all_records: Sequence[Records], limit: int) -> list[int]:
    """Return the indices of at most `limit` images that are worth looking at.

    These are in turn the most robust, the least robust, the wrong (largest radius first) and the abstained images, of
    all records and then of each class.

    Args:
        all_records: records with indices, labels and predictions.
        limit: number of images.
    """
    extremes, by_class = [], []
    for records in all_records:
        labels, _ = labels_and_predictions(records)
        extremes += [ranking[:_EXTREME] for ranking in _rankings(records, np.ones(len(records), dtype=bool))]
        for label in np.unique(labels):
            by_class += _rankings(records, labels == label)
    chosen = dict.fromkeys([*_in_turn(extremes), *_in_turn(by_class)])
    return list(chosen)[:limit]


def _rankings(records: Records, among: np.ndarray) -> list[list[int]]:
    """Return the indices of correct images by falling and rising radius, of wrong images, and of abstained ones."""
    _, predicted = labels_and_predictions(records)
    idx = np.arange(len(records)) if records.idx is None else records.idx
    falling = np.argsort(-records.radius, kind="stable")
    rising = np.argsort(records.radius, kind="stable")
    correct, abstained = among & records.correct, among & (predicted == -1)
    wrong = among & ~records.correct & ~abstained
    orders = ((falling, correct), (rising, correct), (falling, wrong), (rising, abstained))
    return [idx[order[kept[order]]].tolist() for order, kept in orders]


def _in_turn(rankings: Iterable[Sequence[int]]) -> list[int]:
    return [index for each in zip_longest(*rankings) for index in each if index is not None]


def data_uri(image: Float[Tensor, "channels height width"]) -> str | None:
    """Return a picture as a data URI, PNG or (if large) JPEG; None if it has neither one nor three channels."""
    channels, height, width = image.shape
    if channels not in (1, 3):
        return None
    pixels = image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    stream = io.BytesIO()
    lossless = height * width <= _LOSSLESS_PIXELS
    picture.save(stream, "PNG", optimize=True) if lossless else picture.save(stream, "JPEG", quality=88)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
