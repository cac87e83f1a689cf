"""Certificates: what was proved of one image, and of the images of a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, overload

import numpy as np
from jaxtyping import Bool, Float64, Int64

from macer.errors import needs

if TYPE_CHECKING:
    import pandas as pd

ABSTAIN = -1
"""The class that stands for no answer."""


@dataclass(frozen=True)
class Certificate:
    """What was proved of one image: g answers `predict` everywhere within `radius`, with confidence 1 - alpha.

    Attributes:
        predict: the class, or ABSTAIN (-1).
        radius: the certified L2 radius in [0, 1] pixel units; 0 where g abstains.
        p_a_lower: lower bound on the selected class's probability (hard) or mean score (soft).
        count: the selected class's votes (hard) or sum of scores (soft) among the n estimation samples.
        n: estimation samples.
        second: what the bound follows from beside count and n: the runner-up's votes (hard, two classes), v (hard,
            randomised), the samples that a changed network lost (hard, carried), or the sum of the squared scores
            (soft, Bernstein); None where there is nothing.
        sound: whether it also holds in floating-point arithmetic, among 8-bit images: see `smoothing.grid`.
        votes: one packed bit per estimation sample, whether it voted for the class, where that is remembered.

    >>> certificate = Certificate(predict=3, radius=0.4, p_a_lower=0.95, count=970.0, n=1000)
    >>> certificate.radius, certificate.abstained
    (0.4, False)
    """

    predict: int
    radius: float
    p_a_lower: float
    count: float
    n: int
    second: float | None = field(default=None, repr=False)
    sound: bool = False
    votes: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def abstained(self) -> bool:
        """Whether g gave no answer."""
        return self.predict == ABSTAIN


NOT_ESTIMATED = Certificate(ABSTAIN, radius=0.0, p_a_lower=0.0, count=0.0, n=0)
"""The certificate of an image whose selected class is not the class asked about: nothing was proved."""


class Certificates(Sequence[Certificate]):
    """The certificates of a batch of images, in the order of the images.

    Args:
        certificates: of the images.
        seed: of the noise that they were made with, where it is known; an attribute of the same name.

    >>> made = Certificates([Certificate(3, 0.4, 0.95, 970.0, 1000), Certificate(ABSTAIN, 0.0, 0.3, 350.0, 1000)])
    >>> made
    Certificates(2 images, 1 abstained, mean radius 0.200)
    >>> made.radius
    array([0.4, 0. ])
    >>> made.predict
    array([ 3, -1])
    >>> made.sound
    array([False, False])
    >>> made[0].count
    970.0
    """

    def __init__(self, certificates: Iterable[Certificate], seed: int | None = None) -> None:
        self._certificates = tuple(certificates)
        self.seed = seed

    @property
    def predict(self) -> Int64[np.ndarray, " images"]:
        """The classes, ABSTAIN (-1) where g gave no answer."""
        return np.array([each.predict for each in self], dtype=np.int64)

    @property
    def radius(self) -> Float64[np.ndarray, " images"]:
        """The certified L2 radii in [0, 1] pixel units, 0 where g abstained."""
        return np.array([each.radius for each in self], dtype=np.float64)

    @property
    def p_a_lower(self) -> Float64[np.ndarray, " images"]:
        """The lower bounds on the selected classes' probabilities (hard) or mean scores (soft)."""
        return np.array([each.p_a_lower for each in self], dtype=np.float64)

    @property
    def sound(self) -> Bool[np.ndarray, " images"]:
        """Which certificates also hold in floating-point arithmetic, among 8-bit images."""
        return np.array([each.sound for each in self], dtype=bool)

    def frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per image and the attributes of `Certificate` as columns."""
        with needs("report"):
            import pandas as pd  # slow to import

        return pd.DataFrame(
            [asdict(each) for each in self], columns=[each.name for each in fields(Certificate) if each.repr]
        )

    def __len__(self) -> int:
        return len(self._certificates)

    @overload
    def __getitem__(self, index: int) -> Certificate: ...
    @overload
    def __getitem__(self, index: slice) -> "Certificates": ...
    def __getitem__(self, index: int | slice) -> "Certificate | Certificates":
        found = self._certificates[index]
        return found if isinstance(found, Certificate) else Certificates(found, self.seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificates) and self._certificates == other._certificates

    def __hash__(self) -> int:
        return hash(self._certificates)

    def __repr__(self) -> str:
        abstained = sum(each.abstained for each in self)
        mean = f", mean radius {self.radius.mean():.3f}" if len(self) else ""
        return f"Certificates({len(self)} images, {abstained} abstained{mean})"
