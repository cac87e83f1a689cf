"""Attacks against slow literal references, against their constraints, and against a real, undefended network."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from seeded import SIGMA, Digits, seeded
from torch import Tensor, nn

from macer.attacks import DDN, PGD, Attack, ascent_direction, smoothed_loss
from macer.errors import SettingsError
from macer.models import build

pytest_plugins = ["undefended"]

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (PGD, DDN)}


def gaussian(images: Tensor, m: int, seed: int) -> Tensor:
    batch, *shape = images.shape
    return SIGMA * torch.randn(batch, m, *shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def network(undefended: nn.Module) -> nn.Module:
    return undefended


@pytest.fixture(scope="module")
def digits(noisy_digits: Digits) -> Digits:
    return noisy_digits


@dataclass(frozen=True)
class Outcome:
    """Of each image, over 100 noise samples that no attack has seen: -log mean softmax; whether the vote is right."""

    loss: Tensor
    correct: Tensor


def smoothed_outcome(network: nn.Module, images: Tensor, labels: Tensor) -> Outcome:
    with torch.no_grad():
        logits = network((images.unsqueeze(1) + gaussian(images, 100, seed=99)).flatten(0, 1))
    logits = logits.view(len(images), 100, 10)
    return Outcome(smoothed_loss(logits, labels), logits.argmax(2).mode(1).values == labels)


def random_of_same_norm(images: Tensor, adversarial: Tensor, seed: int) -> Tensor:
    direction = torch.randn(images.shape, generator=seeded(seed))
    length = (adversarial - images).flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
    return images + direction * length.view(-1, 1, 1, 1)


@given(
    kind=st.sampled_from(sorted(ATTACKS)),
    epsilon=st.floats(0, 10),
    steps=st.integers(1, 4),
    gradient_free=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_stays_in_the_ball_and_in_the_box(
    network: nn.Module, digits: Digits, kind: str, epsilon: float, steps: int, gradient_free: bool
) -> None:
    images, labels = digits[0][:12], digits[1][:12]
    attack = ATTACKS[kind](epsilon=epsilon, steps=steps, gradient_free=gradient_free)
    adversarial = attack.attack(network, images, labels, gaussian(images, 2, seed=1))
    length = (adversarial - images).double().flatten(1).norm(dim=1)
    # x + delta rounds each of the 64 pixels by at most 2^-25.
    assert (length <= epsilon * (1 + 1e-6) + 8 * 2**-25).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(PGD(epsilon=1.0, steps=5), id="pgd"),
        pytest.param(PGD(epsilon=2.0, steps=5, gradient_free=True), id="pgd-gradient-free"),
        pytest.param(DDN(epsilon=1.0, steps=8), id="ddn"),
    ],
)
def test_harms_more_than_a_random_perturbation_of_the_same_norm(
    network: nn.Module, digits: Digits, attack: Attack
) -> None:
    """Loss by a sign test over the images that moved; smoothed accuracy by McNemar's exact test.

    Of 200 images 187 are right. After PGD 24 are (181 at random), after DDN, which moves as little as it can, 59 (186),
    after gradient-free PGD in a ball twice as large 120 (174).
    """
    images, labels = digits
    adversarial = attack.attack(network, images, labels, gaussian(images, 16, seed=3))
    clean, attacked, randomly = (
        smoothed_outcome(network, x, labels)
        for x in (images, adversarial, random_of_same_norm(images, adversarial, seed=4))
    )
    moved = (adversarial != images).flatten(1).any(1)
    assert moved.sum() > 50
    for other in (clean, randomly):
        higher = int((attacked.loss > other.loss)[moved].sum())
        assert stats.binomtest(higher, int(moved.sum()), alternative="greater").pvalue < 1e-6

    lost, won = int((randomly.correct & ~attacked.correct).sum()), int((attacked.correct & ~randomly.correct).sum())
    counts = ", ".join(str(int(outcome.correct.sum())) for outcome in (clean, randomly, attacked))
    assert stats.binomtest(lost, lost + won, alternative="greater").pvalue < 1e-4, counts


def double(network: nn.Module) -> nn.Module:
    copy = build("convnet", 10, (1, 8, 8)).double()
    copy.load_state_dict(network.state_dict())
    return copy


def literal_gradient(network: nn.Module, image: Tensor, label: int, noise: Tensor) -> Tensor:
    """Gradient of -log((1/m) sum_i p_i) as -(sum_i grad p_i) / (sum_i p_i), sample by sample."""
    total, slope = 0.0, torch.zeros_like(image)
    for sample in noise:
        point = image.clone().requires_grad_()
        p = torch.softmax(network((point + sample).unsqueeze(0)), 1)[0, label]
        slope += torch.autograd.grad(p, point)[0]
        total += p.item()
    return -slope / total


def literal_gradient_free(network: nn.Module, image: Tensor, label: int, noise: Tensor) -> Tensor:
    with torch.no_grad():
        terms = [torch.softmax(network((image + sample).unsqueeze(0)), 1)[0, label] * sample for sample in noise]
    return -sum(terms, torch.zeros_like(image)) / len(terms)


@pytest.mark.parametrize("literal", [literal_gradient, literal_gradient_free])
def test_direction_is_the_formulas_in_float64(
    network: nn.Module, digits: Digits, literal: Callable[[nn.Module, Tensor, int, Tensor], Tensor]
) -> None:
    images, labels = digits[0][:10], digits[1][:10]
    noise = gaussian(images, 5, seed=5)
    direction, fooled = ascent_direction(network, images, labels, noise, gradient_free=literal is literal_gradient_free)
    exact = double(network)
    for index, label in enumerate(labels.tolist()):
        expected = literal(exact, images[index].double(), label, noise[index].double())
        torch.testing.assert_close(direction[index].double(), expected / expected.norm(), atol=1e-4, rtol=0)
        votes = torch.bincount(exact(images[index].double() + noise[index].double()).argmax(1), minlength=10)
        assert bool(fooled[index]) == (int(votes.argmax()) != label)


def test_literal_gradient_is_the_slope_of_the_loss(network: nn.Module, digits: Digits) -> None:
    """The reference itself, against central differences of the loss in float64, along ten random directions."""
    image, label, noise = digits[0][:1].double(), digits[1][:1], gaussian(digits[0][:1], 5, seed=5).double()
    exact = double(network)

    def loss(point: Tensor) -> float:
        return smoothed_loss(exact((point.unsqueeze(1) + noise).flatten(0, 1)).view(1, 5, 10), label).item()

    gradient = literal_gradient(exact, image[0], int(label), noise[0])
    for seed in range(10):
        step = 1e-6 * torch.randn(image.shape, generator=seeded(seed), dtype=torch.float64)
        slope = (loss(image + step) - loss(image - step)) / 2
        assert slope == pytest.approx(float((gradient * step[0]).sum()), rel=1e-4, abs=1e-11)


def test_gradient_free_direction_approaches_the_gradient(network: nn.Module, digits: Digits) -> None:
    """Stein's lemma: with many samples both point the same way. At random, cosines in 64 dimensions are near 0.125."""
    images, labels = digits[0][:3], digits[1][:3]
    noise = gaussian(images, 10_000, seed=6)
    with_gradient, _ = ascent_direction(network, images, labels, noise[:, :1000])
    without, _ = ascent_direction(network, images, labels, noise - noise.mean(1, keepdim=True), gradient_free=True)
    assert (with_gradient * without).flatten(1).sum(1).min() > 0.6


