"""The smoothed classifier g of one network and one sigma: predict, certify, and differentiable scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from macer.errors import SettingsError
from macer.smoothing.bounds import check_alpha, check_samples, empirical_bernstein_lower, majority_p_value
from macer.smoothing.certificate import ABSTAIN, Certificate, Certificates
from macer.smoothing.grid import discretisation_gap
from macer.smoothing.images import as_images
from macer.smoothing.kinds import Hard, Kind, Soft
from macer.smoothing.network import logits_of_copies
from macer.smoothing.noise import BLOCK
from macer.smoothing.sampling import Image, SampledNetwork
from macer.smoothing.spending import Fixed, scores_of
from macer.smoothing.top_k import check_top_k, top_k_bounds, top_k_radius
from macer.smoothing.training_noise import noisy_copies
from macer.smoothing.words import Stage


class SmoothedClassifier(SampledNetwork):
    """g(x): the class that `network` returns most often on x + N(0, sigma^2 I).

    Images are (channels, height, width), or (batch, channels, height, width); PyTorch tensors or NumPy arrays;
    floating-point numbers in [0, 1], or uint8 from 0 to 255. One image gives one answer, a batch gives one answer per
    image.

    An 8-bit image, each pixel a whole multiple of 1/255, gets noise in whole grey levels, and its certificates hold in
    floating-point arithmetic as well (see `smoothing.grid`). Other images get float noise, and their certificates take
    floats for real numbers. `sound` decides otherwise.

    The noise follows from `seed` and the image's index alone. A certificate is therefore the same for any batch size,
    order of images or number of processes on one kind of device: hard certificates exactly, soft ones up to rounding
    of the network's scores. Without `image_index`, a counter gives each image of each call an index of its own, so
    that no two share their noise.

    `predict` and `certify` evaluate the network in eval mode and in full float32, without TF32 or autocast; calling g
    itself keeps the mode that it is in.

    Args:
        network: maps (batch, channels, height, width) to (batch, classes) logits, or to an object or dictionary with
            `logits`. Normalisation belongs inside it: sigma and radius are in units of [0, 1] pixels.
        sigma: standard deviation of the noise.
        num_classes: number of classes; None: as many as the network's first output has.
        batch_size: noise samples evaluated at once, rounded down to whole blocks of 100. Default: 200 on a CPU, where
            activations should stay in the cache, 1,000 elsewhere.
        seed: of all noise of `predict` and `certify`, to repeat them. Default: it is drawn from the system's entropy
            when the first noise is needed, so that the network cannot know it, and then is g's attribute `seed`.
        sound: True: refuse images that are not 8-bit; False: float noise for all images; None: as each image allows.
        any_range: accept pixels outside [0, 1]; sigma and radius are then in the units of the given images.
        shape: (channels, height, width) that images must have, because a convolutional network answers for any size;
            None: any that the network takes.

    Raises:
        SettingsError: the network is not a module, or sigma, num_classes or batch_size is impossible.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> g = SmoothedClassifier(network, sigma=0.25)
    >>> images = torch.rand(5, 1, 2, 2)
    >>> g.predict(images).shape
    (5,)
    >>> certificates = g.certify(images, n=1000)
    >>> certificates.radius.shape
    (5,)
    >>> g(images).shape
    torch.Size([5, 3])
    >>> g
    SmoothedClassifier(sigma=0.25, num_classes=3, device=cpu, network=Sequential)
    """

    _next_index = 0

    def predict(
        self,
        x: Tensor | np.ndarray,
        n: int = 1000,
        alpha: float = 0.001,
        *,
        kind: Kind | None = None,
        image_index: int | Sequence[int] | None = None,
    ) -> Any:
        """Return the class of g at x, wrong with probability at most alpha, or ABSTAIN (-1).

        Predict of Cohen et al. 2019, section 3.2.1: g abstains where a two-sided binomial test at level alpha cannot
        tell the two most frequent classes apart. For `Soft`, whose g is the class with the largest mean score, a class
        is selected on 100 samples, and g abstains unless empirical Bernstein bounds on n others show for each other
        class that its mean score is smaller.

        Args:
            x: an image or a batch of images.
            n: noise samples per image.
            alpha: probability that an image's answer is wrong.
            kind: `Hard()` (the default) or `Soft(beta)`: the kind of certificates whose g is asked.
            image_index: selects the noise: the index of the (first) image, or one index per image. Default: the
                next indices of the classifier's counter.

        Returns:
            An int for one image, an array of int64 for a batch.

        Raises:
            SettingsError: n, alpha or an image is impossible, or the network's output is not finite logits.
        """
        n, alpha = check_samples("n", n), check_alpha(alpha)
        images, single = self.images_of(x)
        answers = np.full(len(images), ABSTAIN)
        for place, index in enumerate(self._indices(image_index, len(images))):
            if isinstance(kind, Soft):
                answers[place] = self._predict_soft(images[place], index, n, alpha, kind)
                continue
            (votes,) = self.sums(images[place], index, Stage.PREDICTION, n, [scores_of(Hard())])
            (first, second), classes = votes.topk(2)
            if majority_p_value(int(first), int(second)) <= alpha:
                answers[place] = int(classes[0])
        return int(answers[0]) if single else answers

    def _predict_soft(self, image: Image, index: int, n: int, alpha: float, kind: Soft) -> int:
        """Return the class with the largest mean score, or ABSTAIN.

        The selected class is independent of the n samples. Where it is not the class with the largest mean, its lead
        over that one class is at most 0, and is believed to be positive with probability at most alpha.
        """
        (selection,) = self.sums(image, index, Stage.SELECTION, BLOCK, [scores_of(kind)])
        selected = int(selection.argmax())

        def leads(logits: Tensor) -> Tensor:
            scores = kind.scores(logits).double()
            leads = (1 + scores[:, [selected]] - scores) / 2
            return torch.cat([leads, leads * leads], 1)

        (sums,) = self.sums(image, index, Stage.PREDICTION, n, [leads])
        pairs = zip(*sums.view(2, -1).tolist(), strict=True)
        others = (pair for each, pair in enumerate(pairs) if each != selected)
        ahead = all(empirical_bernstein_lower(total, squares, n, alpha) > 0.5 for total, squares in others)
        return selected if ahead else ABSTAIN

    def certify(
        self,
        x: Tensor | np.ndarray,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        *,
        kind: Kind | None = None,
        image_index: int | Sequence[int] | None = None,
    ) -> Any:
        """Return the class of g at x and a radius in which it is constant, with confidence 1 - alpha per image.

        Certify of Cohen et al. 2019, section 3.2.2: a class is selected on n0 samples, its probability is bounded on n
        fresh ones, and R = sigma Phi^-1(p_a_lower) if that bound exceeds 1/2, else g abstains. `smoothing.spending`
        has other procedures.

        Args:
            x: an image or a batch of images.
            n0: samples that select the class. With 0, the n samples select it, too: see `spending.level`.
            n: samples that bound its probability.
            alpha: probability that a certificate is wrong.
            kind: `Hard()` (the default) or `Soft(beta)`.
            image_index: selects the noise: the index of the (first) image, or one index per image. Default: the
                next indices of the classifier's counter.

        Returns:
            A `Certificate` for one image, `Certificates` for a batch.

        Raises:
            SettingsError: n0, n, alpha or an image is impossible (n too small for any certificate included), or the
                network's output is not finite logits.
        """
        n0, n, alpha = n0 and check_samples("n0", n0), check_samples("n", n), check_alpha(alpha)
        spending = Fixed([kind or Hard()], n0, n, alpha)
        spending.check(self.sigma)
        images, single = self.images_of(x)
        made: list[Certificate] = []
        for image, index in zip(images, self._indices(image_index, len(images)), strict=True):
            made += spending.certify(self, image, image_index=index)
        return made[0] if single else Certificates(made, self.seed)

    def certify_top_k(
        self,
        x: Tensor | np.ndarray,
        k: int,
        labels: int | Sequence[int] | None = None,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        *,
        image_index: int | Sequence[int] | None = None,
    ) -> Any:
        """Return the radius within which a class stays among the k most likely ones, with confidence 1 - alpha each.

        Jia et al., ICLR 2020 (arXiv 1912.09899); see `smoothing.top_k` for the bounds and the proof. The share of
        images whose label has at least some radius is what papers call certified top-k accuracy.

        Args:
            x: an image or a batch of images.
            k: from 1 to one less than the number of classes.
            labels: the class to certify, one per image. Default: the one that n0 samples select.
            n0: samples that select the class; none are drawn where labels are given.
            n: samples that bound the probabilities.
            alpha: probability that a certificate is wrong.
            image_index: as for `certify`.

        Returns:
            A `Certificate` for one image, `Certificates` for a batch. `predict` is the class that stays among the k,
            and ABSTAIN where that was not shown.

        Raises:
            SettingsError: as for `certify`, or k or the labels are impossible.
        """
        n, alpha = check_samples("n", n), check_alpha(alpha)
        images, single = self.images_of(x)
        wanted: list[int | None] = [None] * len(images)
        if labels is None:
            n0 = check_samples("n0 of samples that select the class", n0)
        else:
            given = np.atleast_1d(labels)
            if given.shape != (len(images),) or given.dtype.kind not in "iu":
                raise SettingsError(f"labels must be {len(images)} whole numbers, one per image")
            wanted = given.tolist()
        if self.num_classes is not None:  # else the first image tells, after its samples
            for label in wanted:
                check_top_k(label or 0, k, self.num_classes)
        indices = self._indices(image_index, len(images))
        made = [self._top_k(*each, k, n0, n, alpha) for each in zip(images, indices, wanted, strict=True)]
        return made[0] if single else Certificates(made, self.seed)

    def _top_k(self, image: Image, index: int, label: int | None, k: int, n0: int, n: int, alpha: float) -> Certificate:
        votes = [scores_of(Hard())]
        if label is None:
            (selection,) = self.sums(image, index, Stage.SELECTION, n0, votes)
            label = int(selection.argmax())
        (counts,) = self.sums(image, index, Stage.ESTIMATION, n, votes)
        p_lower, sums = top_k_bounds(counts.numpy().astype(int), label, k, alpha)
        sound = self.noise_for(image).sound
        radius = top_k_radius(p_lower, sums, self.sigma, discretisation_gap(image.shape, self.sigma) if sound else 0.0)
        answer = label if radius > 0 else ABSTAIN
        return Certificate(answer, radius, p_lower, float(counts[label]), n, sound=sound)

    def forward(
        self, x: Tensor | np.ndarray, samples: int = 16, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch classes"]:
        """Return the mean softmax of the network over noisy copies of x, differentiable in x and in the parameters.

        For attacks on g and for training through it. An estimate from few samples proves nothing, and its largest score
        is not g's answer: `predict` gives that, or abstains, and `certify` proves it.

        Args:
            x: an image or a batch of images. Their range is not checked, because attacks may leave it on the way.
            samples: noisy copies of each image.
            generator: source of the noise; None: PyTorch's global generator.
        """
        samples = check_samples("samples", samples)
        images, single = as_images(x, any_range=True)
        copies = noisy_copies(self.placed(images), self.sigma, samples, generator)
        scores = logits_of_copies(self.network, copies.to(self.dtype)).softmax(2).mean(1)
        return scores[0] if single else scores

    def __repr__(self) -> str:
        return (
            f"SmoothedClassifier(sigma={self.sigma:g}, num_classes={self.num_classes}, device={self.device}, "
            f"network={type(self.network).__name__})"
        )

    def _indices(self, image_index: int | Sequence[int] | None, count: int) -> Sequence[int]:
        """Return one index per image, and count those that are given here."""
        if image_index is None:
            self._next_index += count
            return range(self._next_index - count, self._next_index)
        indices = np.asarray(image_index)
        if indices.size and indices.dtype.kind not in "iu":
            raise SettingsError("image_index must be a whole number, or one per image")
        if indices.ndim == 0:
            return range(int(indices), int(indices) + count)
        if indices.shape != (count,):
            raise SettingsError(f"image_index has {len(indices)} indices for {count} images")
        return indices.tolist()
