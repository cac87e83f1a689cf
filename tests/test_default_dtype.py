"""Results that are the same whatever the default type of PyTorch's tensors is."""

import copy

import pandas
import pytest
import torch
from test_grid import ALL_LEVELS
from torch import Tensor, nn

import macer
from macer import models
from macer.models.diffusion import OneStepDiffusion
from macer.models.digest import probe
from macer.models.in_memory import count_classes
from macer.objectives import HardData
from macer.runs.teacher import TeacherVotes
from macer.smoothing import Hard, SmoothedClassifier, Soft
from macer.smoothing.grid import GridNoiseSource, rounded_gaussian
from macer.smoothing.noise import NoiseSource
from macer.smoothing.training_noise import uniform_draws
from macer.smoothing.words import Stage
from macer.training.sampled_backward import SampledBackward
from macer.training.selection import select

DTYPES = [torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_and_certificates_are_the_same_under_every_default_dtype(dtype, default_dtype):
    """In bfloat16 the noise t of a white image would be rounded before k is added: to even t beyond 256."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 4)).eval()
    sources = GridNoiseSource(0.5, 0), NoiseSource(0.5, 0)
    images = torch.rand(2, 1, 16, 16)
    batch = torch.stack([ALL_LEVELS, torch.ones(1, 16, 16), *images])

    def made():
        rounded_gaussian.cache_clear()
        noise = [source.blocks(ALL_LEVELS, 0, Stage.ESTIMATION, 0, 2) for source in sources]
        noise.append(uniform_draws(images, 3, torch.Generator().manual_seed(0)))
        g = SmoothedClassifier(network, 0.5, 4, seed=0)
        certificates = [list(g.certify(batch, n=300, kind=kind)) for kind in (Hard(), Soft())]
        return (
            noise,
            certificates,
            probe(network, 4, (1, 16, 16)),
        )

    noise, certificates, answers = made()
    default_dtype(dtype)
    noise_again, certificates_again, answers_again = made()
    for one, other in zip((*noise, answers), (*noise_again, answers_again), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert certificates == certificates_again


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_8_bit_images_are_certified_the_same_under_every_default_dtype(dtype, default_dtype):
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    images = torch.arange(512, dtype=torch.uint8).view(2, 1, 16, 16), torch.tensor([0, 1])

    def rows():
        found = macer.certify(copy.deepcopy(network), images, sigma=0.5, n=300, seed=0, progress=False)
        return found.frame()[["idx", "label", "predict", "radius", "p_a_lower"]]

    expected = rows()
    default_dtype(dtype)
    pandas.testing.assert_frame_equal(rows(), expected)


IMAGES = torch.rand(256, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(256) % 3


def linear() -> nn.Module:
    """A network that is certain of some images alone, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layer = nn.Linear(16, 3, dtype=torch.float32)
    layer.weight.data.mul_(30)
    return nn.Sequential(nn.Flatten(), layer)


def selected() -> list[Tensor]:
    parts = select(linear(), IMAGES, LABELS, sigma=0.1, easy_fraction=0.3, generator=torch.Generator().manual_seed(0))
    assert len(parts) == 2
    return [part.positions for part in parts]


def gradient_of_some() -> list[Tensor]:
    network = linear()
    sampled = SampledBackward(network, 0.3, torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(sampled(IMAGES), LABELS, reduction="sum").backward()
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def times_of_diffusion() -> list[Tensor]:
    """Its model is told the step, here 867 of 1000, which bfloat16 would round to 868."""
    seen: list[Tensor] = []

    class Model(nn.Module):
        def forward(self, u: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return u

    alphas = torch.linspace(1, 0, 1002, dtype=torch.float64)[1:-1]
    OneStepDiffusion(Model(), alphas, (868 / 133) ** 0.5 / 2)(IMAGES)
    assert seen[0].tolist() == [867.0] * 256
    return seen


def classes() -> list[Tensor]:
    return [torch.tensor(count_classes(module, (1, 4, 4))) for module in (linear(), nn.Flatten())]


def share_right() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [HardData(sigma=0.5)._share_right(100, linear(), IMAGES, LABELS, generator)]


def teachers_shares() -> list[Tensor]:
    counts = torch.tensor([[333, 667], [1000, 0]], dtype=torch.int32)
    made = {"dataset": "", "split": "train", "images": "", "sigma": 0.25, "n": 1000, "seed": 0, "network": ""}
    return [TeacherVotes(counts=counts, **made).shares(torch.tensor([0, 1]))]


def built() -> list[Tensor]:
    torch.manual_seed(0)
    return list(models.build("convnet", 10, (3, 8, 8), "cifar10").state_dict().values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "made", [selected, gradient_of_some, times_of_diffusion, classes, share_right, teachers_shares, built]
)
def test_networks_and_training_are_the_same_under_every_default_dtype(made, dtype, default_dtype):
    expected = made()
    default_dtype(dtype)
    for one, other in zip(expected, made(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
