"""Everything that decides the certificates of a certification run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from macer.errors import SettingsError
from macer.runs.settings import ImageChoice, default_table, option, require, to_table
from macer.smoothing.kinds import Hard, HardTwoClass, Kind, Soft, SoftBetting
from macer.smoothing.radius import check_sigma, largest_radius
from macer.smoothing.sequential import Question, RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Fixed, ForTable, Sequential, Spending

MACHINE_SETTINGS = frozenset({"root", "checkpoint", "method", "normalisation", "batch_size", "compile"})
"""Settings that may differ when a run goes on: weights, the layer in front among them, are known by their digest."""


@dataclass(frozen=True, kw_only=True)
class CertificationSettings(ImageChoice):
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
    root: str | None = option(None, "Directory of the data set.", panel="Images")
    split: Literal["test", "train"] = option("test", "Split of the data set to certify.", panel="Images")
    shard: str | None = option(None, "Certify only part I of N of the images, written I/N.", panel="Images")
    sigma: float = option(0.25, "Standard deviation of the noise, in units of [0, 1] pixels. [default: as in training]")
    n0: int = option(100, "Number of noisy copies that select the class.", panel="Samples")
    n: int = option(100_000, "Number of further noisy copies that bound its probability.", panel="Samples")
    alpha: float = option(0.001, "Largest probability that a certificate is wrong.", panel="Samples")
    spend: Literal["fixed", "for-table", "sequential"] = option(
        "fixed",
        "Use all n copies (fixed), none for wrongly selected classes (for-table), or as many as --at-least or --within "
        "needs (sequential).",
        panel="Samples",
    )
    at_least: float | None = option(
        None, "Only decide whether the radius is at least this (sequential).", panel="Samples"
    )
    within: float | None = option(
        None, "Stop when the radius is known to within this fraction of itself (sequential).", panel="Samples"
    )
    seed: int = option(0, "Seed of the noise.", panel="Samples")
    mode: Literal["hard", "soft", "both"] = option(
        "hard", "Kind of certificates: of votes (hard), of mean softmax scores (soft), or both.", panel="Certificates"
    )
    beta: float = option(16.0, "Inverse temperature of the softmax in soft certificates.", panel="Certificates")
    hard_bound: Literal["one-class", "two-class"] = option(
        "one-class", "Bound hard certificates by the class alone, or also by the second class.", panel="Certificates"
    )
    soft_bound: Literal["bernstein", "betting"] = option(
        "bernstein", "Bound of soft certificates; betting mostly gives larger radii.", panel="Certificates"
    )
    sound: bool = option(
        False, "Make certificates that also hold in floating-point arithmetic (8-bit images).", panel="Certificates"
    )
    precision: Literal["32-true", "bf16-true"] = option(
        "32-true", "Arithmetic of the network that is certified.", panel="Certificates"
    )
    batch_size: int = option(0, "Noisy copies per batch; 0: as many as suit the device.", least=0, panel="Machine")
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network with torch.compile; auto: for work of more than five minutes.", panel="Machine"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sigma(self.sigma)
        require(self.num_img >= 1, f"num_img must be at least 1, not {self.num_img}")
        self.count(self.total, f"{self.dataset} {self.split}")
        if self.shard is not None:
            part, _ = parse_shard(self.shard)
            require(part <= self.num_img, f"shard {self.shard} has none of the {self.num_img} images")
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
