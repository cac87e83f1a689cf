"""The interface between a training method and the training loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import Module

from macer.errors import SettingsError
from macer.runs.settings import Settings, option, require
from macer.smoothing.network import logits_of_copies
from macer.smoothing.training_noise import Generators, noisy_copies

Images = Float[Tensor, "batch channels height width"]
Labels = Int64[Tensor, " batch"]
Logits = Float[Tensor, "batch k classes"]
TeacherShares = Float[Tensor, "batch classes"]
"""The share of each class in a teacher's votes on each image."""
Score = Callable[[Module, Images, Labels, Generators], Float[Tensor, " batch"]]
"""From a network, images, labels and a source of noise to one number per image."""
Measure = Callable[[Score], Float64[Tensor, " images"]]
"""Evaluates a score on every training image, augmented as in training, with the network in eval mode."""


@dataclass(frozen=True)
class Progress:
    """The state of training, for methods that change during it.

    Attributes:
        epoch: finished epochs, with the fraction of the current one.
        learning_rate_dropped: whether the schedule has passed its first drop.
    """

    epoch: float = 0.0
    learning_rate_dropped: bool = False

    def warmed_up(self, epochs: int) -> float:
        """Return the state of a linear warm-up over so many epochs: e / epochs in epoch e, counted from 1; then 1."""
        return 1.0 if self.epoch >= epochs else (math.floor(self.epoch) + 1) / epochs


def method_of(table: Mapping[str, Any]) -> str | None:
    """Return what records call the method of a recorded objective; None where it is unknown.

    >>> method_of({"name": "macer", "lbd": 12.0, "consistency": 5.0})
    'macer+consistency'

    Args:
        table: its settings and its name.
    """
    name, beside = table.get("name"), table.get("consistency")
    return f"{name}+consistency" if isinstance(beside, int | float) and beside > 0 else name


END = Progress(epoch=math.inf, learning_rate_dropped=True)
"""The state at the end of training, past every warm-up."""


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    Attributes:
        total: the scalar to minimise.
        terms: its named parts, detached, for the log.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Objective(Settings):
    """A training method: its settings as keyword-only fields, its loss as a call.

    Subclasses are frozen dataclasses. Each field made with `option` becomes an option of the command line. The weight
    (lambda) of a term that is added to the loss is called `lbd`: a training that diverges names it.
    """

    name: ClassVar[str]
    attacks: ClassVar[bool] = False
    """Whether it needs gradients with respect to the images."""
    takes_teacher: ClassVar[bool] = False
    """Whether its `loss` takes a teacher's votes, as a further keyword `teacher`."""
    denoises: ClassVar[bool] = False
    """Whether its network returns images; its `loss` then takes the classifier behind it, as a keyword `classifier`."""
    panel = "Training method"
    sigma: float = option(0.25, "Standard deviation of the noise, in units of [0, 1] pixels.", above=0)

    @property
    def samples(self) -> int:
        """Forward and backward passes per image."""
        raise NotImplementedError

    def samples_at(self, progress: Progress) -> int:
        """Return the same number at one point of the training, for methods that begin with fewer samples."""
        return self.samples

    def held_back_by(self, progress: Progress) -> str | None:
        """Return the setting because of which the loss is not the method's in full yet, such as a warm-up, or None."""
        return None

    @property
    def copies(self) -> int:
        """Noisy copies of an image that are in memory at once."""
        return self.samples

    def image_weights(
        self, epoch: int, current: Float64[Tensor, " images"] | None, measure: Measure
    ) -> Float64[Tensor, " images"] | None:
        """Return how often each training image is drawn in the epoch that begins, relative to the others.

        The training loop calls this before the first step of every epoch. An epoch always has as many images as there
        are: with weights they are drawn with replacement, and an image of weight 0 never. Methods that choose images
        override this. The weights are all that is kept from epoch to epoch, and the checkpoint holds them.

        Args:
            epoch: epochs finished.
            current: the weights of the epoch before.
            measure: evaluates a score on every training image.

        Returns:
            The weights, or None: each image comes once.
        """
        return current

    def __call__(
        self,
        network: Module,
        images: Images,
        labels: Labels,
        *,
        generator: Generators | None = None,
        progress: Progress = END,
        teacher: TeacherShares | None = None,
        classifier: Module | None = None,
    ) -> Loss:
        """Return the mean loss of a batch.

        Args:
            network: maps images to logits, or to an object or dictionary with `logits`.
            images: of shape (batch, channels, height, width), in [0, 1]; the range is not checked here, because that
                would wait for the device in every step.
            labels: their classes, of shape (batch,) and type int64.
            generator: source of all noise; None: PyTorch's global generator.
            progress: the state of training. Default: the method in full, past any warm-up.
            teacher: for methods that take one, the share of each class in a teacher's votes on each image.
            classifier: for methods that train a denoiser, the classifier behind it, in eval mode.

        Raises:
            SettingsError: images or labels are no tensors, or not of the type and shape that they must have; or the
                method returns no proper loss.
        """
        check_batch(images, labels)
        further = {"teacher": teacher, "classifier": classifier}
        more: dict[str, Any] = {name: value for name, value in further.items() if value is not None}
        loss = self.loss(network, images, labels, generator=generator, progress=progress, **more)
        check_loss(loss, type(self).__qualname__)
        return loss

    def loss(
        self, network: Module, images: Images, labels: Labels, *, generator: Generators | None, progress: Progress
    ) -> Loss:
        """Return the mean loss of a batch that was checked: what a training method consists of. Arguments as above."""
        raise NotImplementedError

    def noisy_logits(self, network: Module, images: Images, k: int, generator: Generators | None) -> Logits:
        """Return the network's logits, in float32 or more, on k noisy copies of each image."""
        return logits_of_copies(network, noisy_copies(images, self.sigma, k, generator))


