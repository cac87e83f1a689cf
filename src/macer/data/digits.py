"""The embedded data set: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels. Needs no files."""

import numpy as np
import torch

from macer.data.images import InMemoryImages

_TRAINING_IMAGES = 1297


def load_digits(split: str) -> InMemoryImages:
    """The first 1,297 digits to train on, the last 500 to test on: the file's order, so writers are mostly held out.

    Grey levels 0..16 are stretched to 0..255 and rounded, so that digits are 8-bit pictures like all others.
    """
    from sklearn.datasets import load_digits as load  # slow to import, and only this data set needs it

    pixels, target = load(return_X_y=True)
    part = slice(None, _TRAINING_IMAGES) if split == "train" else slice(_TRAINING_IMAGES, None)
    images = np.rint(pixels[part].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(target[part].astype(np.int64))
    return InMemoryImages(
        "digits",
        split,
        torch.from_numpy(images),
        labels,
        tuple(str(digit) for digit in range(10)),
    )
