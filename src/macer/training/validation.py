"""An estimate of the average certified radius while training goes on."""

import copy

from jaxtyping import Int64
from torch import Tensor, nn

from macer.compute.seeding import derive_seed
from macer.data import LabelledImages
from macer.smoothing import SmoothedClassifier

N0, N, ALPHA = 100, 1000, 0.001
"""Samples and failure probability of each certificate. With so few samples no radius exceeds 2.46 sigma, so the
estimate is below the ACR that 100,000 samples give. It is for comparing epochs."""


def acr_estimate(
    network: nn.Module,
    weights: dict[str, Tensor],
    images: LabelledImages,
    indices: Int64[Tensor, " images"],
    *,
    sigma: float,
    seed: int,
) -> float:
    """Return the average certified radius, with 0 for wrong answers, from N noise samples per image.

    Args:
        network: the network in training, which stays as it is.
        weights: the weights to certify: the network's own, or their moving average.
        images: the training split.
        indices: of the images that training does not use.
        sigma: standard deviation of the noise.
        seed: of the training; the noise follows from it, and is the same in every call.
    """
    copied = copy.deepcopy(network).float().eval()
    copied.load_state_dict(weights)
    own_seed = derive_seed(seed, "validation")  # noise that no certificate has
    classifier = SmoothedClassifier(copied, sigma, images.num_classes, seed=own_seed)
    total = 0.0
    for index in indices.tolist():
        image, label = images[index]
        certificate = classifier.certify(image, N0, N, ALPHA, image_index=index)
        total += certificate.radius if certificate.predict == label else 0.0
    return total / len(indices)
