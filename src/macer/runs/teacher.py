"""A teacher's votes on disk: how often it gave each class to noisy copies of each image, in a `.safetensors` file."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float32, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from macer.errors import RecordsError
from macer.files.reading import check_regular
from macer.files.replacing import replacing

_KEY = "macer-votes-1"  # of the header's entry


@dataclass(frozen=True, kw_only=True)
class TeacherVotes:
    """The votes of a network on the images of a split.

    Attributes:
        counts: one row per image, in the order of the split; a row of zeros is not counted yet.
        dataset: the data set's name.
        split: "train" or "test".
        images: what tells the images from others: `macer.data.images.digest_of_some`.
        sigma: standard deviation of the noise.
        n: votes per image.
        seed: of the noise.
        network: the digest of the network's weights.
    """

    counts: Int32[Tensor, "images classes"]
    dataset: str
    split: str
    images: str
    sigma: float
    n: int
    seed: int
    network: str

    @property
    def made(self) -> dict[str, str | int | float]:
        """What the votes follow from, apart from the number of images and classes."""
        return {name: getattr(self, name) for name in ("dataset", "split", "images", "sigma", "n", "seed", "network")}

    @property
    def counted(self) -> Bool[Tensor, " images"]:
        """Which images have their votes."""
        return self.counts.sum(1) > 0

    def shares(self, indices: Int64[Tensor, " images"]) -> Float32[Tensor, "images classes"]:
        """Return the share of each class in the votes of some images."""
        return self.counts[indices].float() / self.n

    @property
    def digest(self) -> str:
        """What tells these votes from others."""
        return hashlib.sha256(json.dumps(self.made).encode() + self.counts.numpy().tobytes()).hexdigest()


def write_teacher_votes(votes: TeacherVotes, file: Path) -> None:
    """Write votes, under a temporary name first: the file is always whole.

    Raises:
        OSError: it cannot be written; an older file of this name is kept.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(save({"counts": votes.counts}, metadata={_KEY: json.dumps(votes.made)}))


def read_teacher_votes(file: Path) -> TeacherVotes:
    """Read what `write_teacher_votes` wrote.

    Raises:
        RecordsError: the file cannot be read as votes.
    """
    try:
        check_regular(file)
        with safe_open(file, framework="pt") as opened:
            made = json.loads((opened.metadata() or {})[_KEY])
            counts = opened.get_tensor("counts")
            votes = TeacherVotes(counts=counts, **made)
            if not 0 < votes.sigma < math.inf:
                raise ValueError(votes.sigma)
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror or 'cannot be read'}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise RecordsError(f"{file}: no votes, which `macer teacher` writes, or a damaged file") from error
    sums = counts.sum(1) if counts.dim() == 2 and counts.dtype == torch.int32 else torch.ones(1)
    if (counts < 0).any() or ((sums != 0) & (sums != votes.n)).any():
        raise RecordsError(f"{file}: no votes, which `macer teacher` writes, or a damaged file")
    return votes
