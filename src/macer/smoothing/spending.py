"""Three procedures that spend noise samples on an image, each wrong with probability at most alpha.

docs/spending-samples.md compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, runtime_checkable

import numpy as np

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha, check_samples
from macer.smoothing.certificate import ABSTAIN, NOT_ESTIMATED, Certificate
from macer.smoothing.kinds import Bound, Hard, Kind
from macer.smoothing.noise import BLOCK
from macer.smoothing.sampling import Image, Measure, SampledNetwork
from macer.smoothing.sequential import MOST_SAMPLES, Question
from macer.smoothing.words import Stage


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
    """Select the class on n0 samples and bound its probability on n others: Cohen et al. 2019, section 3.2.2.

    With n0 = 0, the n samples select it themselves: see `level`.
    """

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
        selecting = [scores_of(kind) for kind in self.kinds]
        stage, samples = (Stage.SELECTION, self.n0) if self.n0 else (Stage.ESTIMATION, self.n)
        votes = classifier.sums(image, image_index, stage, samples, selecting)
        selected = [int(each.argmax()) for each in votes]
        if self.n0 == 0:
            kinds, sums, wanted = self.kinds, iter(votes), [True] * len(votes)
        else:
            kinds = [kind.for_image(classifier.seed, image_index) for kind in self.kinds]
            pairs = zip(kinds, votes, strict=True)
            kinds = [kind.after_selection(each, self.n, self.alpha) for kind, each in pairs]
            wanted = [only_class in (None, each) for each in selected]
            measures = [_summands(kind, each) for kind, each, want in zip(kinds, selected, wanted, strict=True) if want]
            sums = iter(classifier.sums(image, image_index, Stage.ESTIMATION, self.n, measures) if measures else ())
        may_fail = level(self.alpha, self.n0)
        return [
            certificate(classifier, kind.bound(next(sums), each, self.n, may_fail), each, self.n, image)
            if want
            else NOT_ESTIMATED
            for kind, each, want in zip(kinds, selected, wanted, strict=True)
        ]


@dataclass(frozen=True)
class ForTable(Fixed):
    """Proceed as `Fixed`, but stop after the selection where the selected class is not the label.

    Such an image gets no answer and n = 0. Certified accuracy and ACR count only images that are answered correctly,
    so these numbers stay exactly the same. What is lost is which wrong answers are certified, and the number of
    images on which the classifier abstains.
    """

    def check(self, sigma: float) -> None:
        check_samples("n0 of samples spent for a table", self.n0)
        super().check(sigma)

    def certify(
        self, classifier: SampledNetwork, image: Image, *, image_index: int, label: int | None = None
    ) -> list[Certificate]:
        return self._certify(classifier, image, image_index, only_class=label)


@dataclass(frozen=True)
class Sequential:
    """Draw samples until a question about the radius is answered, at most n: see `smoothing.sequential`.

    A certificate's n is the number of samples that were looked at. Where the answer is not "yes", it abstains.

    With n0 = 0, the question is asked about the class with the most votes so far, whichever it is: see `level`.
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
        measure, selected = scores_of(Hard()), None
        if self.n0 > 0:
            (votes,) = classifier.sums(image, image_index, Stage.SELECTION, self.n0, [measure])
            selected = int(votes.argmax())
            measure = _votes_for(selected)
        blocks, at_once = ceil(self.n / BLOCK), max(1, classifier.batch_size // BLOCK)
        done, before = 0, 0
        while True:
            # Twice as many each time: few small batches, and at most half of the work is in vain.
            more = range(done, min(blocks, done + max(at_once, done)))
            (sums,) = classifier.block_sums(image, image_index, Stage.ESTIMATION, more, self.n, [measure])
            votes = before + sums.round().long().numpy().cumsum(0)  # of the selected class, or of every class
            trials = np.minimum(BLOCK * np.arange(more.start + 1, more.stop + 1), self.n)
            answer = question.answer(votes.max(1), trials, classifier.sigma, level(self.alpha, self.n0))
            done, before = more.stop, votes[-1]
            if answer.check is not None or done == blocks:
                last = -1 if answer.check is None else answer.check
                bound = Bound(answer.p_a_lower, float(votes[last].max()))
                top = int(votes[last].argmax()) if selected is None else selected
                return [certificate(classifier, bound, top, int(trials[last]), image)]

    def _check_answerable(self, question: Question, sigma: float) -> None:
        fewest = question.fewest_samples(sigma, level(self.alpha, self.n0))
        if self.n < fewest:
            raise SettingsError(
                f"n = {self.n} is too small: at alpha = {self.alpha:g} even {self.n} agreeing samples do not answer "
                f"the question; {fewest} may"
            )


def level(alpha: float, n0: int) -> float:
    """Return the probability with which the bound of one class may fail: alpha, or half of it where n0 = 0.

    With n0 = 0, no samples select the class. It is the one with the most votes when sampling stops, and the same votes
    bound its probability. Suppose that each class c has a bound that depends on the votes for c and against c alone,
    is at most the share of votes for c, and at any check point exceeds c's probability p_c with probability at most
    alpha / 2. A certificate for c needs a bound above 1/2, and is wrong only if this bound exceeds p_c. Then a
    certificate is wrong with probability at most alpha, for any number of classes.

    Proof. Let D_c be the event that at some check point c's bound exceeds 1/2. Without it c has no certificate.

    Lemma: if p_c <= 1/2, then P(D_c) <= alpha p_c. At p_c = 1/2, D_c is the failure of the bound, and
    P(D_c) <= alpha / 2. At p_c = p < 1/2, consider the first check point at which the bound exceeds 1/2, with s votes
    for c and f against. As the bound is at most the share of votes, s > f. Any such sequence of votes has the
    probability that it has at p_c = 1/2, times

        (2 p)^s (2 (1 - p))^f = (2 p)^(s - f) (4 p (1 - p))^f <= 2 p,

    because s - f >= 1, 2 p <= 1 and 4 p (1 - p) <= 1. In sum, P(D_c) is at most 2 p times alpha / 2.

    If a class A has p_A > 1/2, its bound exceeds p_A with probability at most alpha / 2, and by the lemma another class
    has a certificate with probability at most the sum of their alpha p_c, alpha (1 - p_A) < alpha / 2. If no class
    exceeds 1/2, any class has a certificate with probability at most the sum of all alpha p_c = alpha.

    Check points are one, after n samples, for Clopper-Pearson's bound, and every block in a sequential test, whose
    bounds hold at all times at once. `RadiusAtLeast` claims Phi(r / sigma) only where larger probabilities are more
    likely, so at a larger share of votes. There, more votes for a class are more evidence for "yes" and less for "no":
    to ask about the class with the most votes is to ask about every class.

    Args:
        alpha: probability that a certificate is wrong.
        n0: samples that select the class.
    """
    return alpha if n0 > 0 else alpha / 2


def check_budget(kinds: Sequence[Kind], n0: int, n: int, alpha: float) -> None:
    """Refuse numbers of samples with which no certificate is possible, before anything is computed.

    Raises:
        SettingsError: n0 < 0, n < 1, alpha outside (0, 1), n too small for a bound above 1/2, or n0 = 0 for a bound
            whose class other samples must select.
    """
    check_alpha(alpha)
    check_samples("n", n)
    if n0 != 0:
        check_samples("n0", n0)
    elif any(type(kind) is not Hard for kind in kinds):
        raise SettingsError("n0 = 0 is for hard certificates with the one-class bound: others need a selected class")
    for kind in kinds:
        fewest = kind.fewest_samples(level(alpha, n0))
        if n < fewest:
            raise SettingsError(
                f"n = {n} is too small: at alpha = {alpha:g} even {n} of {n} agreeing samples certify nothing "
                f"({kind.name} certificates need n of at least {fewest})"
            )


def scores_of(kind: Kind) -> Measure:
    """Return the measure of a kind's scores."""
    return lambda logits: kind.scores(logits).double()


def _summands(kind: Kind, selected: int) -> Measure:
    return lambda logits: kind.summands(kind.scores(logits), selected)


def _votes_for(selected: int) -> Measure:
    return lambda logits: (logits.argmax(1, keepdim=True) == selected).double()


def certificate(classifier: SampledNetwork, bound: Bound, selected: int, n: int, image: Image) -> Certificate:
    """Return the certificate of an image for the selected class, or its abstention, that follows from a bound."""
    noise = classifier.noise_for(image)
    radius = noise.radius(bound.p_a_lower, bound.p_b_upper, image.shape)
    answer = selected if radius > 0 else ABSTAIN
    return Certificate(answer, radius, bound.p_a_lower, bound.count, n, bound.second, noise.sound)