def literal_attack(attack: Attack, network: nn.Module, image: Tensor, label: int, noise: Tensor) -> Tensor:
    """One image in float64, as the papers and the released code write it, without regard for zeros."""
    delta = torch.zeros_like(image)
    if isinstance(attack, PGD):
        for _ in range(attack.steps):
            gradient = literal_gradient(network, image + delta, label, noise)
            delta = delta + attack.epsilon / attack.steps * 2 * gradient / gradient.norm()
            delta = (image + delta).clamp(0, 1) - image
            if delta.norm() > attack.epsilon:
                delta = delta * attack.epsilon / delta.norm()
        return image + delta
    assert isinstance(attack, DDN)
    norm, best = attack.epsilon, None
    for step in range(attack.steps):
        votes = network(image + delta + noise).argmax(1).bincount(minlength=10)
        fooled = int(votes.argmax()) != label
        if fooled and (best is None or delta.norm() < best.norm()):
            best = delta
        gradient = literal_gradient(network, image + delta, label, noise)
        alpha = 0.01 + (1 - 0.01) / 2 * (1 + math.cos((step + 1) / attack.steps * math.pi))
        delta = delta + alpha * gradient / gradient.norm()
        norm = norm * (1 - 0.05) if fooled else norm * (1 + 0.05)
        norm = min(norm, float(torch.max(image, 1 - image).norm()))
        delta = (image + norm * delta / delta.norm()).clamp(0, 1) - image
    if best is None:
        return image
    return image + best * min(1.0, attack.epsilon / max(float(best.norm()), 1e-300))


