"""Three procedures that spend noise samples on an image, each wrong with probability at most alpha.

docs/spending-samples.md compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import numpy as np

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha
from macer.smoothing.certificate import ABSTAIN, NOT_ESTIMATED, Certificate
from macer.smoothing.kinds import Bound, Hard, Kind
from macer.smoothing.noise import BLOCK, Stage
from macer.smoothing.sampling import Image, Measure, SampledNetwork
from macer.smoothing.sequential import MOST_SAMPLES, Question


@runtime_checkable
class Spending(Protocol):
    """A procedure that spends samples on an image."""

    @property
    def kinds(self) -> Sequence[Kind]:
        """The kinds of certificate that an image gets."""
        ...

    def check(self, sigma: float) -> None:
        """Refuse numbers of samples with which no certificate is possible, before anything is computed.

        Raises:
            SettingsError: n, n0 or alpha is impossible, or n is too small.
        """
        ...

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        """Return the image's certificate of each kind.

        Args:
            classifier: the classifier to certify.
            image: in [0, 1].
            image_index: selects the noise.
            label: the image's class, for procedures that spend nothing on wrong answers.
        """
        ...


@dataclass(frozen=True)
class Fixed:
    """Select the class on n0 samples and bound its probability on n others: Cohen et al. 2019, section 3.2.2."""

    kinds: Sequence[Kind]
    n0: int
    n: int
    alpha: float

    def check(self, sigma: float) -> None:
        check_budget(self.kinds, self.n0, self.n, self.alpha)

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        return self._certify(classifier, image, image_index, only_class=None)

    def _certify(
        self, classifier: SampledNetwork, image: Image, image_index: int, only_class: int | None
    ) -> list[Certificate]:
        """Certify; with `only_class`, estimate nothing for a kind that selects another class."""
        self.check(classifier.sigma)
        selected = _select(classifier, image, image_index, self.n0, self.kinds)
        wanted = [only_class in (None, each) for each in selected]
        measures = [
            _summands(kind, each) for kind, each, want in zip(self.kinds, selected, wanted, strict=True) if want
        ]
        sums = iter(classifier.sums(image, image_index, Stage.ESTIMATION, self.n, measures) if measures else ())
        return [
            _certificate(classifier, kind.bound(next(sums), each, self.n, self.alpha), each, self.n, image)
            if want
            else NOT_ESTIMATED
            for kind, each, want in zip(self.kinds, selected, wanted, strict=True)
        ]


@dataclass(frozen=True)
class ForTable(Fixed):
    """Proceed as `Fixed`, but stop after the selection where the selected class is not the label.

    Such an image gets no answer and n = 0. Certified accuracy and ACR count only images that are answered correctly,
    so these numbers stay exactly the same. What is lost is which wrong answers are certified, and the number of
    images on which the classifier abstains.
    """

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        return self._certify(classifier, image, image_index, only_class=label)


@dataclass(frozen=True)
class Sequential:
    """Draw samples until a question about the radius is answered, at most n: see `smoothing.sequential`.

    A certificate's n is the number of samples that were looked at. Where the answer is not "yes", it abstains.
    """

    question: Question
    n0: int
    n: int
    alpha: float
    kinds: Sequence[Kind] = (Hard(),)

    def check(self, sigma: float) -> None:
        check_budget((), self.n0, self.n, self.alpha)
        if self.n > MOST_SAMPLES:  # the first image that needs as many would end the command, after hours
            raise SettingsError(f"sequential certification takes at most {MOST_SAMPLES:,} samples, not {self.n:,}")
        self._check_answerable(self.question, sigma)

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        check_budget((), self.n0, self.n, self.alpha)
        question = classifier.noise_for(image).sharpened(self.question, image.shape)
        self._check_answerable(question, classifier.sigma)
        (selected,) = _select(classifier, image, image_index, self.n0, [Hard()])
        votes, at_once = np.zeros(0, dtype=np.int64), max(1, classifier.batch_size // BLOCK)
        blocks = ceil(self.n / BLOCK)
        while True:
            # Twice as many each time: few small batches, and at most half of the work is in vain.
            more = range(len(votes), min(blocks, len(votes) + max(at_once, len(votes))))
            (sums,) = classifier.block_sums(image, image_index, Stage.ESTIMATION, more, self.n, [_votes_for(selected)])
            votes = np.append(votes, sums[:, 0].round().long().numpy())
            trials = np.minimum(BLOCK * np.arange(1, len(votes) + 1), self.n)
            successes = votes.cumsum()[more.start :]
            answer = question.answer(successes, trials[more.start :], classifier.sigma, self.alpha)
            if answer.check is not None or len(votes) == blocks:
                last = more.start + answer.check if answer.check is not None else len(votes) - 1
                bound = Bound(answer.p_a_lower, float(votes[: last + 1].sum()))
                return [_certificate(classifier, bound, selected, int(trials[last]), image)]

    def _check_answerable(self, question: Question, sigma: float) -> None:
        fewest = question.fewest_samples(sigma, self.alpha)
        if self.n < fewest:
            raise SettingsError(
                f"n = {self.n} is too small: at alpha = {self.alpha:g} even {self.n} agreeing samples do not answer "
                f"the question; {fewest} may"
            )


def check_budget(kinds: Sequence[Kind], n0: int, n: int, alpha: float) -> None:
    """Refuse numbers of samples with which no certificate is possible, before anything is computed.

    Raises:
        SettingsError: n0 < 1, n < 1, alpha outside (0, 1), or n too small for a bound above 1/2.
    """
    check_alpha(alpha)
    check_samples("n0", n0)
    check_samples("n", n)
    for kind in kinds:
        fewest = kind.fewest_samples(alpha)
        if n < fewest:
            raise SettingsError(
                f"n = {n} is too small: at alpha = {alpha:g} even {n} of {n} agreeing samples certify nothing "
                f"({kind.name} certificates need n of at least {fewest})"
            )


def check_samples(name: str, n: int) -> None:
    """Refuse a number of samples below 1.

    Raises:
        SettingsError: n < 1; the text calls it by `name`.
    """
    if n < 1:
        raise SettingsError(f"{name} must be at least 1, not {n}")


def scores_of(kind: Kind) -> Measure:
    """Return the measure of a kind's scores."""
    return lambda logits: kind.scores(logits).double()


def _summands(kind: Kind, selected: int) -> Measure:
    return lambda logits: kind.summands(kind.scores(logits), selected)


def _votes_for(selected: int) -> Measure:
    return lambda logits: (logits.argmax(1, keepdim=True) == selected).double()


def _select(classifier: SampledNetwork, image: Image, image_index: int, n0: int, kinds: Sequence[Kind]) -> list[int]:
    """Return the class with the largest sum of scores on the selection samples, for each kind."""
    measures = [scores_of(kind) for kind in kinds]
    return [int(each.argmax()) for each in classifier.sums(image, image_index, Stage.SELECTION, n0, measures)]


def _certificate(classifier: SampledNetwork, bound: Bound, selected: int, n: int, image: Image) -> Certificate:
    noise = classifier.noise_for(image)
    radius = noise.radius(bound.p_a_lower, bound.p_b_upper, image.shape)
    answer = selected if radius > 0 else ABSTAIN
    return Certificate(answer, radius, bound.p_a_lower, bound.count, n, bound.second, noise.sound)
