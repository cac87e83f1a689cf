"""Denoised smoothing: denoisers of either kind in front of a classifier."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import macer
from macer.errors import MacerError
from macer.models.denoised import Denoised
from macer.models.diffusion import OneStepDiffusion, from_diffusers
from macer.models.dncnn import DnCNN


def linear_schedule() -> Tensor:
    """The schedule of Ho, Jain and Abbeel 2020 (arXiv 2006.11239), section 4: beta from 1e-4 to 0.02 in 1,000 steps."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


class Recorder(nn.Module):
    """A diffusion model that returns what it is told, and remembers what it was given."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, u: Tensor, t: Tensor) -> Any:
        self.u, self.t = u, t
        return self.answer(u, t) if callable(self.answer) else self.answer


@pytest.fixture
def noisy() -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, noise of standard deviation 1, and the images with this noise at sigma 0.5."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x, noise, x + 0.5 * noise


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_model_gives_the_clean_images_back(noisy: tuple[Tensor, Tensor, Tensor], prediction: Any) -> None:
    x, noise, y = noisy
    abar = torch.tensor([0.9, 1 / (1 + (2 * 0.5) ** 2), 0.1], dtype=torch.float64)  # the second has a level of 2 sigma
    z, signal, spread = 2 * x - 1, abar[1].sqrt(), (1 - abar[1]).sqrt()
    exact = {"epsilon": noise, "v_prediction": signal * noise - spread * z, "sample": z}[prediction]
    model = Recorder(exact)
    torch.testing.assert_close(OneStepDiffusion(model, abar, 0.5, prediction=prediction)(y), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.u, signal * z + spread * noise, rtol=0, atol=1e-12)  # what diffusion trains on
    assert model.t.tolist() == [1, 1, 1]


def literal(u: Tensor, output: Tensor, abar: float, prediction: str) -> Tensor:
    """The clean image that an output means: arXiv 2006.11239, equation 15, and arXiv 2202.00512, appendix D."""
    if prediction == "epsilon":
        z = (u - math.sqrt(1 - abar) * output) / math.sqrt(abar)
    elif prediction == "v_prediction":
        z = math.sqrt(abar) * u - math.sqrt(1 - abar) * output
    else:
        z = output
    return z.clip(-1, 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sigma", [0.006, 0.12, 0.25, 0.5, 1.0, 5.0])
def test_the_nearest_level_of_the_schedule_is_used_with_the_formula_of_each_prediction(
    noisy: tuple[Tensor, Tensor, Tensor], prediction: Any, sigma: float
) -> None:
    y, abar = noisy[2], linear_schedule()
    nearest = min(range(1000), key=lambda t: abs(math.sqrt((1 - abar[t]) / abar[t]) - 2 * sigma))
    model = Recorder(lambda u, t: torch.cat([0.3 * u + t.double().view(-1, 1, 1, 1) / 1000, torch.full_like(u, 7)], 1))
    x = OneStepDiffusion(model, abar, sigma, prediction=prediction, time_scale=0.25)(y)  # 7: variances, left out
    assert model.t.tolist() == [nearest / 4] * 3
    u = math.sqrt(abar[nearest]) * (2 * y - 1)
    expected = literal(u, 0.3 * u + nearest / 4000, float(abar[nearest]), prediction)
    torch.testing.assert_close(2 * x - 1, expected, rtol=0, atol=1e-9)


def test_the_time_of_a_level_is_exact_under_every_default_dtype() -> None:
    """bfloat16 has no 375."""
    model = Recorder(lambda u, t: torch.zeros_like(u))
    denoiser = OneStepDiffusion(model, linear_schedule(), 0.9)
    torch.set_default_dtype(torch.bfloat16)
    try:
        denoiser(torch.rand(2, 1, 4, 4, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.t.tolist() == [375, 375]


def test_a_mismatch_of_sigma_and_level_leaves_an_ordinary_network_with_valid_certificates() -> None:
    """The model knows two levels, 0.35 and 0.6; the noise has 0.5."""
    abar = 1 / (1 + (2 * torch.tensor([0.35, 0.6])) ** 2)
    denoiser = OneStepDiffusion(Recorder(lambda u, t: u), abar, 0.5)
    weight = torch.tensor([[1.0], [-1.0]])

    class ByMean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.mean((1, 2, 3)) - 0.5).unsqueeze(1) @ weight.T

    g = macer.SmoothedClassifier(Denoised(denoiser, ByMean()), 0.5)
    certificate = g.certify(torch.full((1, 8, 8), 0.55), n=10_000, alpha=0.001)
    # The network answers 0 where the mean of y exceeds 0.5: a half-space at the distance 0.05 * 8 = 0.4.
    assert certificate.predict == 0
    assert 0.35 < certificate.radius <= 0.4


def test_a_pipeline_of_diffusers_denoises_by_its_own_scheduler(noisy: tuple[Tensor, Tensor, Tensor]) -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    y = noisy[2].float()
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=True)
        pipeline = diffusers.DDPMPipeline(unet, scheduler)
        network = Denoised(pipeline, nn.Flatten(), 0.5)
        step = min(range(1000), key=lambda t: abs(((1 / scheduler.alphas_cumprod[t]) - 1).sqrt() - 1))
        u = scheduler.alphas_cumprod[step].sqrt() * (2 * y - 1)
        with torch.no_grad():
            expected = scheduler.step(unet(u, step).sample, step, u).pred_original_sample  # the library's own formula
            found = network(y)
        torch.testing.assert_close(found, ((expected + 1) / 2).flatten(1), rtol=1e-4, atol=1e-5)


def test_the_classifier_gets_images_of_its_size_and_may_return_an_object() -> None:
    class HuggingFace(nn.Module):
        def forward(self, pixel_values: Tensor) -> Any:
            assert pixel_values.shape[2:] == (12, 10)
            assert 0 <= pixel_values.min() <= pixel_values.max() <= 1
            return SimpleNamespace(logits=pixel_values.mean((2, 3)))

    y = torch.randn(5, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    logits = Denoised(nn.Hardsigmoid(), HuggingFace(), size=(12, 10))(y)
    assert logits.shape == (5, 3)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: OneStepDiffusion(nn.Identity(), linear_schedule(), 0.004), "0.005 to 78.7 .* not 0.004"),
        (lambda: OneStepDiffusion(nn.Identity(), linear_schedule(), 80.0), "not 80"),
        (lambda: OneStepDiffusion(nn.Identity(), linear_schedule(), 0.5, prediction="eps"), "'eps'"),
        (lambda: Denoised(SimpleNamespace(), nn.Flatten()), "give it"),
        (lambda: from_diffusers(SimpleNamespace(scheduler=object()), 0.5), "object has no alphas_cumprod"),
        (lambda: Denoised(nn.MaxPool2d(2), nn.Flatten())(torch.rand(2, 1, 4, 4)), r"\(2, 1, 2, 2\) .* \(2, 1, 4, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, words: str) -> None:
    with pytest.raises(MacerError, match=words):
        build()


def test_dncnn_is_the_published_network_and_starts_as_the_identity() -> None:
    network = DnCNN(3)
    # 3 * 64 * 9 + 64, 15 (64 * 64 * 9 + 2 * 64), 64 * 3 * 9: 0.56M, as published for DnCNN-S with colour images.
    assert sum(value.numel() for value in network.parameters()) == 1_792 + 15 * 36_992 + 1_728
    names = list(network.state_dict())
    assert names[:3] == ["dncnn.0.weight", "dncnn.0.bias", "dncnn.2.weight"]
    assert names[-1] == "dncnn.47.weight"
    y = torch.rand(2, 3, 8, 8)
    assert torch.equal(network(y), y)
