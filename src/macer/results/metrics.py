"""Certified accuracy and average certified radius, with intervals: pure functions of records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

from macer.results.records import Records


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, over the choice of images."""

    value: float
    low: float
    high: float


def certified_accuracy(records: Records, radius: float) -> float:
    """Share of the images that are classified correctly and certified at `radius` or more."""
    return float(np.mean(records.correct & (records.radius >= radius)))


def certified_accuracy_interval(records: Records, radius: float) -> Estimate:
    """Certified accuracy with Wilson's 95% score interval (Wilson 1927), for images drawn at random."""
    share = certified_accuracy(records, radius)
    low, high = wilson_interval(np.array([share]), len(records))
    return Estimate(share, float(low[0]), float(high[0]))


def wilson_interval(
    share: Float64[np.ndarray, " k"], images: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Wilson's 95% score interval of each share of so many images: the p with |share - p| <= z sqrt(p (1 - p) / N)."""
    z = float(ndtri(0.975))
    centre = share + z**2 / (2 * images)
    half = z * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    scale = 1 + z**2 / images
    return np.minimum((centre - half) / scale, share), np.maximum((centre + half) / scale, share)


def average_certified_radius(records: Records, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over the images of the radius where correct, else 0 (ACR), with a 95% percentile bootstrap interval.

    Zhai et al. 2020, section 5. ACR depends on n: never compare it across n.

    Args:
        records: the certificates.
        resamples: bootstrap resamples of the images.
        seed: of the resampling.
    """
    radii = records.certified_radius
    draw = np.random.default_rng(seed)
    means = [radii[draw.integers(len(radii), size=len(radii))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(radii.mean()), float(low), float(high))


def default_radii(all_records: Sequence[Records]) -> list[float]:
    """0.00, 0.25, ... up to the largest certified radius, at most 2.25 as in the published tables."""
    largest = max(float(records.certified_radius.max()) for records in all_records)
    return [step * 0.25 for step in range(min(10, int(largest / 0.25) + 1))]
