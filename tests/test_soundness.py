"""Whether certificates hold: an attack that tries to break them.

Seeds are fixed. A correct certifier fails here with probability below 0.1: about 100 certificates at alpha = 0.001, and
a wrong one only where the attack finds the place.
"""

from dataclasses import dataclass

import pytest
import torch
from seeded import SIGMA, seeded
from torch import Tensor, nn

from macer.attacks import PGD
from macer.data import load
from macer.smoothing import ABSTAIN, SmoothedClassifier
from macer.smoothing.loss import smoothed_loss

pytest_plugins = ["undefended"]

RESTARTS, STEPS, NOISE_SAMPLES = 6, 8, 12


@dataclass(frozen=True)
class Certified:
    index: int
    image: Tensor
    predict: int
    radius: float


@pytest.fixture(scope="module")
def smoothed(undefended: nn.Module) -> SmoothedClassifier:
    return SmoothedClassifier(undefended, SIGMA, 10, batch_size=1000)


@pytest.fixture(scope="module")
def certified(smoothed: SmoothedClassifier) -> list[Certified]:
    """Every certificate that is one, of 110 images, at n = 1000."""
    found, images = [], load("digits", None, "test")
    for index in range(110):
        image, _ = images[index]
        certificate = smoothed.certify(image, 100, 1000, image_index=index)
        if not certificate.abstained:
            found.append(Certified(index, image, certificate.predict, certificate.radius))
    assert len(found) >= 100
    return found


def worst_point(network: nn.Module, about: Certified, epsilon: float) -> Tensor:
    """Of PGD's attacks with noise of their own, the point with the largest loss on noise that none has seen."""
    starts = about.image.expand(RESTARTS, *about.image.shape)
    labels = torch.full((RESTARTS,), about.predict)

    def noise(count: int, seed: int) -> Tensor:
        return SIGMA * torch.randn(RESTARTS, count, *about.image.shape, generator=seeded(seed))

    attack = PGD(epsilon=epsilon, steps=STEPS)
    points = attack.attack(network, starts, labels, noise(NOISE_SAMPLES, about.index))
    with torch.no_grad():
        logits = network((points.unsqueeze(1) + noise(50, 1000 + about.index)).flatten(0, 1))
    return points[smoothed_loss(logits.view(RESTARTS, 50, -1), labels).argmax()]


def changed(smoothed: SmoothedClassifier, about: Certified, epsilon: float) -> bool:
    """Whether the smoothed classifier surely answers something else at the worst point found."""
    point = worst_point(smoothed.network, about, epsilon)
    assert (point - about.image).norm() <= epsilon * (1 + 1e-5)
    return smoothed.predict(point, 500, image_index=about.index) not in (about.predict, ABSTAIN)


def test_no_attack_succeeds_inside_a_certified_ball(smoothed: SmoothedClassifier, certified: list[Certified]):
    assert [about.index for about in certified if changed(smoothed, about, 0.999 * about.radius)] == []


def test_the_same_attack_succeeds_outside(smoothed: SmoothedClassifier, certified: list[Certified]):
    """The attack of the test above bites: at three times the radius it changes most answers."""
    fooled = sum(changed(smoothed, about, 3 * about.radius) for about in certified[:40])
    assert fooled > 20
