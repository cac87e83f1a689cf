"""Trained networks, and what their files say about them."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from macer import models
from macer.data import LabelledImages
from macer.data.class_names import unlike_training
from macer.errors import CheckpointError, SettingsError
from macer.models.normalization import Normalisation, Normalize, behind, normalisation_named, with_normalisation
from macer.models.programs import Program, ProgramNetwork, check_program
from macer.models.weights import load_weights
from macer.smoothing.independence import check_modules
from macer.training.settings import TrainedWith


@dataclass(frozen=True, kw_only=True)
class FoundNetwork(ABC):
    """A trained network, and what is known about it.

    Attributes:
        source: where it was found: a file, or package.module:function.
        description: the network, its training and its file in one line.
        network: its name; for a program, the kind of program.
        num_classes: number of classes; None if that depends on the data set.
        shape: (channels, height, width) of its images; None if that depends on the data set.
        class_names: the classes of its training images, in the order of their labels; None if unknown.
        images: what tells its training images from others, see `macer.data.images.digest_of_some`; None if unknown.
        normalisation: the layer to put in front of the network; None if there is none, or the network contains it.
        settings: the settings of its training, as TOML tables; empty if unknown.
        epoch: number of epochs that it was trained for; None if unknown.
        module: an `nn.Module` that is the network or takes its weights, if one was given; a copy of it is used.
        code: the `code_digest` of the network that was trained, where it was code; None if unknown.
    """

    source: str
    description: str
    network: str
    num_classes: int | None = None
    shape: tuple[int, int, int] | None = None
    class_names: list[str] | None = None
    images: str | None = None
    normalisation: Normalisation | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: int | None = None
    module: nn.Module | None = field(default=None, repr=False)
    code: str | None = None

    @property
    def sigma(self) -> float | None:
        """The noise level of its training; None if unknown."""
        return self.trained.sigma

    @property
    def trained(self) -> TrainedWith:
        """What is known about its training."""
        return TrainedWith.read(self.settings)

    @property
    def layer(self) -> str | None:
        """The name of the normalisation in front of the network; None if there is none."""
        trained_behind = self.trained.normalisation
        layer = self.normalisation if trained_behind is None else normalisation_named(trained_behind)
        return None if layer is None else layer.description

    @property
    def doubt(self) -> str | None:
        """What may be wrong about its normalisation, which files of other programs do not state; None if nothing."""
        if self.normalisation is not None:
            told = f"{self.network} stands{behind(self.normalisation)}: if it is another, give `normalisation`"
            return told if self.normalisation.is_assumed else None
        if self.settings or self.module is not None or self.network not in models.NETWORKS or self.network == "lenet":
            return None  # MNIST's networks were published without
        return f"no layer normalises the images of {self.network}: if it was trained behind one, give `normalisation`"

    @property
    def denoises(self) -> bool:
        """Whether it is a denoiser, from images to images."""
        return self.network in models.DENOISERS or self.trained.method == "denoiser"

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Return the classifier with its weights, in eval mode.

        Args:
            num_classes: number of classes of the data set.
            shape: (channels, height, width) of its images.

        Raises:
            CheckpointError: the weights are of another network, other classes or other images.
            SettingsError: the normalisation is for another number of channels, the code that was named fails, the
                network has a module that mixes the images of a batch, or it is a denoiser.
        """
        if self.denoises:
            raise SettingsError(
                f"{self.source} is a denoiser, which has no classes: name a classifier, and this as its denoiser"
            )
        return self._built(num_classes, shape)

    def build_denoiser(self, shape: tuple[int, int, int]) -> nn.Module:
        """Return the denoiser with its weights, in eval mode. Arguments and errors as for `build`."""
        if not self.denoises:
            raise SettingsError(f"{self.source} is no denoiser: {self.description}")
        return self._built(self.num_classes or 0, shape)

    def _built(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        if self.num_classes not in (None, num_classes):
            raise CheckpointError(
                f"{self.source} is a network of {self.num_classes} classes, the data have {num_classes}"
            )
        if self.shape not in (None, shape):
            raise CheckpointError(f"{self.source} is a network of images of shape {self.shape}, the data have {shape}")
        try:
            network = self._bare(num_classes, shape)
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from error
        if self.normalisation is not None:
            self.normalisation.check_channels(shape[0])
            network = with_normalisation(network, self.normalisation)
        check_modules(network.eval())
        return network

    def classes_unlike(self, images: LabelledImages) -> list[str]:
        """Return a warning if the images have classes of other names than those that it was trained to tell apart.

        Raises:
            DataError: they have the same classes in another order.
        """
        difference = unlike_training(images, self.class_names, self.trained.dataset, self.source)
        return [f"{difference}: results mean something only if these are the same classes"] if difference else []

    def to_start_from(self, normalisation: str | None) -> dict[str, Tensor]:
        """Return the weights from which a training starts.

        Args:
            normalisation: name of the normalisation in the settings of the new training; its numbers become part of
                the weights.

        Raises:
            CheckpointError: the network has no weights of its own, as it is a program or code.
            SettingsError: this network is behind a normalisation, and the settings name none.
        """
        raise CheckpointError(f"{self.source}: {self.description}: training can only start from a file of weights")

    def _unloaded(self, num_classes: int, shape: tuple[int, int, int], normalisation: str | None) -> nn.Module:
        """Return a copy of `module`, or a new network of this name."""
        if self.module is not None:
            return copy.deepcopy(self.module)
        return models.build(self.network, num_classes, shape, normalisation)

    @abstractmethod
    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """Return the network with its weights, without `normalisation`."""


@dataclass(frozen=True, kw_only=True)
class FoundWeights(FoundNetwork):
    """Weights in a file. This package, or code of the user, builds their network.

    Attributes:
        weights: the state dict.
    """

    weights: dict[str, Tensor]

    def to_start_from(self, normalisation: str | None) -> dict[str, Tensor]:
        if self.settings or (self.normalisation is None and normalisation is None):
            return self.weights  # files of this package contain the normalisation
        if normalisation is None:
            raise SettingsError(f"{self.source}: {self.description}: give the same `normalisation`")
        layer = normalisation_named(normalisation)
        numbers = {f"0.{name}": value for name, value in Normalize(layer.mean, layer.std).state_dict().items()}
        return numbers | {f"1.{name}": value for name, value in self.weights.items()}

    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        network = self._unloaded(num_classes, shape, self.trained.normalisation)
        load_weights(network, self.weights, self.network)
        return network


@dataclass(frozen=True, kw_only=True)
class FoundProgram(FoundNetwork):
    """A file that contains both the network and its weights.

    Attributes:
        program: the content of the file.
    """

    program: Program

    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        network = ProgramNetwork(self.program)
        check_program(network, num_classes, shape)
        return network


class FoundCode(FoundNetwork):
    """A function that returns a network with its weights."""

    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return self._unloaded(num_classes, shape, None)
