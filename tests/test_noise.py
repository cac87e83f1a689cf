"""The noise is what the certificates assume: standard normal, independent, and a function of its place alone.

Statistical tests have fixed seeds and fail a correct generator with probability 1e-3 each (chosen before looking).
"""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from macer.compute.seeding import derive_seed, generator
from macer.errors import SettingsError
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.noise import BLOCK, LARGEST_FLOAT_NOISE, NoiseSource, standard_normal
from macer.smoothing.training_noise import noisy_copies
from macer.smoothing.words import SEED_BITS, NumpyWords, Stage, TorchWords, gives_the_words, philox, random_words

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
    """The same place of each of 20,000 blocks, whose counters differ by one: a weak generator would show."""
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


CPU = torch.device("cpu")
PLACES = st.tuples(
    st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.sampled_from(Stage), st.integers(0, 2**63 - 1)
)


def first_words(place, count=4):
    return tuple(random_words(*place, 1, CPU).take(count)[0].tolist())


@given(PLACES, st.integers(0, 3), st.integers(0, SEED_BITS - 1))
def test_every_bit_of_seed_image_stage_and_block_counts(place, which, bit):
    """Two of the 256-bit outputs of one key are never the same; those of two keys are with probability 2^-256."""
    seed, image, stage, block = place
    others = (
        (seed ^ 1 << bit, image, stage, block),
        (seed, image ^ 1 << bit, stage, block),
        (seed, image, Stage((stage + 1 + bit % 2) % 3), block),
        (seed, image, stage, block ^ 1 << bit),
    )
    assert first_words(place) != first_words(others[which])


def test_no_two_images_share_noise_where_some_did():
    """10,000 images of 1,000 blocks and 101 neighbours. Low 32 bits of hashed starts, as before, clash in 21 pairs."""
    starts = {image: derive_seed(0, "certification", image) % 2**32 for image in range(10_000)}
    places = []
    for image, other in pairwise(sorted(starts, key=starts.__getitem__)):
        shift = starts[other] - starts[image]
        if shift < 1000:  # the image's block number `shift` had the noise of the other's first block
            places += [(0, image, Stage.SELECTION, shift), (0, other, Stage.SELECTION, 0)]
    assert len(places) == 2 * 21
    assert len({first_words(place) for place in places}) == 2 * 21


def test_words_are_those_of_philox():
    """The scheme, pinned: the key is the seed, and image, stage, block and position are the counter's 64-bit digits.

    The numbers' origin: this code on NumPy 2.4. NumPy promises that a bit generator's stream stays the same.
    """
    place = (2**63 - 1, 2**40 + 5, Stage.PREDICTION, 2**33 + 7)
    generator = np.random.Philox(key=2**63 - 1)
    generator.advance(((2**40 + 5) << 192) + (2 << 128) + ((2**33 + 7) << 64))
    assert first_words(place, 1000) == tuple(generator.random_raw(1000).view(np.int64).tolist())
    assert first_words((0, 0, Stage.SELECTION, 0), 2) == (213000021201967259, 4455796210202625458)


def test_words_asked_for_in_parts_are_those_asked_for_at_once():
    words, place = random_words(3, 1, Stage.ESTIMATION, 4, 2, CPU), (3, 1, Stage.ESTIMATION)
    parts = [*(words.take(count) for count in (1, 7, 0, 5)), words.take_for(torch.tensor([0, 0, 1, 1])).view(2, 2)]
    whole = [torch.tensor(first_words((*place, block), 15)) for block in (4, 5)]
    assert torch.equal(torch.cat(parts, dim=1), torch.stack(whole))


@settings(max_examples=30)
@given(PLACES, st.integers(1, 3), st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 2), max_size=9))
def test_a_gpu_computes_the_same_words(place, count, counts, blocks):
    """`TorchWords` is what a GPU computes; here it does so on a CPU, without compilation."""
    ours, numpys = TorchWords(*place, count, CPU), NumpyWords(*place, count, CPU)
    for each in counts:
        assert torch.equal(ours.take(each), numpys.take(each))
    ascending = torch.tensor(sorted(block % count for block in blocks), dtype=torch.int64)
    assert torch.equal(ours.take_for(ascending), numpys.take_for(ascending))


def test_a_compiled_function_that_gives_other_words_is_not_used():
    """One wrong bit in a word of 4, as a compiler might give that takes sums for sums that never overflow; an error."""

    def wrong(*counter):
        return philox(*counter) ^ (torch.arange(4) == 3).long()

    assert gives_the_words(philox, CPU)
    assert not gives_the_words(wrong, CPU)
    assert not gives_the_words(lambda *counter: 1 / 0, CPU)


@pytest.mark.parametrize("source", [NoiseSource(0.5, 7), GridNoiseSource(0.5, 7)])
def test_a_gpu_draws_the_same_noise(source, monkeypatch):
    image = torch.randint(256, (3, 5, 7), generator=generator(CPU, 0, "image")) / 255
    expected = source.blocks(image, 5, Stage.ESTIMATION, 3, 4)
    for module in ("noise", "grid"):
        monkeypatch.setattr(f"macer.smoothing.{module}.random_words", TorchWords)
    assert torch.equal(source.blocks(image, 5, Stage.ESTIMATION, 3, 4), expected)


def test_words_have_fair_and_independent_bits():
    """500,000 words: each bit, and each pair of bits of one word and of neighbours, at 1e-3 for all together."""
    words = random_words(11, 2, Stage.ESTIMATION, 0, 1, CPU).take(500_000)[0].numpy()
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float64) * 2 - 1
    both = np.hstack([bits[1:], bits[:-1]])
    z = np.abs(np.hstack([bits.sum(0), (both.T @ both)[np.triu_indices(128, 1)]])) / math.sqrt(len(bits))
    assert z.max() < stats.norm.isf(ERROR_RATE / 2 / len(z))
    assert z.max() > 2  # of 8,192 values


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ((-1, 0, Stage.SELECTION, 0), "seed"),
        ((2**63, 0, Stage.SELECTION, 0), "seed"),
        ((0, -1, Stage.SELECTION, 0), "index of an image"),
        ((0, 2**63, Stage.SELECTION, 0), "index of an image"),
        ((0, 0, Stage.SELECTION, -1), "block"),
    ],
)
def test_numbers_without_a_place_in_the_counter_are_refused(place, what):
    with pytest.raises(SettingsError, match=what):
        random_words(*place, 1, CPU)


def test_float_noise_ends_where_it_says():
    """The smallest magnitude of an odd number at an angle of 0; nothing is larger or infinite."""

    def normal(*integers):
        return standard_normal(torch.from_numpy(np.array([integers], np.int32).view(np.int64)))

    every = normal(*[-(2**31), -1, 0, 1, 2**31 - 1] * 2)
    assert torch.isfinite(every).all()
    assert float(every.abs().max()) <= LARGEST_FLOAT_NOISE * (1 + 1e-6)
    extreme = normal(1, 1, 0, 0)
    assert float(extreme.max()) == pytest.approx(LARGEST_FLOAT_NOISE, rel=1e-6)
    assert round(LARGEST_FLOAT_NOISE, 2) == 6.56


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
    """Certificates of one version are those of the next. Origin: this code on NumPy 2.4 and torch 2.13, CPU."""
    assert standard()[0].tolist() == pytest.approx([0.961126, -0.492271, 0.129151, 1.098845], abs=1e-4)


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
