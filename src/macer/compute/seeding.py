"""Seeds derived from what they are for, so that no random state has to travel between epochs or processes."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a fixed function of `parts`, such as (seed, "noise", epoch, step)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on `device`, seeded with `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