@pytest.mark.parametrize("attack", [PGD(epsilon=0.7, steps=6), DDN(epsilon=0.7, steps=6)])
def test_attack_is_the_literal_one(network: nn.Module, digits: Digits, attack: Attack) -> None:
    images, labels = digits[0][:30], digits[1][:30]
    noise = gaussian(images, 4, seed=7)
    adversarial = attack.attack(network, images, labels, noise)
    exact = double(network)
    expected = [
        literal_attack(attack, exact, image.double(), label, sample.double())
        for image, label, sample in zip(images, labels.tolist(), noise, strict=True)
    ]
    assert (torch.stack(expected) != images).flatten(1).any(1).sum() > 10
    torch.testing.assert_close(adversarial.double(), torch.stack(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_nothing_is_drawn(network: nn.Module, digits: Digits, kind: str) -> None:
    attack, noise = ATTACKS[kind](epsilon=1.0, steps=3), gaussian(digits[0][:20], 4, seed=8)
    state = torch.get_rng_state()
    first, second = (attack.attack(network, digits[0][:20], digits[1][:20], noise) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


class Coupled(nn.Module):
    """Batch norm and dropout, which behave differently in training, and a part that is kept in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.frozen, self.dropout = nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.Dropout()
        self.last = nn.Linear(64, 10)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        if self.fail:
            raise RuntimeError("out of memory")
        return self.last(self.dropout(self.frozen(self.norm(x))).flatten(1))


@pytest.mark.parametrize("kind", sorted(ATTACKS))
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_leaves_the_network_as_it_was(digits: Digits, kind: str, fail: bool, gradients: bool) -> None:
    images, labels = digits[0][:6], digits[1][:6]
    network = Coupled().train()
    network.frozen.eval()
    network.fail = fail
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    with torch.set_grad_enabled(gradients):
        try:
            adversarial = ATTACKS[kind](epsilon=1.0, steps=2).attack(network, images, labels, gaussian(images, 2, 1))
        except RuntimeError:
            assert fail
        else:
            assert not fail
            assert not adversarial.requires_grad
        assert torch.is_grad_enabled() == gradients
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not images.requires_grad
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", sorted(ATTACKS))
@pytest.mark.parametrize("label", [0, 1])  # all weights 0: class 0 wins each tie, so label 1 is fooled, label 0 is not
def test_without_gradient_the_image_stays(digits: Digits, kind: str, label: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    images = digits[0][:5]
    attack = ATTACKS[kind](epsilon=1.0, steps=3)
    adversarial = attack.attack(network, images, torch.full((5,), label), gaussian(images, 2, seed=1))
    assert torch.equal(adversarial, images)


@pytest.mark.parametrize("scale", [1e-32, 1e-25, 1e-3, 1e3, 1e25])
def test_direction_does_not_depend_on_the_gradients_size(digits: Digits, scale: float) -> None:
    """A linear network's directions, though at 1e-25 the squares of the gradient are 0 and at 1e25 infinite."""
    images, labels = digits[0][:5], digits[1][:5]
    linear = nn.Linear(64, 10, bias=False)
    nn.init.orthogonal_(linear.weight)

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 10) + _Scale.apply(linear(x.flatten(1)))

    class _Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return gradients[0] * scale

    noise = gaussian(images, 2, seed=1)
    direction, _ = ascent_direction(Scaled(), images, labels, noise)
    expected, _ = ascent_direction(nn.Sequential(nn.Flatten(), linear), images, labels, noise)
    torch.testing.assert_close(direction, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), torch.ones(5))


def test_loss_is_finite_for_hopeless_logits() -> None:
    """-log of a mean softmax of e^-1000, which no float holds, against its exact value."""
    logits = torch.tensor([[[0.0, -1000.0], [0.0, -1000.0]], [[0.0, 0.0], [0.0, -1000.0]]], requires_grad=True)
    loss = smoothed_loss(logits, torch.tensor([1, 1]))
    torch.testing.assert_close(loss.detach(), torch.tensor([1000.0, math.log(4)]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0], torch.tensor([[0.5, -0.5], [0.5, -0.5]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        smoothed_loss(logits[:, :1], torch.tensor([1, 0])),
        F.cross_entropy(logits[:, 0], torch.tensor([1, 0]), reduction="none"),
    )


@pytest.mark.parametrize("pixels", [1.5, -0.1, math.nan])
def test_refuses_images_out_of_range(network: nn.Module, pixels: float) -> None:
    images = torch.full((2, 1, 8, 8), 0.5)
    images[1, 0, 3, 3] = pixels
    with pytest.raises(SettingsError, match=r"must lie in \[0, 1\]"):
        PGD(epsilon=1.0, steps=1).attack(network, images, torch.tensor([0, 1]), gaussian(images, 1, seed=1))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (PGD, {"epsilon": -1.0}),
        (PGD, {"epsilon": math.nan}),
        (DDN, {"epsilon": math.inf}),
        (PGD, {"steps": 0}),
        (PGD, {"step_size": 0.0}),
    ],
)
def test_refuses_impossible_numbers(kind: type[Attack], fields: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(fields))):
        kind(**{"epsilon": 1.0, "steps": 2, **fields})  # type: ignore[arg-type]
