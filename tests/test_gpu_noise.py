"""What certificates rest on is the same on a GPU: exact float32, and noise.

Statistical tests have fixed seeds and fail correct noise with probability 1e-3 each (chosen before looking).
"""

import numpy as np
import pytest
import torch
from on_gpu import CIFAR, DEVICE, MARKS, in_tf32, network_of, picture
from scipy import stats
from torch import nn

from macer.compute.device import describe_device, exact_float32, find_device, has_fast_bfloat16
from macer.data.images import as_floats
from macer.models.digest import answers, probe
from macer.smoothing import words
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.images import LEVELS, as_images
from macer.smoothing.noise import BLOCK, NoiseSource
from macer.smoothing.words import Stage

pytestmark = MARKS
ERROR_RATE = 1e-3

# Devices


def test_devices_are_named_by_their_models():
    assert find_device("auto") == find_device("cuda") == DEVICE
    assert describe_device(DEVICE) == f"cuda ({torch.cuda.get_device_name()})"
    assert has_fast_bfloat16("cuda") == (torch.cuda.get_device_capability() >= (8, 0))


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize("kind", ["convolution", "product"])
def test_float32_is_computed_as_float32(kind):
    torch.manual_seed(0)
    layer, batch = nn.Linear(512, 512), torch.rand(256, 512)
    if kind == "convolution":
        layer, batch = nn.Conv2d(64, 64, 3), torch.rand(64, 64, 16, 16)
    expected = layer.double()(batch.double())
    layer, batch = layer.float().to(DEVICE), batch.to(DEVICE)

    def error() -> float:
        with torch.no_grad():
            return float((layer(batch).cpu() - expected).abs().max() / expected.abs().max())

    with in_tf32():
        settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        fast = error()
        with exact_float32(DEVICE):
            exact = error()
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == settings
        assert error() == fast
    assert exact < 1e-5
    if torch.cuda.get_device_capability() >= (8, 0):
        assert fast > 3e-5  # 10 bits: TF32 was on


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
def test_answers_to_probes_do_not_depend_on_tf32():
    network, _ = network_of(CIFAR)
    here = probe(network, 10, (3, 32, 32))
    with in_tf32():
        assert torch.equal(probe(network, 10, (3, 32, 32)), here)
    there = probe(network.cpu(), 10, (3, 32, 32))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert answers(here) is not None


# Noise


@pytest.fixture(params=["compiled", "as written"])
def philox_on_the_device(request, unchecked_shapes, monkeypatch):
    """What users' GPUs compute, and what those do whose compiler fails. Compilers need shapes unchecked."""
    words._philox_on.cache_clear()
    device = torch.empty(0, device=DEVICE).device
    if request.param == "as written":
        monkeypatch.setattr(words, "_philox_on", lambda _device: words.philox)
    else:
        assert words._philox_on(device) is not words.philox
    yield
    monkeypatch.undo()
    words._philox_on.cache_clear()


@pytest.mark.usefixtures("philox_on_the_device")
@pytest.mark.parametrize("sigma", [0.0625, 0.25, 1.0])
@pytest.mark.parametrize(
    ("shape", "seed", "index", "stage", "first", "count"),
    [
        ((1, 8, 8), 0, 0, Stage.SELECTION, 0, 1),
        ((3, 32, 32), 1, 7, Stage.ESTIMATION, 3, 2),
        ((1, 28, 28), 2**63 - 1, 9_999, Stage.ESTIMATION, 999, 3),
        ((1, 3, 5), 12345, 49_999, Stage.PREDICTION, 2**20, 10),
        ((3, 64, 64), 5, 2**22, Stage.COMPARISON, 0, 1),
        ((1, 1, 1), 6, 1, Stage.ESTIMATION, 17, 1),
    ],
)
def test_grid_noise_is_that_of_the_cpu_bit_for_bit(sigma, shape, seed, index, stage, first, count):
    source, image = GridNoiseSource(sigma, seed), picture(*shape, seed=index)
    there = source.blocks(image, index, stage, first, count)
    here = source.blocks(image.to(DEVICE), index, stage, first, count)
    assert here.device.type == DEVICE.type
    assert torch.equal(here.cpu(), there)


