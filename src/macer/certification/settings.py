"""Everything that decides the certificates of a certification run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from macer.errors import SettingsError
from macer.settings import option, require, to_table
from macer.smoothing.classifier import check_budget
from macer.smoothing.kinds import Hard, Kind, Soft
from macer.smoothing.radius import check_sigma

MACHINE_SETTINGS = frozenset({"root", "checkpoint", "batch_size"})
"""Settings that may differ when a run goes on: the weights are known by their digest, not by their place."""


@dataclass(frozen=True, kw_only=True)
class CertificationSettings:
    """What is certified, on which images, and how.

    The images are start_img + i * skip for i = 0 .. num_img - 1, as in the original.
    """

    dataset: str
    checkpoint: str
    network: str
    digest: str
    total: int
    root: str | None = option(None, "directory of the data set")
    split: str = option("test", "split to certify: test or train")
    sigma: float = option(0.25, "standard deviation of the noise, in [0, 1] pixel units [that of training]")
    n0: int = option(100, "samples that select the class")
    n: int = option(100_000, "samples that bound its probability")
    alpha: float = option(0.001, "failure probability of each certificate")
    mode: str = option("hard", "certificates: hard, soft or both")
    beta: float = option(16.0, "inverse temperature of the soft certificates")
    start_img: int = option(0, "index of the first image")
    num_img: int = option(0, "how many images; 0: as many as there are")
    skip: int = option(1, "step from one image's index to the next")
    batch_size: int = option(0, "noise samples at once; 0: as suits the device")
    seed: int = option(0, "seed of the noise")

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        require(self.mode in ("hard", "soft", "both"), f"mode must be hard, soft or both, not {self.mode!r}")
        require(self.split in ("test", "train"), f"split must be test or train, not {self.split!r}")
        require(self.skip >= 1, f"skip must be at least 1, not {self.skip}")
        require(self.num_img >= 1, f"num_img must be at least 1, not {self.num_img}")
        last = self.start_img + (self.num_img - 1) * self.skip
        require(
            self.start_img >= 0 and last < self.total,
            f"start_img {self.start_img}, num_img {self.num_img} and skip {self.skip} reach image {last}; "
            f"{self.dataset} {self.split} has images 0 to {self.total - 1}",
        )
        require(self.batch_size >= 0, f"batch_size must not be negative, not {self.batch_size}")
        check_budget(self.kinds, self.n0, self.n, self.alpha)

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of certificate that are made."""
        return {"hard": [Hard()], "soft": [Soft(self.beta)], "both": [Hard(), Soft(self.beta)]}[self.mode]

    @property
    def indices(self) -> range:
        """The images to certify."""
        return range(self.start_img, self.start_img + self.num_img * self.skip, self.skip)

    def tables(self) -> dict[str, Any]:
        """The settings as the TOML table [certification]."""
        return {"certification": to_table(self)}


def images_to_certify(num_img: int, start_img: int, skip: int, total: int) -> int:
    """`num_img`, or where it is 0 as many images as there are from `start_img` in steps of `skip`.

    Raises:
        SettingsError: the first image does not exist.
    """
    if skip < 1 or not 0 <= start_img < total:
        raise SettingsError(f"start_img {start_img} with skip {skip}: images have indices 0 to {total - 1}")
    return num_img or len(range(start_img, total, skip))
