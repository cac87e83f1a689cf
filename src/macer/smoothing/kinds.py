"""Hard and soft smoothing, and their bounds, as small objects with one interface.

A kind turns logits into a score in [0, 1] for every class and sample; the class with the largest sum of scores is
selected. From the scores of fresh samples it sums what its bound needs, and computes the bound from the sums.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing import bounds, radius
from macer.smoothing.noise import uniform_of_bound


@dataclass(frozen=True)
class Bound:
    """What n samples prove, at confidence 1 - alpha, about probabilities (hard) or mean scores (soft) of classes.

    Attributes:
        p_a_lower: lower bound for the selected class.
        count: the selected class's votes or sum of scores.
        p_b_upper: upper bound for every other class; None: 1 - p_a_lower.
        second: what the bound follows from beside count and n, see `Certificate`; None where there is nothing.
        exact: whether the bounds follow from what is recorded, and are not just limits of them.
    """

    p_a_lower: float
    count: float
    p_b_upper: float | None = None
    second: float | None = None
    exact: bool = True


@runtime_checkable
class Kind(Protocol):
    """A kind of smoothing, as the classifier uses it."""

    @property
    def name(self) -> str:
        """The kind's name in files and on the command line."""
        ...

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        """Return the score in [0, 1] that each sample gives each class."""
        ...

    def for_image(self, seed: int, image_index: int) -> "Kind":
        """Return the kind for an image: this one, unless its bound is randomised.

        Args:
            seed: of all noise.
            image_index: the image's.
        """
        ...

    def after_selection(self, votes: Float64[Tensor, " classes"], n: int, alpha: float) -> "Kind":
        """Return the kind whose bound an image gets: this one, unless it chooses among several.

        Args:
            votes: each class's sum of scores over the selection samples, on which alone the choice may depend.
            n: estimation samples that will follow.
            alpha: probability with which the bound may fail.
        """
        ...

    def summands(self, scores: Float[Tensor, "samples classes"], selected: int) -> Float64[Tensor, "samples features"]:
        """Return the numbers that are summed over the estimation samples, given the selected class."""
        ...

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        """Return the bound that follows from the sums over n samples."""
        ...

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        """Return the bound that follows from what a certificate records: its `count`, `second` and n.

        Where these say less than the sums did, as for betting, it is the largest bound that they allow, not `exact`.

        Args:
            count: the certificate's.
            second: the certificate's.
            n: the certificate's.
            classes: number of classes; None where it is not known.
            alpha: probability with which the bound may fail.

        Raises:
            SettingsError: no samples have these numbers.
        """
        ...

    def fewest_samples(self, alpha: float) -> int:
        """Return the least n with which a certificate is possible."""
        ...


@dataclass(frozen=True)
class Hard:
    """Hard smoothing: g(x) is the class that the network returns most often.

    A sample's score is 1 for the class of its largest logit and 0 for the others. Cohen et al. 2019 (arXiv 1902.02918).
    The bound is Clopper and Pearson's.

    >>> Hard().scores(torch.tensor([[2.0, -1.0, 0.5]]))
    tensor([[1., 0., 0.]])
    >>> Hard().fewest_samples(alpha=0.001)
    10
    """

    name = "hard"

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        # Not one_hot, which waits for the device.
        classes = torch.arange(logits.shape[1], device=logits.device)
        return (logits.argmax(1, keepdim=True) == classes).float()

    def for_image(self, seed: int, image_index: int) -> Kind:
        return self

    def after_selection(self, votes: Float64[Tensor, " classes"], n: int, alpha: float) -> Kind:
        return self

    def summands(self, scores: Float[Tensor, "samples classes"], selected: int) -> Float64[Tensor, "samples features"]:
        return scores.double()

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        return self.bound_again(float(sums[selected]), None, n, None, alpha)

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        return Bound(bounds.clopper_pearson_lower(whole(count), n, alpha), count)

    def fewest_samples(self, alpha: float) -> int:
        return radius.fewest_samples(alpha)


@dataclass(frozen=True)
class HardTwoClass(Hard):
    """Hard smoothing with theorem 1 of Cohen et al. 2019 in full: the runner-up has a bound of its own.

    It also certifies classes with less than half of the votes. The two bounds share alpha; see
    `bounds.two_class_bounds`.
    """

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        runner_up = torch.cat([sums[:selected], sums[selected + 1 :]]).max()
        return self.bound_again(float(sums[selected]), float(runner_up), n, len(sums), alpha)

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        if second is None or classes is None:
            raise SettingsError("the two-class bound needs the runner-up's votes, and the number of classes")
        p_a_lower, p_b_upper = bounds.two_class_bounds(whole(count), whole(second), n, classes, alpha)
        return Bound(p_a_lower, count, p_b_upper, second)

    def fewest_samples(self, alpha: float) -> int:
        # Where all samples agree, the runner-up's bound is at best 1 - p_a_lower.
        return radius.fewest_samples(alpha / 2)


