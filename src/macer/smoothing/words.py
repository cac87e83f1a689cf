"""The random words that noise is made of: a function of (seed, image index, stage, block), the same on every device.

Philox4x64-10 (Salmon et al., SC 2011) makes random bits of a key and a counter; with one key, different counters never
give the same bits. The key is the seed. The counter is image, stage, block and position, side by side, with 64 bits for
each, so that no two blocks of one seed share any.

Philox is no linear function of its state, as the Mersenne twister is. A network could check on a single noisy image
whether its noise obeys the twister's linear relations.
"""

import math
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from macer.errors import SettingsError

SCHEME = 2
"""The version of these words, which is recorded with certificates. Version 1 hashed its arguments into a seed of
PyTorch's generators, of which a CPU keeps 32 bits."""

SEED_BITS = 63
"""A seed is a whole number of so many bits, because TOML files hold no larger ones. So are the numbers of images and
blocks, because PyTorch's integers hold no larger ones."""

_ROUNDS = 10
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW = 2**32 - 1


class Stage(IntEnum):
    """The purpose of samples. Samples of different stages are independent."""

    SELECTION = 0
    ESTIMATION = 1
    PREDICTION = 2
    COMPARISON = 3
    BOUND = 4  # no noise, see `noise.uniform_of_bound`


@runtime_checkable
class Words(Protocol):
    """Streams of random words, one per block: integers that are uniform over int64."""

    def take(self, count: int) -> Int64[Tensor, "blocks {count}"]:
        """Return the next words of every block, `count` of each."""
        ...

    def take_for(self, blocks: Int64[Tensor, " words"]) -> Int64[Tensor, " words"]:
        """Return one more word per entry of `blocks`: the next one of that block. Afterwards no words can be taken.

        Args:
            blocks: numbers of blocks, in ascending order; 0 is the first block of these.
        """
        ...


def random_words(seed: int, image_index: int, stage: Stage, first: int, count: int, device: torch.device) -> Words:
    """Return the words of blocks first .. first + count - 1.

    Raises:
        SettingsError: seed, image index or block is negative or too large.
    """
    for name, value in (
        ("the seed", seed),
        ("the index of an image", image_index),
        ("the number of a block of noise", first),
    ):
        if not 0 <= value < 2**SEED_BITS:
            raise SettingsError(f"{name} must lie between 0 and 2^{SEED_BITS} - 1, not {value}")
    kind = NumpyWords if device.type == "cpu" else TorchWords
    return kind(seed, image_index, stage, first, count, device)


class NumpyWords:
    """Words from NumPy's Philox, of which NumPy promises that they stay the same. For a CPU."""

    def __init__(self, seed: int, image_index: int, stage: Stage, first: int, count: int, device: torch.device) -> None:
        # A list in place of the array would pass through float64.
        counters = [np.array([0, first + i, stage, image_index], dtype=np.uint64) for i in range(count)]
        self.blocks = [np.random.Philox(key=seed, counter=counter) for counter in counters]

    def take(self, count: int) -> Int64[Tensor, "blocks {count}"]:
        return torch.from_numpy(np.stack([block.random_raw(count).view(np.int64) for block in self.blocks]))

    def take_for(self, blocks: Int64[Tensor, " words"]) -> Int64[Tensor, " words"]:
        counts = np.bincount(blocks.numpy(), minlength=len(self.blocks))
        words = [block.random_raw(int(count)) for block, count in zip(self.blocks, counts, strict=True)]
        return torch.from_numpy(np.concatenate(words).view(np.int64))