CLIMB_SIZE = "Length of each step of an attack that climbs, in units of [0, 1] pixels, not of 1/255."
"""The help of an option that several methods have."""


@dataclass(frozen=True, kw_only=True)
class AttackingObjective(Objective):
    """A method that attacks with the m noisy copies of each image, in T steps, and then trains on these copies.

    Costs m * (T + passes) forward and backward passes per image.
    """

    attacks = True
    passes: ClassVar[int]
    """Evaluations of every noisy copy besides those of the attack."""
    gauss_num: int = option(4, "Number of noisy copies of each image in a step (m).", least=1)
    steps: int = option(4, "Number of steps of an attack.", least=1)

    @property
    def samples(self) -> int:
        return self.gauss_num * (self.steps + self.passes)

    @property
    def copies(self) -> int:
        return self.gauss_num


@dataclass(frozen=True, kw_only=True)
class WarmedUpObjective(AttackingObjective):
    """An attacking method of which one number grows from the first epoch on, to its full size at the end of warmup."""

    warmup: int = option(10, "Number of epochs in which epsilon (of smoothmix: eta) grows to its full size.", least=0)

    def held_back_by(self, progress: Progress) -> str | None:
        return "warmup" if progress.warmed_up(self.warmup) < 1 else None


def check_batch(images: object, labels: object) -> None:
    """Refuse images or labels of a type or shape that no loss can take, without reading their values.

    Raises:
        SettingsError: they are no tensors, or not of the type and shape that they must have.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        raise SettingsError(
            "a batch of images must be a floating-point tensor (batch, channels, height, width) with values in [0, 1], "
            f"not {_described(images)}"
        )
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise SettingsError(
            f"the labels of {len(images)} images must be a tensor of as many classes, of type torch.int64, "
            f"not {_described(labels)}"
        )


_COLUMNS = {"epoch", "loss", "learning_rate", "images", "seconds", "noisy_images", "acr_estimate"}
"""What the log of a training has beside the terms of the loss."""


def check_loss(loss: object, method: str) -> None:
    """Refuse what a method returns in place of a loss, without reading values.

    Args:
        loss: what it returned.
        method: the name of its class, for messages.

    Raises:
        SettingsError: it is no `Loss`, or not of scalar tensors, or a term is not detached.
    """
    if not isinstance(loss, Loss):
        raise SettingsError(f"the training method {method} must return Loss(total, terms), not {_described(loss)}")
    for name, value in {"total": loss.total, **loss.terms}.items():
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise SettingsError(
                f"the training method {method}: {name} must be a scalar tensor, not {_described(value)}"
            )
    if taken := _COLUMNS & loss.terms.keys():
        raise SettingsError(f"the training method {method}: rename its term {min(taken)}, which metrics.tsv has")
    for name, value in loss.terms.items():
        require(not value.requires_grad, f"the training method {method}: term {name} must be detached: {name}.detach()")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return f"a {type(value).__name__}"


def cross_entropy(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the images and their copies."""
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]))


__all__ = [
    "CLIMB_SIZE",
    "END",
    "AttackingObjective",
    "Images",
    "Labels",
    "Logits",
    "Loss",
    "Measure",
    "Objective",
    "Progress",
    "Score",
    "TeacherShares",
    "WarmedUpObjective",
    "cross_entropy",
    "option",
    "require",
]
