"""The noise is what the certificates assume: standard normal, independent, and a function of its place alone.

Statistical tests have fixed seeds and fail a correct generator with probability 1e-3 each (chosen before looking).
"""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from macer.compute.seeding import derive_seed, generator
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.noise import BLOCK, NoiseSource, Stage, block_seed, noisy_copies

ERROR_RATE = 1e-3
ZERO = torch.zeros(1, 2, 2)


def standard(image_index: int = 0, stage: Stage = Stage.ESTIMATION, first: int = 0, count: int = 1, seed: int = 0):
    """Noise alone, (samples, pixels)."""
    return NoiseSource(1.0, seed).blocks(ZERO, image_index, stage, first, count).flatten(1)


def assert_uncorrelated(a, b):
    """For n independent pairs of normals sqrt(n) r is standard normal to within 1/n."""
    r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1]
    assert abs(float(r)) * a.numel() ** 0.5 < stats.norm.isf(ERROR_RATE / 2)


def assert_standard_normal(values):
    assert stats.kstest(values.flatten().double().numpy(), "norm").pvalue > ERROR_RATE


def test_noise_is_standard_normal():
    assert_standard_normal(standard(count=250))


def test_noise_is_standard_normal_across_blocks():
    """Consecutive seeds: the same place of each of 20,000 blocks, where a weakly seeded generator would show."""
    source = NoiseSource(1.0, 0)
    image = torch.zeros(1, 1, 1)
    values = torch.stack([source.blocks(image, 0, Stage.ESTIMATION, block, 1).flatten() for block in range(20_000)])
    for place in (0, 1, BLOCK - 1):
        column = values[:, place]
        assert_standard_normal(column)
        for lag in (1, 2, 100):
            assert_uncorrelated(column[lag:], column[:-lag])
            assert_uncorrelated(column[lag:] ** 2, column[:-lag] ** 2)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("other", Stage)
def test_stages_images_and_seeds_are_independent(stage, other):
    a = standard(0, stage, count=100)
    if stage != other:
        assert_uncorrelated(a, standard(0, other, count=100))
    assert_uncorrelated(a, standard(1, other, count=100))
    assert_uncorrelated(a, standard(0, other, count=100, seed=1))


def test_blocks_samples_and_pixels_are_independent():
    a = standard(count=101).view(101, BLOCK, 4)
    assert_uncorrelated(a[1:], a[:-1])
    assert_uncorrelated(a[:, 1:], a[:, :-1])
    assert_uncorrelated(a[..., 1:], a[..., :-1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 50_000))
def test_blocks_of_an_image_differ_in_the_seed_bits_that_count(seed, image_index):
    """1,000 blocks a stage are what n = 100,000 needs; the last is that of 10^10 samples."""
    blocks = [*range(1000), 10**8 - 1]
    seeds = [block_seed(seed, image_index, stage, block) for stage in Stage for block in blocks]
    assert len({s % 2**32 for s in seeds}) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_cpu_generator_keeps_only_the_low_32_bits():
    """The fact that `block_seed` is built around. Where torch changes it, its docstring is out of date."""
    draws = [torch.randn(4, generator=torch.Generator().manual_seed(s)) for s in (5, 5 + 2**32)]
    assert torch.equal(*draws)


SOURCES = pytest.mark.parametrize("source", [NoiseSource(0.1, 7), GridNoiseSource(0.1, 7)], ids=["float", "grid"])


@SOURCES
@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10**6))
def test_noise_does_not_depend_on_how_blocks_are_drawn(source, sizes, first):
    image = torch.full((2, 3, 1), 0.2)
    together = source.blocks(image, 3, Stage.PREDICTION, first, sum(sizes))
    starts = [first + sum(sizes[:i]) for i in range(len(sizes))]
    parts = {
        start: source.blocks(image, 3, Stage.PREDICTION, start, size)
        for start, size in zip(starts[::-1], sizes[::-1], strict=True)
    }
    assert together.shape == (sum(sizes) * BLOCK, 2, 3, 1)
    assert torch.equal(together, torch.cat([parts[start] for start in starts]))


@pytest.mark.parametrize("kind", [NoiseSource, GridNoiseSource])
def test_seed_image_stage_and_block_pick_the_noise(kind):
    image = torch.zeros(1, 4, 4)
    places = list(product((0, 1), Stage, (0, 1)))
    drawn = [
        kind(0.01, seed).blocks(image, index, stage, block, 1) for seed in (0, 1) for index, stage, block in places
    ]
    assert len({tuple(noisy.flatten().tolist()) for noisy in drawn}) == 2 * len(places)


@SOURCES
def test_noise_leaves_the_global_generator_alone(source):
    before = torch.get_rng_state()
    source.blocks(torch.zeros(1, 4, 4), 0, Stage.ESTIMATION, 0, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_blocks_are_the_image_plus_sigma_times_the_noise():
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    noise = NoiseSource(1.0, 2).blocks(torch.zeros_like(image), 1, Stage.SELECTION, 4, 2)
    noisy = NoiseSource(0.25, 2).blocks(image, 1, Stage.SELECTION, 4, 2)
    assert noisy.shape == (2 * BLOCK, 3, 4, 5)
    torch.testing.assert_close(noisy, image + 0.25 * noise)


def test_noise_is_pinned():
    """Certificates of one version are those of the next. Origin: this code on torch 2.13, CPU."""
    assert block_seed(0, 0, Stage.SELECTION, 0) == 7597967362063631092
    assert standard()[0].tolist() == pytest.approx([-0.280724, -0.850942, -1.146814, -0.354152], abs=1e-4)


def test_derived_seeds_differ_and_fit():
    seeds = [derive_seed(seed, name, step) for seed in range(5) for name in ("noise", "order") for step in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "noise", 2) == derive_seed(1, "noise", 2)
    assert torch.equal(
        torch.rand(3, generator=generator("cpu", 1, "a")), torch.rand(3, generator=generator("cpu", 1, "a"))
    )


def test_each_image_has_its_noisy_copies():
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(-1, 3, 4, 4) * 100
    copies = noisy_copies(images, 0.5, 5, torch.Generator().manual_seed(0))
    assert copies.shape == (6, 5, 3, 4, 4)
    assert torch.equal((copies / 100).round(), (images / 100).unsqueeze(1).expand(-1, 5, -1, -1, -1))


def test_noisy_copies_are_normal_and_independent():
    images = torch.full((40, 1, 16, 16), 0.5)
    noise = (noisy_copies(images, 0.25, 4, torch.Generator().manual_seed(1)) - 0.5) / 0.25
    assert_standard_normal(noise)
    noise = noise.flatten(2)
    assert_uncorrelated(noise[:, 1:], noise[:, :-1])
    assert_uncorrelated(noise[1:], noise[:-1])


def test_noisy_copies_follow_the_generator():
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    a, b, c = (noisy_copies(images, 0.25, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
