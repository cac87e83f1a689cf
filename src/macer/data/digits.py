"""The digits of scikit-learn: 1,797 handwritten digits of 8 x 8 pixels, which need no files."""

from pathlib import Path

import numpy as np
import torch

from macer.data.images import InMemoryImages
from macer.errors import needs

_TRAINING_IMAGES = 1297


def load_digits(name: str, _root: Path | None, split: str) -> InMemoryImages:
    """Return the first 1,297 digits for training, or the last 500 for tests.

    The digits are in the order in which they were collected, so most test digits are by writers who are not among the
    training digits. Grey levels from 0 to 16 are stretched to 0 to 255 and rounded to bytes.

    Raises:
        MissingLibrary: scikit-learn is not installed.
    """
    with needs("data"):
        from sklearn.datasets import load_digits as load  # slow to import

    pixels, target = load(return_X_y=True)
    part = slice(None, _TRAINING_IMAGES) if split == "train" else slice(_TRAINING_IMAGES, None)
    images = np.rint(pixels[part].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(target[part].astype(np.int64))
    return InMemoryImages(name, split, torch.from_numpy(images), labels, tuple(map(str, range(10))))