@dataclass(frozen=True)
class HardAuto(HardTwoClass):
    """Hard smoothing with the one-class or the two-class bound, whichever promises the larger radius for an image.

    The choice costs no alpha. It depends on the selection samples alone, and the estimation samples are independent of
    these. So for each outcome of the selection, the bound is one that was fixed before its samples were drawn, and
    fails with probability at most alpha; then so it does on average over all outcomes.

    Both bounds are computed for the votes that the n0 selection samples let expect of n: in proportion to theirs and
    one more, half of it the runner-up's and half another class's, because selection samples that all agree do not show
    that all n will. Of two classes, the second one has all votes that the first has not, and nothing is to be gained.

    A certificate has `second`, the runner-up's votes, exactly where its bound is the two-class one.
    """

    def after_selection(self, votes: Float64[Tensor, " classes"], n: int, alpha: float) -> Kind:
        if len(votes) == 2:
            return Hard()
        n0, (top, runner_up) = round(float(votes.sum())), map(round, votes.topk(2).values.tolist())
        expected, second = n * top // (n0 + 1), -(-n * (2 * runner_up + 1) // (2 * n0 + 2))
        p_a_lower, p_b_upper = bounds.two_class_bounds(expected, second, n, len(votes), alpha)
        two = radius.certified_radius(p_a_lower, 1.0, p_b_upper)
        one = radius.certified_radius(bounds.clopper_pearson_lower(expected, n, alpha), 1.0)
        return HardTwoClass() if two > one else Hard()

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        if second is None:
            return Hard().bound_again(count, None, n, classes, alpha)
        return super().bound_again(count, second, n, classes, alpha)

    def fewest_samples(self, alpha: float) -> int:
        return Hard().fewest_samples(alpha)


@dataclass(frozen=True)
class HardRandomised(Hard):
    """Hard smoothing with a randomised Clopper-Pearson bound, which is never smaller and fails as often as alpha says.

    See `bounds.randomised_clopper_pearson_lower` and `noise.uniform_of_bound`. A certificate has v as its `second`.

    Attributes:
        v: the image's random number; 1 gives the plain bound.
    """

    v: float = 1.0

    def for_image(self, seed: int, image_index: int) -> Kind:
        return HardRandomised(uniform_of_bound(seed, image_index))

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        p_a_lower = bounds.randomised_clopper_pearson_lower(whole(count), n, alpha, self.v)
        return Bound(p_a_lower, count, second=self.v)


@dataclass(frozen=True)
class Soft:
    """Soft smoothing: g(x) is the class with the largest mean of softmax(beta z). MACER trains through it.

    Zhai et al. 2020 (arXiv 2001.02378), definition 2, theorem 2 and appendix A. The bound is empirical Bernstein's.

    Attributes:
        beta: inverse temperature of the softmax.

    >>> Soft(beta=1.0).scores(torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    >>> Soft().fewest_samples(alpha=0.001)
    37
    """

    beta: float = 16.0
    name = "soft"

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise SettingsError(f"beta must be a positive number, not {self.beta:g}")

    def scores(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
        return torch.softmax(self.beta * logits.float(), dim=1)

    def for_image(self, seed: int, image_index: int) -> Kind:
        return self

    def after_selection(self, votes: Float64[Tensor, " classes"], n: int, alpha: float) -> Kind:
        return self

    def summands(self, scores: Float[Tensor, "samples classes"], selected: int) -> Float64[Tensor, "samples features"]:
        # In float64, because the variance is a small difference of large sums.
        score = scores[:, selected].double()
        return torch.stack([score, score * score], dim=1)

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        total, square_total = sums.tolist()
        return self.bound_again(total, square_total, n, None, alpha)

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        if second is None:
            raise SettingsError("empirical Bernstein's bound needs the sum of squared scores")
        return Bound(bounds.empirical_bernstein_lower(count, second, n, alpha), count, second=second)

    def fewest_samples(self, alpha: float) -> int:
        alpha = bounds.check_alpha(alpha)
        # The bound of n scores of 1 exceeds 1/2 as soon as n - 1 > 14 ln(2/alpha) / 3.
        return math.floor(14 * math.log(2 / alpha) / 3 + 1) + 1


@dataclass(frozen=True)
class SoftBetting(Soft):
    """Soft smoothing with a bound by betting, which is nearly always larger than empirical Bernstein's.

    Waudby-Smith and Ramdas 2024 (arXiv 2010.09686); see `bounds.betting_lower`. Each score x is shared between the two
    edges around it, l <= x <= r, of a histogram: (r - x) / (r - l) of it counts at l and the rest at r. This loses
    almost nothing and takes the same memory for any n.
    """

    def summands(self, scores: Float[Tensor, "samples classes"], selected: int) -> Float64[Tensor, "samples features"]:
        score = scores[:, selected].double()
        edges = torch.from_numpy(bounds.score_edges()).to(score.device)
        left = (torch.bucketize(score, edges, right=True) - 1).clamp_(max=len(edges) - 2)
        share = ((score - edges[left]) / (edges[left + 1] - edges[left])).unsqueeze(1)
        left = left.unsqueeze(1)
        histogram = torch.zeros(len(score), len(edges), dtype=torch.float64, device=score.device)
        histogram.scatter_(1, left, 1 - share).scatter_(1, left + 1, share)
        return torch.cat([score.unsqueeze(1), histogram], dim=1)

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        return Bound(bounds.betting_lower(bounds.score_edges(), sums[1:].numpy(), alpha), float(sums[0]))

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        # No record holds the histogram. The logarithm of a factor is concave in the score, so that of all scores with
        # this mean equal ones give the largest capital, and with it the largest bound.
        if not 0 <= count <= n * (1 + 1e-6):
            raise SettingsError(f"impossible sum of {n} scores in [0, 1]: {count:g}")
        largest = bounds.betting_lower(np.array([min(count / n, 1.0)]), np.array([float(n)]), alpha)
        return Bound(largest, count, exact=False)

    def fewest_samples(self, alpha: float) -> int:
        alpha, n = bounds.check_alpha(alpha), 1
        while bounds.betting_lower(np.ones(1), np.array([float(n)]), alpha) <= 0.5:
            n += 1
        return n


def whole(count: float) -> int:
    """Return votes as a whole number.

    Raises:
        SettingsError: they are not whole.
    """
    if count != round(count):
        raise SettingsError(f"votes are whole numbers, not {count:g}")
    return round(count)
