"""Everything that decides the certificates of a certification run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from macer.errors import SettingsError
from macer.runs.settings import default_table, option, require, to_table
from macer.smoothing.kinds import Hard, HardTwoClass, Kind, Soft, SoftBetting
from macer.smoothing.radius import check_sigma, largest_radius
from macer.smoothing.sequential import Question, RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Fixed, ForTable, Sequential, Spending

MACHINE_SETTINGS = frozenset({"root", "checkpoint", "method", "normalisation", "batch_size", "compile"})
"""Settings that may differ when a run goes on: weights, the layer in front among them, are known by their digest."""


CHOICES = {
    "mode": ("hard", "soft", "both"),
    "split": ("test", "train"),
    "spend": ("fixed", "for-table", "sequential"),
    "hard_bound": ("one-class", "two-class"),
    "soft_bound": ("bernstein", "betting"),
    "precision": ("32-true", "bf16-true"),
    "compile": ("auto", "yes", "no"),
}
"""Settings that are one of a few words."""


@dataclass(frozen=True, kw_only=True)
class CertificationSettings:
    """What is certified, on which images, and how.

    The images are start_img + i * skip for i = 0 .. num_img - 1, as in the original; a shard k/m has those of them with
    i = k - 1, k - 1 + m, k - 1 + 2m, ...
    """

    dataset: str
    checkpoint: str
    network: str
    digest: str
    total: int
    method: str | None = None
    normalisation: str | None = None
    root: str | None = option(None, "directory of the data set")
    split: str = option("test", "split to certify: test or train")
    sigma: float = option(0.25, "standard deviation of the noise, in [0, 1] pixel units [that of training]")
    n0: int = option(100, "samples that select the class")
    n: int = option(100_000, "samples that bound its probability")
    alpha: float = option(0.001, "failure probability of each certificate")
    mode: str = option("hard", "certificates: hard, soft or both")
    beta: float = option(16.0, "inverse temperature of the soft certificates")
    spend: str = option("fixed", "how samples are spent: fixed, for-table or sequential")
    at_least: float | None = option(None, "sequential: is the radius at least this?")
    within: float | None = option(None, "sequential: the radius to within this share of itself")
    hard_bound: str = option("one-class", "bound of hard certificates: one-class or two-class")
    soft_bound: str = option("bernstein", "bound of soft certificates: bernstein or betting")
    sound: bool = option(False, "certificates that hold in floating point, for 8-bit images")
    precision: str = option("32-true", "arithmetic of the network that is certified: 32-true or bf16-true")
    start_img: int = option(0, "index of the first image")
    num_img: int = option(0, "how many images; 0: as many as there are")
    skip: int = option(1, "step from one image's index to the next")
    shard: str | None = option(None, "certify only the i-th of n parts of the images, written i/n, as a job of its own")
    batch_size: int = option(0, "noise samples at once; 0: as suits the device")
    compile: str = option("auto", "compile the network: yes, no, or auto: where the work lasts")
    seed: int = option(0, "seed of the noise")

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        require(self.skip >= 1, f"skip must be at least 1, not {self.skip}")
        require(self.num_img >= 1, f"num_img must be at least 1, not {self.num_img}")
        last = self.start_img + (self.num_img - 1) * self.skip
        require(
            self.start_img >= 0 and last < self.total,
            f"start_img {self.start_img}, num_img {self.num_img} and skip {self.skip} reach image {last}; "
            f"{self.dataset} {self.split} has images 0 to {self.total - 1}",
        )
        if self.shard is not None:
            part, _ = parse_shard(self.shard)
            require(part <= self.num_img, f"shard {self.shard} has none of the {self.num_img} images")
        require(self.batch_size >= 0, f"batch_size must not be negative, not {self.batch_size}")
        for name, names in CHOICES.items():
            value = getattr(self, name)
            require(value in names, f"{name} must be {', '.join(names[:-1])} or {names[-1]}, not {value!r}")
        asked = [each for each in (self.at_least, self.within) if each is not None]
        if self.spend == "sequential":
            require(len(asked) == 1, "sequential certification answers one question: give at_least or within")
            require(
                self.mode == "hard" and self.hard_bound == "one-class",
                "sequential certification is for hard certificates with the one-class bound",
            )
        else:
            require(not asked, "at_least and within are questions of sequential certification: give spend sequential")
        require(
            not (self.sound and self.mode != "soft" and self.hard_bound == "two-class"),
            "a sound certificate bounds the selected class alone: no two-class bound",
        )
        self.spending.check(self.sigma)

    @property
    def machine_settings(self) -> frozenset[str]:
        """Settings that may differ when a run goes on. In coarse arithmetic votes depend on the batch size."""
        return MACHINE_SETTINGS - ({"batch_size"} if self.precision != "32-true" else set())

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of certificate that are made."""
        return self.spending.kinds

    @property
    def spending(self) -> Spending:
        """How samples are spent on an image."""
        if self.spend == "sequential":
            return Sequential(self._question, self.n0, self.n, self.alpha)
        hard = Hard() if self.hard_bound == "one-class" else HardTwoClass()
        soft = Soft(self.beta) if self.soft_bound == "bernstein" else SoftBetting(self.beta)
        kinds = {"hard": [hard], "soft": [soft], "both": [hard, soft]}[self.mode]
        way = {"fixed": Fixed, "for-table": ForTable}[self.spend]
        return way(kinds, self.n0, self.n, self.alpha)

    @property
    def _question(self) -> Question:
        if self.at_least is not None:
            return RadiusAtLeast(self.at_least)
        assert self.within is not None
        return RadiusWithin(self.within, ceiling=largest_radius(self.sigma, self.n, self.alpha))

    @property
    def indices(self) -> range:
        """The images to certify."""
        part, parts = parse_shard(self.shard) if self.shard is not None else (1, 1)
        return range(self.start_img, self.start_img + self.num_img * self.skip, self.skip)[part - 1 :: parts]

    def tables(self) -> dict[str, Any]:
        """The settings as the TOML table [certification]."""
        return {"certification": to_table(self)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The table of the settings that have a default."""
        return {"certification": default_table(cls)}


def parse_shard(text: str) -> tuple[int, int]:
    """i and n of "i/n".

    Raises:
        SettingsError: it is not written so, or i is not among 1 .. n.
    """
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text, re.ASCII)
    if not found or int(found[1]) > int(found[2]):
        raise SettingsError(f"shard is i/n with i from 1 to n, such as 1/8, not {text!r}")
    return int(found[1]), int(found[2])


def images_to_certify(num_img: int, start_img: int, skip: int, total: int) -> int:
    """`num_img`, or where it is 0 as many images as there are from `start_img` in steps of `skip`.

    Raises:
        SettingsError: the first image does not exist.
    """
    if skip < 1 or not 0 <= start_img < total:
        raise SettingsError(f"start_img {start_img} with skip {skip}: images have indices 0 to {total - 1}")
    return num_img or len(range(start_img, total, skip))
