"""Certified accuracy class by class, and which class is taken for which: pure functions of records."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import ndtr

from macer.errors import RecordsError
from macer.results.metrics import Estimate
from macer.results.records import Records
from macer.smoothing.bounds import wilson_interval


@dataclass(frozen=True)
class ClassResult:
    """What was certified for the images of one class.

    Attributes:
        label: the class.
        images: number of its images.
        accuracy: its certified accuracy at the radius, with Wilson's 95% interval.
        acr: its average certified radius.
        abstained: number of its images on which the classifier abstained.
    """

    label: int
    images: int
    accuracy: Estimate
    acr: float
    abstained: int


def class_results(records: Records, radius: float) -> list[ClassResult]:
    """Return a result for each class among the labels, ascending.

    Raises:
        RecordsError: the records have no labels or predictions.
    """
    labels, predicted = labels_and_predictions(records)
    classes, which = np.unique(labels, return_inverse=True)
    images = np.bincount(which)
    shares = np.bincount(which, weights=records.correct & (records.radius >= radius)) / images
    acr = np.bincount(which, weights=records.certified_radius) / images
    abstained = np.bincount(which, weights=predicted == -1)
    results = []
    for number, label in enumerate(classes.tolist()):
        low, high = wilson_interval(shares[number : number + 1], int(images[number]))
        accuracy = Estimate(float(shares[number]), float(low[0]), float(high[0]))
        results.append(ClassResult(label, int(images[number]), accuracy, float(acr[number]), int(abstained[number])))
    return results


def confusion(records: Records, radius: float) -> dict[tuple[int, int], int]:
    """Return how many images of a class have a prediction certified at `radius` or more: (label, prediction) -> images.

    The prediction -1 counts the images without such a certificate: abstained, or certified at a smaller radius only. A
    wrong prediction is constant within its radius, too: the network is provably, robustly wrong there.

    Args:
        records: the certificates.
        radius: L2 radius in units of [0, 1] pixels.

    Raises:
        RecordsError: the records have no labels or predictions.
    """
    labels, predicted = labels_and_predictions(records)
    answers = np.where(records.radius >= radius, predicted, -1)
    pairs, counts = np.unique(np.stack([labels, answers]), axis=1, return_counts=True)
    return {(label, answer): images for (label, answer), images in zip(pairs.T.tolist(), counts.tolist(), strict=True)}


def labels_and_predictions(
    records: Records,
) -> tuple[Int64[np.ndarray, " images"], Int64[np.ndarray, " images"]]:
    """Return labels and predictions.

    Raises:
        RecordsError: the records have none, like those of `.mat` files.
    """
    if records.label is None or records.predict is None:
        raise RecordsError(f"{records.name}: has no labels and predictions")
    return records.label, records.predict


def proved_bounds(records: Records) -> Float64[np.ndarray, " images"] | None:
    """Return each image's lower bound on the probability (hard) or mean score (soft) of its prediction.

    It is the one that the certificate recorded. Files of other programs have none: there it is the bound from which
    Cohen et al. 2019 (theorem 1, with p_B = 1 - p_A) compute the radius, Phi(radius / sigma). It is 0, which claims
    nothing, where the classifier abstained. Return None if sigma is unknown as well.
    """
    if records.p_a_lower is not None:
        bounds = records.p_a_lower
    elif records.sigma is not None:
        bounds = ndtr(records.radius / records.sigma)
    else:
        return None
    return bounds if records.predict is None else np.where(records.predict == -1, 0.0, bounds)
