"""Everything that decides the certificates of a certification run."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from macer.errors import SettingsError
from macer.runs.settings import (
    IMAGES_DIGEST,
    DataOptions,
    ImageChoice,
    default_table,
    from_table,
    option,
    require,
    to_table,
)
from macer.smoothing.carrying import Carried, HardCarried, Remembering
from macer.smoothing.kinds import Hard, HardAuto, HardRandomised, HardTwoClass, Kind, Soft, SoftBetting
from macer.smoothing.radius import check_sigma, largest_radius
from macer.smoothing.sequential import Question, RadiusAtLeast, RadiusWithin
from macer.smoothing.spending import Fixed, ForTable, Sequential, Spending, level
from macer.smoothing.words import SCHEME, SEED_BITS

MACHINE_SETTINGS = frozenset(
    {"root", "class_names", "shape", "checkpoint", "denoiser", "method", "normalisation", "weights", "carry"}
    | {"batch_size", "compile", "probes", "dtype", "epoch"}
)
"""Settings that may differ when a run goes on: weights, the layer in front among them, are known by their digest, and
answers to probes are compared up to rounding."""

CHOICE = frozenset({"start_img", "num_img", "skip", "shard"})
"""Settings that choose images. The noise of an image follows from the seed and its index, so that others may join."""

_IMAGES, _CERTIFICATES, _SAMPLES, _EVALUATION = "Images", "Certificates", "Noise samples", "Evaluation"


@dataclass(frozen=True, kw_only=True)
class CertificationSettings(ImageChoice, DataOptions):
    """What is certified, on which images, and how.

    `epoch` is how many epochs the network was trained for, where its file says so. `shape` is (channels, height, width)
    of the images; their digests bind it. `images_digest`, of 64 of them, tells the images from others before any is
    certified; images given in Python need none, because their name is a digest. `noise` is the version of the noise's
    scheme, see `smoothing.words.random_words`. `bf16_form` is how a network in bfloat16 is evaluated, because each way
    is another function; None in float32.
    `dtype` is the type of the weights that were given, where it is not float32; their digest binds it.

    A shard k/m has the images start_img + i * skip with i = k - 1, k - 1 + m, k - 1 + 2m, ...
    """

    dataset: str
    checkpoint: str
    network: str
    digest: str
    total: int
    epoch: int | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    images_digest: str | None = None
    code: str | None = None
    dtype: str | None = None
    probes: tuple[float, ...] | None = None
    method: str | None = None
    normalisation: str | None = None
    denoiser: str | None = option(
        None,
        "Denoiser in front of the network: a run of --method denoiser, a published DnCNN, a directory of diffusers, or "
        "package.module:function.",
    )
    denoiser_digest: str | None = None
    size: int | None = option(
        None,
        "Height and width of the images that the network takes, to which denoised ones are scaled. "
        "[default: those of the data set]",
        least=1,
    )
    weights: str | None = option(
        None,
        "Key of the weights in a file that holds several, such as state_dict beside a moving average. "
        "[default: the moving average]",
    )
    split: Literal["test", "train"] = option("test", "Split of the data set to certify.", panel=_IMAGES)
    shard: str | None = option(
        None, "Certify only part I of N of the images, written I/N, as a job of its own.", panel=_IMAGES
    )
    sigma: float = option(
        0.25,
        "Standard deviation of the noise, in units of [0, 1] pixels. [default: that of the training of the network, "
        "or of the denoiser where there is one]",
        panel=_CERTIFICATES,
    )
    alpha: float = option(0.001, "Largest probability that a certificate is wrong.", panel=_CERTIFICATES)
    mode: Literal["hard", "soft", "both"] = option(
        "hard", "Kind of certificates: of votes (hard), of mean softmax scores (soft), or both.", panel=_CERTIFICATES
    )
    beta: float = option(
        16.0,
        "Inverse temperature of the softmax of soft certificates. [default: that of training with MACER, else 16]",
        panel=_CERTIFICATES,
    )
    hard_bound: Literal["one-class", "two-class", "auto", "randomised"] = option(
        "one-class",
        "Bound of hard certificates: of the class alone (one-class), of the second class as well (two-class), "
        "whichever of these two the n0 copies suggest is larger (auto), or the one-class bound with a recorded random "
        "number, which fails with probability alpha exactly (randomised).",
        panel=_CERTIFICATES,
    )
    soft_bound: Literal["bernstein", "betting"] = option(
        "bernstein",
        "Bound of soft certificates: empirical Bernstein, or betting, which mostly gives larger radii.",
        panel=_CERTIFICATES,
    )
    sound: bool = option(
        True,
        "Make certificates that also hold in floating-point arithmetic. [default: yes if the images are 8-bit]",
        panel=_CERTIFICATES,
    )
    n0: int = option(
        100,
        "Number of noisy copies that select the class; 0: the n copies select it, too.",
        least=0,
        most=10**9,
        panel=_SAMPLES,
    )
    n: int = option(
        100_000,
        "Number of further noisy copies that bound the probability of the class.",
        least=1,
        most=10**9,
        panel=_SAMPLES,
    )
    spend: Literal["fixed", "for-table", "sequential"] = option(
        "fixed",
        "Use all n copies, none if another class than the label is selected (for-table), or as many as --at-least or "
        "--within needs (sequential).",
        panel=_SAMPLES,
    )
    at_least: float | None = option(
        None, "With --spend sequential: only decide whether the radius is at least this.", panel=_SAMPLES
    )
    within: float | None = option(
        None, "With --spend sequential: stop when the radius is known to within this fraction.", panel=_SAMPLES
    )
    seed: int | None = option(
        None,
        "Seed of the noise, to repeat certificates: they assume that the network was made without knowing it. "
        "[default: drawn by the system and recorded]",
        least=0,
        panel=_SAMPLES,
    )
    remember: bool | None = option(
        None, "Also keep each sample's vote, so that the certificates can be carried over.", panel=_SAMPLES
    )
    carry: str | None = option(
        None,
        "Carry over the certificates of this run or directory, made with --remember for the network before it was "
        "changed.",
        panel=_SAMPLES,
    )
    carried: str | None = None
    n_z: int | None = option(
        None,
        "With --carry: how many of the n copies the changed network is evaluated on. [default: a tenth of n]",
        least=1,
        panel=_SAMPLES,
    )
    alpha_z: float | None = option(
        None,
        "With --carry: the part of alpha for the bound of what the changed network loses. [default: half of alpha]",
        panel=_SAMPLES,
    )
    noise: int = SCHEME
    precision: Literal["32-true", "bf16-true", "auto"] = option(
        "32-true",
        "Arithmetic of the network that is certified; auto: bfloat16 where the processor is faster in it, which is "
        "recorded.",
        panel=_EVALUATION,
    )
    bf16_form: Literal["folded", "compiled"] | None = None
    batch_size: int = option(0, "Noisy copies per batch; 0: 200 on a CPU, 1,000 on a GPU.", least=0, panel=_EVALUATION)
    compile: Literal["auto", "yes", "no"] = option(
        "auto",
        "Compile the network; auto: if the work takes more than five minutes (in bfloat16: about one).",
        panel=_EVALUATION,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sigma(self.sigma)
        object.__setattr__(self, "num_img", self.count(self.total, f"{self.dataset} {self.split}"))
        if self.shard is not None:
            part, _ = parse_shard(self.shard)
            require(part <= self.num_img, f"shard {self.shard} has none of the {self.num_img} images")
        asked = [each for each in (self.at_least, self.within) if each is not None]
        if self.spend == "sequential":
            require(len(asked) == 1, "sequential certification answers one question: give `at_least` or `within`")
            require(
                self.mode == "hard" and self.hard_bound == "one-class",
                "sequential certification is for hard certificates with the one-class bound",
            )
        else:
            require(
                not asked, "`at_least` and `within` are questions of sequential certification: give `spend=sequential`"
            )
        object.__setattr__(self, "remember", self.remember or None)  # it is written only where votes are kept
        if self.carried is None:
            require(
                self.n_z is None and self.alpha_z is None,
                "`n_z` and `alpha_z` are for certificates that are carried over: give `carry`",
            )
        else:
            object.__setattr__(self, "n_z", self.n_z or max(1, self.n // 10))
            object.__setattr__(self, "alpha_z", self.alpha / 2 if self.alpha_z is None else self.alpha_z)
            require(not self.remember, "votes are remembered of a network that all n copies are evaluated on")
        if self.remember or self.carried is not None:
            require(
                (self.mode, self.hard_bound, self.spend) == ("hard", "one-class", "fixed"),
                "only hard certificates with the one-class bound and a fixed n are remembered and carried over",
            )
        require((self.seed or 0) < 2**SEED_BITS, f"seed must be below 2^{SEED_BITS}, not {self.seed}")
        self.spending.check(self.sigma)

    @property
    def machine_settings(self) -> frozenset[str]:
        """Settings that may differ when a run goes on."""
        return machine_settings(self.precision)

    @property
    def in_16_bits(self) -> bool:
        """Whether the network computes in bfloat16 or float16, which CPUs and GPUs round in ways of their own."""
        return self.precision != "32-true" or "float16" in (self.dtype or "")

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of certificate that are made."""
        return self.spending.kinds

    @property
    def spending(self) -> Spending:
        """How samples are spent on an image."""
        if self.spend == "sequential":
            return Sequential(self._question, self.n0, self.n, self.alpha)
        if self.carried is not None:
            assert self.n_z is not None
            assert self.alpha_z is not None
            kind = HardCarried(self.n_z, self.alpha_z, self.n0)
            return Carried([kind], self.n0, self.n, self.alpha)
        bounds = {"one-class": Hard, "two-class": HardTwoClass, "auto": HardAuto, "randomised": HardRandomised}
        hard = bounds[self.hard_bound]()
        soft = Soft(self.beta) if self.soft_bound == "bernstein" else SoftBetting(self.beta)
        kinds = {"hard": [hard], "soft": [soft], "both": [hard, soft]}[self.mode]
        way = Remembering if self.remember else {"fixed": Fixed, "for-table": ForTable}[self.spend]
        return way(kinds, self.n0, self.n, self.alpha)

    @property
    def _question(self) -> Question:
        if self.at_least is not None:
            return RadiusAtLeast(self.at_least)
        assert self.within is not None
        return RadiusWithin(self.within, ceiling=largest_radius(self.sigma, self.n, level(self.alpha, self.n0)))

    def samples(self, n: int) -> int:
        """Return how many noisy copies of an image are evaluated if its certificate has n of them."""
        return self.n0 + n if self.n_z is None else min(self.n_z, n)

    @property
    def indices(self) -> range:
        """The images to certify."""
        return chosen_images(self.start_img, self.num_img, self.skip, self.shard)

    @classmethod
    def read(cls, table: Mapping[str, Any], file: Path) -> "CertificationSettings":
        """Return the settings in the table [certification] of a file.

        Raises:
            SettingsError: a setting is unknown, missing or impossible; the message names the file.
        """
        return from_table(cls, table, str(file))

    def tables(self) -> dict[str, Any]:
        """Return the settings as the TOML table [certification]."""
        return {"certification": to_table(self)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the table of what settings were that are not in a file: the defaults."""
        return {"certification": default_table(cls)}


def fingerprint(table: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for the settings that decide a certificate, given its image.

    Left out are those that choose images, those that may differ between machines, and what tells the images from
    others: each certificate has the digest of its own.

    Args:
        table: the table [certification] as a settings file holds it.
    """
    ignored = CHOICE | machine_settings(table.get("precision", "32-true")) | {IMAGES_DIGEST}
    deciding = {key: value for key, value in table.items() if key not in ignored}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()[:16]


def machine_settings(precision: str) -> frozenset[str]:
    """Return the settings that may differ when a run goes on. In coarse arithmetic votes depend on the batch size."""
    return MACHINE_SETTINGS - ({"batch_size"} if precision != "32-true" else set())


def chosen_images(start_img: int, num_img: int, skip: int, shard: str | None = None) -> range:
    """Return the indices of the images that settings choose, see `CertificationSettings`.

    Raises:
        SettingsError: as for `parse_shard`.
    """
    part, parts = (1, 1) if shard is None else parse_shard(shard)
    return range(start_img, start_img + num_img * skip, skip)[part - 1 :: parts]


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and n of "i/n".

    Raises:
        SettingsError: it is not written so, or i is not among 1 .. n.
    """
    found = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text, re.ASCII)
    if not found or int(found[1]) > int(found[2]):
        raise SettingsError(f"shard is i/n with i from 1 to n, such as 1/8, not {text!r}")
    return int(found[1]), int(found[2])
