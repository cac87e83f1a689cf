"""From whatever a person points at (a run, a checkpoint, a program, code) to a network with its weights."""

import copy
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from macer import models
from macer.errors import CheckpointError, SettingsError
from macer.models.in_memory import module_name
from macer.models.normalization import Normalisation, Normalize, behind, normalisation_named, with_normalisation
from macer.models.programs import Program, ProgramNetwork, check_program, read_program
from macer.models.published import recognise
from macer.models.weights import digest, load_weights, read_safetensors, read_weights_file
from macer.pretrained import zoo
from macer.pretrained.exported import read_header
from macer.runs.checkpoint import Checkpoint, is_checkpoint, parse_checkpoint
from macer.runs.run import Run
from macer.smoothing import SmoothedClassifier
from macer.training.settings import TrainedWith


@dataclass(frozen=True, kw_only=True)
class FoundNetwork(ABC):
    """A network that somebody trained, and what is known of it.

    Attributes:
        source: where it was found: a file, or package.module:function.
        description: what was found, in one line.
        network: its name; for a program, what kind it is.
        num_classes: of the network; None where the data set has to say.
        shape: (channels, height, width) of its images; None where the data set has to say.
        normalisation: the layer to put in front of it; None where there is none, or it has one already.
        settings: the training's settings as TOML tables; empty where unknown.
        epoch: epochs it was trained; None where unknown.
        module: the network itself, or one that takes its weights, where it was given in memory; a copy of it is used.
    """

    source: str
    description: str
    network: str
    num_classes: int | None = None
    shape: tuple[int, int, int] | None = None
    normalisation: Normalisation | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: int | None = None
    module: nn.Module | None = field(default=None, repr=False)

    @property
    def sigma(self) -> float | None:
        """The noise level of its training, if known."""
        return self.trained.sigma

    @property
    def trained(self) -> TrainedWith:
        """What is known of its training."""
        return TrainedWith.read(self.settings)

    @property
    def layer(self) -> str | None:
        """What the layer in front of the network is called, trained with it or given it; None for none."""
        trained_behind = self.trained.normalisation
        layer = self.normalisation if trained_behind is None else normalisation_named(trained_behind)
        return None if layer is None else layer.description

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The network with its weights, in eval mode, for a data set's classes and images.

        Raises:
            CheckpointError: the weights are another network's, or one's of other classes or images.
            SettingsError: the layer in front is for images of other channels, or code that was named fails.
        """
        if self.num_classes not in (None, num_classes):
            raise CheckpointError(
                f"{self.source} is a network of {self.num_classes} classes, the data has {num_classes}"
            )
        if self.shape not in (None, shape):
            raise CheckpointError(f"{self.source} is a network of images of shape {self.shape}, the data has {shape}")
        try:
            network = self._bare(num_classes, shape)
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from error
        if self.normalisation is not None:
            self.normalisation.check_channels(shape[0])
            network = with_normalisation(network, self.normalisation)
        return network.eval()

    def to_start_from(self, normalisation: str | None) -> dict[str, Tensor]:
        """The weights as those of a network behind the layer that training's settings name.

        Raises:
            CheckpointError: there are no weights apart from the network.
            SettingsError: the file's network is behind such a layer, and the settings name none.
        """
        raise CheckpointError(f"{self.source}: {self.description}: training starts from weights")

    def _unloaded(self, num_classes: int, shape: tuple[int, int, int], normalisation: str | None) -> nn.Module:
        """Return a copy of the module in memory, or else a new network of this name."""
        if self.module is not None:
            return copy.deepcopy(self.module)
        return models.build(self.network, num_classes, shape, normalisation)

    @abstractmethod
    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The network with its weights, without `normalisation`."""


