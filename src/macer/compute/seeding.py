"""Seeds derived from their purpose, so that no random state has to be passed between epochs or processes."""

import hashlib
import secrets

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that is a fixed function of `parts`, such as (seed, "noise", epoch, step)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_from_system() -> int:
    """Return a 63-bit seed that nobody can know before: from the operating system's entropy."""
    return secrets.randbits(63)


def generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """Return a generator on `device` that is seeded with `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