@pytest.mark.parametrize(
    ("shape", "seed", "index", "first", "count"),
    [((1, 8, 8), 0, 0, 0, 1), ((3, 32, 32), 2**62 + 3, 77, 123, 3), ((1, 2, 3), 9, 2**22, 5, 20)],
)
def test_float_noise_is_that_of_the_cpu_but_for_rounding(shape, seed, index, first, count):
    source, image = NoiseSource(1.0, seed), picture(*shape)
    there = source.blocks(image, index, Stage.ESTIMATION, first, count)
    here = source.blocks(image.to(DEVICE), index, Stage.ESTIMATION, first, count).cpu()
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_float_noise_is_standard_normal():
    """The mean of N values has standard deviation N^-1/2, their variance (2/N)^1/2."""
    values = NoiseSource(1.0, 0).blocks(torch.zeros(3, 32, 32, device=DEVICE), 0, Stage.ESTIMATION, 0, 20)
    values, limit = values.double().flatten(), stats.norm.isf(ERROR_RATE / 4)
    count = len(values)
    assert abs(float(values.mean())) * count**0.5 < limit
    assert abs(float(values.var()) - 1) * (count / 2) ** 0.5 < limit


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_grid_noise_has_its_exact_probabilities(sigma):
    """Chi-square of 6 million values, in cells with at least 20 expected."""
    image = torch.full((3, 32, 32), 128 / LEVELS, device=DEVICE)
    noisy = GridNoiseSource(sigma, 1).blocks(image, 3, Stage.ESTIMATION, 0, 20)
    levels = (noisy.double() * LEVELS).round().long().flatten().cpu() - 128
    bound, total = int(levels.abs().max()) + 1, len(levels)
    edges = (np.arange(-bound, bound) + 0.5) / (LEVELS * sigma)
    expected = np.diff(stats.norm.cdf(edges), prepend=0, append=1) * total
    found = np.bincount(levels.numpy() + bound, minlength=2 * bound + 1)
    rare = expected < 20
    pooled = [np.append(each[~rare], each[rare].sum()) for each in (found, expected)]
    statistic = ((pooled[0] - pooled[1]) ** 2 / pooled[1]).sum()
    assert stats.chi2.sf(statistic, len(pooled[0]) - 1) > ERROR_RATE


def test_noisy_pixels_are_whole_levels_divided_as_on_a_cpu():
    image = picture(3, 32, 32).to(DEVICE)
    noisy = GridNoiseSource(1.0, 0).blocks(image, 0, Stage.ESTIMATION, 0, 2).cpu()
    levels = (noisy.double() * LEVELS).round().float()
    assert torch.equal(noisy, levels / LEVELS)
    assert levels.min() < 0
    assert levels.max() > LEVELS
    unmoved = levels == (image.cpu() * LEVELS).round()
    assert torch.equal(noisy[unmoved], image.cpu().expand_as(noisy)[unmoved])


@pytest.mark.parametrize("converted", [as_floats, lambda pixels: as_images(pixels)[0]])
def test_bytes_on_a_gpu_become_the_same_pixels(converted):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(converted(every.to(DEVICE)).cpu(), converted(every))


@pytest.mark.parametrize("source", [GridNoiseSource(0.5, 0), NoiseSource(0.5, 0)])
def test_blocks_differ_and_do_not_depend_on_how_they_are_drawn(source):
    image = picture(1, 8, 8).to(DEVICE)
    blocks = source.blocks(image, 0, Stage.ESTIMATION, 0, 4).split(BLOCK)
    for number, block in enumerate(blocks):
        assert torch.equal(source.blocks(image, 0, Stage.ESTIMATION, number, 1), block)
        assert not any(torch.equal(block, other) for other in blocks[:number])
    others = [(1, Stage.ESTIMATION), (0, Stage.SELECTION)]
    assert not any(torch.equal(source.blocks(image, *other, 0, 1), blocks[0]) for other in others)