@dataclass(frozen=True, kw_only=True)
class FoundWeights(FoundNetwork):
    """Weights in a file, of a network that this package or a person's own code builds.

    Attributes:
        weights: the state dict to certify or to start from.
    """

    weights: dict[str, Tensor]

    def to_start_from(self, normalisation: str | None) -> dict[str, Tensor]:
        """See `FoundNetwork`."""
        if self.settings or (self.normalisation is None and normalisation is None):
            return self.weights  # ours hold the layer's numbers
        if normalisation is None:
            raise SettingsError(f"{self.source}: {self.description}: name that layer with --normalisation")
        layer = normalisation_named(normalisation)
        numbers = {f"0.{name}": value for name, value in Normalize(layer.mean, layer.std).state_dict().items()}
        return numbers | {f"1.{name}": value for name, value in self.weights.items()}

    def _bare(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        trained_behind = self.trained.normalisation
        network = self._unloaded(num_classes, shape, trained_behind)
        load_weights(network, self.weights, self.network)
        return network


@dataclass(frozen=True, kw_only=True)
class FoundProgram(FoundNetwork):
    """A file that is network and weights in one.

    Attributes:
        program: what the file holds.
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


def find_network(
    target: str | os.PathLike[str] | None, network: str | nn.Module | None = None, normalisation: str | None = None
) -> FoundNetwork:
    """The network of a run's directory, a file or a function.

    Args:
        target: a run's directory, a checkpoint of ours, one that others published (see `recognise`), a program (see
            `read_program`; its code is run), or zoo:NAME; None for a network that `network` returns with its weights.
        network: its name, or package.module:function, where the file does not say or is to be overruled; or a module
            that takes the file's weights, or, without a target, is the network.
        normalisation: the layer in front of a published network, a program or a function's network. Published files
            do not say, so the usual one is assumed for them. Ours do say, so that another one is refused.

    Raises:
        SettingsError: there is no such normalisation, nothing of this name in the zoo, nothing is pointed at, a run's
            network was trained behind another layer, or a library is missing.
        CheckpointError: there is none, it cannot be read, nobody says which network it is, or a network of the zoo is
            not the one that its card describes.
    """
    if isinstance(target, Run) and network is None:
        network = target.network
    if isinstance(network, nn.Module):
        return replace(find_network(target, module_name(network), normalisation), module=network)
    layer = None if normalisation is None else normalisation_named(normalisation)
    if target is None:
        return _code(network, layer)
    target = os.fspath(target)
    if zoo.is_of_zoo(target):
        return _of_zoo(target[len(zoo.PREFIX) :], network, layer)
    target = Path(target)
    file = Run(target).checkpoint_file if target.is_dir() else target
    if not file.is_file():
        raise CheckpointError(f"{target}: no checkpoint there (looked for {file})")
    if file.suffix == ".safetensors" and (header := read_header(file)) is not None:
        return _exported(file, header, network, layer)
    program = None if target.is_dir() else read_program(file)  # in a run's directory nobody expects code
    if program is not None:
        return _program(file, program, network, layer)
    content = read_weights_file(file)
    if is_checkpoint(content):
        return _ours(file, parse_checkpoint(content, file), network, layer)
    return _published(file, content, network, layer)


def load_model(
    target: str | os.PathLike[str] | None,
    *,
    sigma: float | None = None,
    network: str | nn.Module | None = None,
    num_classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    device: str = "cpu",
) -> SmoothedClassifier:
    """Return the smoothed classifier of a trained network.

    >>> import macer
    >>> g = macer.load_model("mnist-macer-0.25")
    >>> g.sigma, g.num_classes
    (0.25, 10)

    Args:
        target: a run that `macer.train` returned, its directory, a checkpoint's or program's file, or a network of the
            zoo by its name (`macer zoo` lists them); None for a network that `network` returns with its weights.
        sigma: the noise level in units of [0, 1] pixels. Default: that of the training, which files of other programs
            do not record.
        network: the network whose weights `target` holds, where that does not say: a name, package.module:function,
            or an `nn.Module`, of which a copy is used.
        num_classes: number of classes, where the file does not say.
        shape: (channels, height, width) of the images, where the file does not say.
        device: what computes, as torch names it.

    Raises:
        SettingsError: sigma is not known, or as for `find_network`.
        CheckpointError: there is no such network, or neither the file nor the call says its classes and images.
    """
    if target is not None and os.fspath(target) in zoo.names():
        target = f"{zoo.PREFIX}{os.fspath(target)}"
    found = find_network(target, network)
    sigma = found.sigma if sigma is None else sigma
    if sigma is None:
        raise SettingsError(f"{found.source} does not say with which sigma it was trained: give sigma")
    num_classes, shape = num_classes or found.num_classes, shape or found.shape
    if num_classes is None or shape is None:
        raise CheckpointError(f"{found.source}: {found.description}: give num_classes and shape")
    return SmoothedClassifier(found.build(num_classes, shape).to(device), sigma, num_classes)


def _harmless(name: str, file: Path) -> str:
    """The network's name, unless it is code that would be run because a file, which may come from anywhere, says so."""
    if name not in models.NETWORKS:
        raise CheckpointError(f"{file}: its network is code of {name!r}: say with --network that it is to be run")
    return name