class TorchWords:
    """The same words, computed by PyTorch. For a GPU, which computes those of all blocks together."""

    def __init__(
        self,
        seed: int,
        image_index: int,
        stage: Stage,
        first: int,
        count: int,
        device: torch.device,
        function: Callable[..., Tensor] | None = None,
    ) -> None:
        self.first, self.count, self.device, self.philox = first, count, device, function or _philox_on(device)
        self.key, self.stage, self.image = torch.tensor([seed, stage, image_index]).to(device).unbind()
        self.taken = 0

    def take(self, count: int) -> Int64[Tensor, "blocks {count}"]:
        start, self.taken = self.taken, self.taken + count
        at = torch.arange(start // 4, math.ceil(self.taken / 4), device=self.device)
        blocks = torch.arange(self.count, device=self.device).repeat_interleave(len(at))
        words = self._fours(blocks, at.repeat(self.count)).view(self.count, -1)
        return words[:, start % 4 :][:, :count]

    def take_for(self, blocks: Int64[Tensor, " words"]) -> Int64[Tensor, " words"]:
        starts = torch.searchsorted(blocks, torch.arange(self.count, device=self.device))
        positions = self.taken + torch.arange(len(blocks), device=self.device) - starts[blocks]
        return self._fours(blocks, positions // 4).gather(1, (positions % 4).unsqueeze(1)).squeeze(1)

    def _fours(self, blocks: Int64[Tensor, " n"], at: Int64[Tensor, " n"]) -> Int64[Tensor, "n 4"]:
        """Return the four words that one counter gives, for a place in each of these blocks."""
        # NumPy counts before it computes, so that the first four words are those of the counter 1.
        counter = at + 1, blocks + self.first, self.stage.expand_as(at), self.image.expand_as(at)
        return self.philox(*counter, self.key)


def philox(
    c0: Int64[Tensor, " n"],
    c1: Int64[Tensor, " n"],
    c2: Int64[Tensor, " n"],
    c3: Int64[Tensor, " n"],
    key: Int64[Tensor, ""],
) -> Int64[Tensor, "n 4"]:
    """Return the words of counters, each of four 64-bit numbers, the lowest first. (Salmon et al., section 4.2.)

    Integers of 64 bits wrap around, so that it does not matter that PyTorch's have a sign.
    """
    for number in range(_ROUNDS):
        (high0, low0), (high2, low2) = _product(c0, _MULTIPLIERS[0]), _product(c2, _MULTIPLIERS[1])
        c0 = high2 ^ c1 ^ (key + _signed(number * _KEY_STEPS[0]))
        c2 = high0 ^ c3 ^ _signed(number * _KEY_STEPS[1])
        c1, c3 = low2, low0
    return torch.stack([c0, c1, c2, c3], dim=1)


def _product(numbers: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 64 bits of products of unsigned 64-bit numbers, by halves of 32 bits."""
    low, high = numbers & _LOW, _high(numbers)
    factor_low, factor_high = factor & _LOW, factor >> 32
    one = high * factor_low + _high(low * factor_low)
    other = low * factor_high + (one & _LOW)
    return high * factor_high + _high(one) + _high(other), numbers * _signed(factor)


def _high(numbers: Tensor) -> Tensor:
    """Return the upper 32 bits. A shift of integers with a sign fills up with the sign."""
    return (numbers >> 32) & _LOW


def _signed(number: int) -> int:
    """Return the integer with a sign that has the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


@cache
def _philox_on(device: torch.device) -> Callable[..., Tensor]:
    """Return `philox`, on a GPU compiled to one kernel if that works: as 400 kernels it takes as long as a network.

    Not on a CPU: there compilation makes C++, in which integers with a sign must not overflow, and the words are wrong.
    """
    compiled: Any = torch.compile(philox, dynamic=True) if device.type == "cuda" else None
    return compiled if compiled and gives_the_words(compiled, device) else philox


@torch.inference_mode()  # as samples are drawn
def gives_the_words(function: Callable[..., Tensor], device: torch.device) -> bool:
    """Return whether a function in place of `philox` runs on a device, and gives NumPy's words there."""
    place = 2**62 + 5, 2**40 + 3, Stage.ESTIMATION, 2**33 + 1, 3
    blocks = torch.tensor([0, 0, 0, 0, 0, 2, 2])
    numpys, found = NumpyWords(*place, torch.device("cpu")), TorchWords(*place, device, function)
    try:
        pairs = [(numpys.take(1001), found.take(1001)), (numpys.take_for(blocks), found.take_for(blocks.to(device)))]
    except Exception:  # compilers fail in many ways
        return False
    return all(torch.equal(wanted, words.cpu()) for wanted, words in pairs)
