"""Hard and soft smoothing as two small objects with one interface.

Each turns logits into a score in [0, 1] for every class and sample, and sums of scores into a lower bound on the
mean score of a class. The smoothed classifier, its selection of a class and its radius are the same for both.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing import bounds, radius


@runtime_checkable
class Kind(Protocol):
    """What the classifier needs to know of a kind of smoothing."""

    @property
    def name(self) -> str:
        """The kind's name in files and on the command line."""
        ...

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        """The score in [0, 1] that each sample gives each class."""
        ...

    def lower_bound(self, total: float, square_total: float, n: int, alpha: float) -> float:
        """Lower bound, at confidence 1 - alpha, on the mean of n scores with these sums."""
        ...

    def fewest_samples(self, alpha: float) -> int:
        """The least n at which a bound above 1/2 is possible."""
        ...


@dataclass(frozen=True)
class Hard:
    """g(x) = the class most often returned: a sample's score is 1 for the class of its largest logit.

    Cohen et al. 2019 (arXiv 1902.02918). The bound is Clopper-Pearson's.
    """

    name = "hard"

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        """One-hot votes, summed without a loop or a synchronisation."""
        classes = torch.arange(logits.shape[1], device=logits.device)
        return (logits.argmax(1, keepdim=True) == classes).float()

    def lower_bound(self, total: float, square_total: float, n: int, alpha: float) -> float:
        """Clopper-Pearson on the count; a vote is its own square."""
        return bounds.clopper_pearson_lower(round(total), n, alpha)

    def fewest_samples(self, alpha: float) -> int:
        """See `radius.fewest_samples`."""
        return radius.fewest_samples(alpha)


@dataclass(frozen=True)
class Soft:
    """g(x) = the class with the largest mean of softmax(beta z), the smoothing that MACER trains through.

    Zhai et al. 2020 (arXiv 2001.02378), definition 2, theorem 2 and appendix A. The bound is empirical Bernstein's.

    Attributes:
        beta: inverse temperature of the softmax.
    """

    beta: float = 16.0
    name = "soft"

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise SettingsError(f"beta must be a positive number, not {self.beta:g}")

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        """softmax(beta z) in float32, whatever the network computed in."""
        return torch.softmax(self.beta * logits.float(), dim=1)

    def lower_bound(self, total: float, square_total: float, n: int, alpha: float) -> float:
        """Empirical Bernstein on the mean score."""
        return bounds.empirical_bernstein_lower(total, square_total, n, alpha)

    def fewest_samples(self, alpha: float) -> int:
        """The bound of n scores of 1 exceeds 1/2 once n - 1 > 14 ln(2/alpha) / 3."""
        bounds.check_alpha(alpha)
        return math.floor(14 * math.log(2 / alpha) / 3 + 1) + 1