def _describe(file: Path, network: str, settings: dict[str, Any], epoch: int, layer: Normalisation | None) -> str:
    """A training's network in one line. It is behind the layer that it was trained behind, and no other."""
    name = settings["training"].get("normalisation")
    own = None if name is None else normalisation_named(name)
    if layer not in (None, own):
        raise SettingsError(f"{file}: was trained{behind(own) or ' without a layer in front'}, not{behind(layer)}")
    method, sigma = settings["objective"]["name"], settings["objective"]["sigma"]
    return f"{network}{behind(own)} trained by {method} at sigma {sigma:g}, epoch {epoch}"


def _ours(file: Path, checkpoint: Checkpoint, network: str | None, layer: Normalisation | None) -> FoundWeights:
    name = network or _harmless(checkpoint.settings["training"]["network"], file)
    return FoundWeights(
        source=str(file),
        description=_describe(file, name, checkpoint.settings, checkpoint.epoch, layer),
        weights=checkpoint.weights,
        network=name,
        num_classes=checkpoint.num_classes,
        shape=checkpoint.shape,
        settings=checkpoint.settings,
        epoch=checkpoint.epoch,
    )


def _exported(file: Path, header: dict[str, Any], network: str | None, layer: Normalisation | None) -> FoundWeights:
    name = network or _harmless(header["training"]["network"], file)
    settings = {table: header[table] for table in ("training", "objective")}
    about = header["network"]
    return FoundWeights(
        source=str(file),
        description=f"{_describe(file, name, settings, about['epoch'], layer)}, rounded to half precision",
        weights=read_safetensors(file),
        network=name,
        num_classes=about["num_classes"],
        shape=tuple(about["shape"]),
        settings=settings,
        epoch=about["epoch"],
    )


def _of_zoo(name: str, network: str | None, layer: Normalisation | None) -> FoundWeights:
    """A network of the zoo, if its file still holds what its card describes: safetensors files have no checksum."""
    file, card = zoo.weights_file(name), zoo.card(name)
    header = read_header(file) or {}
    damaged = CheckpointError(f"{file}: damaged: not the network that its card describes; install macer again")
    if any(header.get(table) != card.get(table) for table in ("network", "training", "objective", "environment")):
        raise damaged
    about = header["network"]
    certified = _exported(file, header, None, None).build(about["num_classes"], tuple(about["shape"]))
    if digest(certified.state_dict()) != card["certification"]["digest"]:
        raise damaged
    return _exported(file, header, network, layer)


def _published(file: Path, content: Any, network: str | None, layer: Normalisation | None) -> FoundWeights:
    found = recognise(content, file, layer)
    name = network or found.network
    if name is None:
        raise CheckpointError(f"{file}: {found.description}: say with --network which network it is")
    known = name == found.network
    return FoundWeights(
        source=str(file),
        description=found.description,
        weights=found.state_dict,
        network=name,
        num_classes=found.num_classes if known else None,
        shape=found.shape if known else None,
        normalisation=found.normalisation,
        epoch=found.epoch,
    )


def _program(file: Path, program: Program, network: str | None, layer: Normalisation | None) -> FoundProgram:
    if network is not None:
        raise CheckpointError(f"{file}: {program.kind} program, not weights of network {network!r}")
    return FoundProgram(
        source=str(file),
        description=f"{program.kind} program{behind(layer)}",
        network=program.kind,
        num_classes=program.num_classes,
        shape=program.shape,
        normalisation=layer,
        program=program,
    )


def _code(network: str | None, layer: Normalisation | None) -> FoundCode:
    if network is None or ":" not in network:
        raise SettingsError("say which network: a run, a file, or package.module:function that returns it with weights")
    return FoundCode(
        source=network, description=f"the network of {network}{behind(layer)}", network=network, normalisation=layer
    )
