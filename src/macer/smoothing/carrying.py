"""Certificates that survive a change of the network: carried over from f to f' on a few of the same noise samples.

Ugare et al. 2024 (IRS, arXiv 2305.19521). f was certified on n samples of which each one's vote is remembered. The
changed network f' (in another arithmetic, pruned, exported) is evaluated on the first n_z of the same samples. What f'
loses there bounds how much less likely the class of f can be under f': see `HardCarried`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha, check_samples, clopper_pearson_lower, clopper_pearson_upper
from macer.smoothing.certificate import ABSTAIN, NOT_ESTIMATED, Certificate
from macer.smoothing.kinds import Bound, Hard, whole
from macer.smoothing.noise import BLOCK
from macer.smoothing.sampling import Image, SampledNetwork
from macer.smoothing.spending import Fixed, certificate, level, scores_of
from macer.smoothing.words import Stage


@dataclass(frozen=True)
class HardCarried(Hard):
    """Hard smoothing whose bound is carried over from another network.

    Let A be the class that f was certified with, and p_A = P[f = A] and z = P[f = A, f' != A] over the noise. Then

        P[f' = A] >= P[f = A, f' = A] = p_A - z.

    The bound is the lower Clopper-Pearson bound on p_A at alpha - alpha_z, from the n votes for f, minus the upper one
    on z at alpha_z, from how many of the n_z samples were lost: f had answered A, and f' does not. The first bound
    fails with probability at most alpha - alpha_z, the second with probability at most alpha_z. Where neither fails,
    the difference is a lower bound on P[f' = A]. So it fails with probability at most alpha, in total.

    This is a union bound, which needs no independence of the two: the n_z samples may be among the n. It does need that
    neither network depends on the samples. So f' is made without knowing the seed, and is not one of several that was
    chosen for what it loses on them. Nor may A depend on the samples of which f' loses some, and it does not: other
    samples select it.

    With n0 = 0 the n samples select A, and the first bound fails at level(alpha - alpha_z, 0). The total is still
    alpha. A carried certificate for a class c needs c's first bound above 1/2, the event D_c of `spending.level`. If a
    class A has p_A > 1/2, it is shown there that A's first bound fails, or another class c has D_c, with probability at
    most alpha - alpha_z. Otherwise only A can have a certificate. A is then no class that the samples choose, so that
    its second bound fails with probability at most alpha_z. If no class has p_A > 1/2, any class c has D_c with
    probability at most alpha - alpha_z.

    Ugare et al. bound P[f' != f] in place of z. Samples that neither network gives A, and those that only f' gives A,
    count there, but cannot make A less likely. z is smaller, and its bound is never larger. Their code answers with the
    class of most of the n_z new votes; the bound is for A, which stays the answer here.

    Rounding changes nothing: with grid noise f and f' are functions of the same whole grey levels, all probabilities
    here are under the noise that is drawn, and `grid.discretisation_gap` is taken off the carried bound as of any.

    A certificate has the votes for f as its `count`, and the lost samples as `second`.

    Attributes:
        n_z: samples that f' is evaluated on.
        alpha_z: probability with which the bound of what is lost may fail.
        n0: samples that selected the class.
    """

    n_z: int
    alpha_z: float
    n0: int

    def bound(self, sums: Float64[Tensor, " features"], selected: int, n: int, alpha: float) -> Bound:
        raise NotImplementedError("votes for one network say nothing about the samples that another one lost")

    def bound_again(self, count: float, second: float | None, n: int, classes: int | None, alpha: float) -> Bound:
        if second is None:
            raise SettingsError("a carried certificate needs the number of samples that were lost")
        p_a_lower = clopper_pearson_lower(whole(count), n, alpha - level(check_alpha(self.alpha_z), self.n0))
        lost = clopper_pearson_upper(whole(second), self.n_z, self.alpha_z)
        return Bound(max(0.0, p_a_lower - lost), count, second=second)


@dataclass(frozen=True)
class Remembering(Fixed):
    """Proceed as `Fixed`, and keep each estimation sample's vote, as a certificate's `votes`."""

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        self.check(classifier.sigma)
        answers = answers_to_samples(classifier, image, image_index, self.n)
        votes = torch.bincount(answers)
        if self.n0 > 0:
            (votes,) = classifier.sums(image, image_index, Stage.SELECTION, self.n0, [scores_of(self.kinds[0])])
        selected = int(votes.argmax())
        agreeing = (answers == selected).numpy()
        bound = Hard().bound_again(float(agreeing.sum()), None, self.n, None, level(self.alpha, self.n0))
        made = certificate(classifier, bound, selected, self.n, image)
        return [replace(made, votes=np.packbits(agreeing).tobytes())]


@dataclass(frozen=True)
class Remembered:
    """What was certified of an image with f.

    Attributes:
        predict: the class, or ABSTAIN (-1).
        count: its votes among the n samples.
        votes: one packed bit per sample, of the first n_z at least; b"" for an abstention.
    """

    predict: int
    count: int
    votes: bytes


@dataclass(frozen=True)
class Carried(Fixed):
    """Carry what was certified of images with one network over to another. Abstentions stay as they are.

    Attributes:
        kinds: one `HardCarried`.
        remembered: what is carried, by the index of the image.
    """

    remembered: Mapping[int, Remembered] = field(default_factory=dict)

    def check(self, sigma: float) -> None:
        check_samples("n_z", self.kind.n_z)
        check_alpha(self.alpha)
        if not 0 < self.kind.alpha_z < self.alpha:
            raise SettingsError(f"alpha_z must lie strictly between 0 and alpha = {self.alpha:g}: it is a part of it")
        if self.kind.n_z > self.n:
            raise SettingsError(f"n_z = {self.kind.n_z} is larger than n = {self.n}, of which only so many are known")
        best = self.kind.bound_again(float(self.n), 0.0, self.n, None, level(self.alpha, self.n0)).p_a_lower
        if best <= 0.5:
            raise SettingsError(
                f"n_z = {self.kind.n_z} or n = {self.n} is too small: at alpha = {self.alpha:g} and alpha_z = "
                f"{self.kind.alpha_z:g} nothing can be carried even if all samples agree"
            )

    @property
    def kind(self) -> HardCarried:
        """The kind of all certificates."""
        (kind,) = self.kinds
        assert isinstance(kind, HardCarried)
        return kind

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        before, n_z = self.remembered[image_index], self.kind.n_z
        if before.predict == ABSTAIN:
            return [NOT_ESTIMATED]
        answers = answers_to_samples(classifier, image, image_index, n_z).numpy()
        lost = int((unpacked(before.votes, n_z) & (answers != before.predict)).sum())
        bound = self.kind.bound_again(float(before.count), float(lost), self.n, None, level(self.alpha, self.n0))
        return [certificate(classifier, bound, before.predict, self.n, image)]


def unpacked(votes: bytes, n: int) -> Bool[np.ndarray, " {n}"]:
    """Return the first n votes of packed ones: whether each sample voted for the class."""
    return np.unpackbits(np.frombuffer(votes, np.uint8), count=n).astype(bool)


def answers_to_samples(classifier: SampledNetwork, image: Image, image_index: int, n: int) -> Int64[Tensor, " {n}"]:
    """Return the class of the largest logit for each of the first n estimation samples.

    They are computed as sums over blocks, each sample in a place of its own, so that what holds for sums, that no batch
    size changes a vote, holds here.
    """

    def answers(logits: Float[Tensor, "samples classes"]) -> Float64[Tensor, "samples places"]:
        places = torch.eye(BLOCK, dtype=torch.float64, device=logits.device).repeat(ceil(len(logits) / BLOCK), 1)
        return places[: len(logits)] * logits.argmax(1, keepdim=True)

    (blocks,) = classifier.block_sums(image, image_index, Stage.ESTIMATION, range(ceil(n / BLOCK)), n, [answers])
    return blocks.flatten()[:n].round().long()
