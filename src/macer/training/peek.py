"""A quick look at the certified radii while training goes on."""

import copy

from jaxtyping import Int64
from torch import Tensor, nn

from macer.data import LabelledImages
from macer.smoothing import SmoothedClassifier

N0, N, ALPHA = 100, 1000, 0.001
"""Samples and failure probability of a peek. With so few no radius exceeds 2.46 sigma, so that the ACR comes out lower
than the one that a certification with 100,000 samples finds; from epoch to epoch it may be compared."""


def acr_estimate(
    network: nn.Module,
    weights: dict[str, Tensor],
    images: LabelledImages,
    indices: Int64[Tensor, " images"],
    *,
    sigma: float,
    seed: int,
) -> float:
    """The average certified radius, wrong answers counting 0, from N samples an image.

    Args:
        network: the one being trained; it stays as it is.
        weights: what to look at: its own, or their moving average.
        images: the training split.
        indices: of the images that training does not see.
        sigma: standard deviation of the noise.
        seed: of the noise, which is the same each time.
    """
    copied = copy.deepcopy(network).float().eval()
    copied.load_state_dict(weights)
    classifier = SmoothedClassifier(copied, sigma, images.num_classes, seed=seed)
    total = 0.0
    for index in indices.tolist():
        image, label = images[index]
        certificate = classifier.certify(image, N0, N, ALPHA, image_index=index)
        total += certificate.radius if certificate.predict == label else 0.0
    return total / len(indices)
