"""From whatever a person points at (a run, a checkpoint of ours or of others) to a network with its weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from macer import models, zoo
from macer.errors import CheckpointError, SettingsError
from macer.exported import read_header
from macer.models.normalization import Normalisation, Normalize, normalisation_named, with_normalisation
from macer.models.published import recognise
from macer.models.weights import load_weights, read_safetensors, read_torch_file
from macer.smoothing import SmoothedClassifier
from macer.training.checkpoint import is_checkpoint, load_checkpoint


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """Weights, and what is known of them.

    Attributes:
        file: where they were found.
        description: what was found, in one line.
        weights: the state dict to certify or to start from.
        network: the network's name.
        num_classes: of the network; None where the data set has to say.
        shape: (channels, height, width) of its images; None where the data set has to say.
        normalisation: the layer in front of it that `weights` do not contain; None where there is none.
        settings: the training's settings as TOML tables; empty where unknown.
        epoch: epochs it was trained; None where unknown.
    """

    file: Path
    description: str
    weights: dict[str, Tensor]
    network: str
    num_classes: int | None
    shape: tuple[int, int, int] | None
    normalisation: Normalisation | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: int | None = None

    @property
    def sigma(self) -> float | None:
        """The noise level of its training, if known."""
        return self.settings.get("objective", {}).get("sigma")

    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The network with its weights, in eval mode, for a data set's classes and images.

        Raises:
            CheckpointError: the weights are another network's, or one's of other classes or images.
        """
        if self.num_classes not in (None, num_classes):
            raise CheckpointError(f"{self.file} is a network of {self.num_classes} classes, the data has {num_classes}")
        if self.shape not in (None, shape):
            raise CheckpointError(f"{self.file} is a network of images of shape {self.shape}, the data has {shape}")
        normalisation = self.settings.get("training", {}).get("normalisation")
        network = models.build(self.network, num_classes, shape, normalisation)
        try:
            load_weights(network, self.weights, self.network)
        except CheckpointError as error:
            raise CheckpointError(f"{self.file}: {error}") from error
        return (network if self.normalisation is None else with_normalisation(network, self.normalisation)).eval()

    def to_start_from(self, normalisation: str | None) -> dict[str, Tensor]:
        """The weights as those of a network behind the layer that training's settings name.

        Raises:
            SettingsError: the file's network is behind such a layer, and the settings name none.
        """
        if self.settings or (self.normalisation is None and normalisation is None):
            return self.weights  # ours hold the layer's numbers
        if normalisation is None:
            raise SettingsError(f"{self.file}: {self.description}: name that layer with --normalisation")
        layer = normalisation_named(normalisation)
        numbers = {f"0.{name}": value for name, value in Normalize(layer.mean, layer.std).state_dict().items()}
        return numbers | {f"1.{name}": value for name, value in self.weights.items()}


def find_network(target: Path | str, network: str | None = None, normalisation: str | None = None) -> FoundNetwork:
    """The network of a run's directory or of a checkpoint file.

    Args:
        target: a run's directory, a checkpoint of ours, one that others published (see `recognise`), or zoo:NAME.
        network: its name, or package.module:function, where the file does not say or is to be overruled.
        normalisation: the layer in front of a published network; the file does not say, so the usual one is assumed.

    Raises:
        SettingsError: there is no such normalisation, or nothing of this name in the zoo.
        CheckpointError: there is none, it cannot be read, or nobody says which network it is.
    """
    if str(target).startswith(zoo.PREFIX):
        target = zoo.weights_file(str(target)[len(zoo.PREFIX) :])
    target = Path(target)
    file = target / "checkpoints" / "last.pt" if target.is_dir() else target
    if not file.is_file():
        raise CheckpointError(f"{target}: no checkpoint there (looked for {file})")
    if file.suffix == ".safetensors":
        header = read_header(file)
        return _published(file, network, normalisation) if header is None else _exported(file, header, network)
    if not is_checkpoint(read_torch_file(file)):
        return _published(file, network, normalisation)
    checkpoint = load_checkpoint(file)
    name = network or _harmless(checkpoint.settings["training"]["network"], file)
    return FoundNetwork(
        file=file,
        description=_describe(name, checkpoint.settings, checkpoint.epoch),
        weights=checkpoint.weights,
        network=name,
        num_classes=checkpoint.num_classes,
        shape=checkpoint.shape,
        settings=checkpoint.settings,
        epoch=checkpoint.epoch,
    )


def load_smoothed(
    target: Path | str, *, sigma: float | None = None, network: str | None = None, device: str = "cpu"
) -> SmoothedClassifier:
    """The smoothed classifier of a trained network.

    Args:
        target: a name of the zoo, such as mnist-macer-0.25 (`macer zoo` lists them), a run's directory, or a
            checkpoint, ours or published.
        sigma: the noise level; None: that of the training, which files of others do not say.
        network: as for `find_network`.
        device: what computes, as torch names it.

    Raises:
        SettingsError: sigma is not known.
        CheckpointError: there is no such network, or the file does not say its classes and images.
    """
    found = find_network(f"{zoo.PREFIX}{target}" if str(target) in zoo.names() else target, network)
    sigma = found.sigma if sigma is None else sigma
    if sigma is None:
        raise SettingsError(f"{found.file} does not say with which sigma it was trained: give sigma")
    if found.num_classes is None or found.shape is None:
        raise CheckpointError(f"{found.file}: {found.description}: build that network yourself")
    return SmoothedClassifier(found.build(found.num_classes, found.shape).to(device), sigma, found.num_classes)


def _harmless(name: str, file: Path) -> str:
    """The network's name, unless it is code that would be run because a file, which may come from anywhere, says so."""
    if name not in models.NETWORKS:
        raise CheckpointError(f"{file}: its network is code of {name!r}: say with --network that it is to be run")
    return name


def _describe(network: str, settings: dict[str, Any], epoch: int) -> str:
    method, sigma = settings["objective"]["name"], settings["objective"]["sigma"]
    return f"{network} trained by {method} at sigma {sigma:g}, epoch {epoch}"


def _exported(file: Path, header: dict[str, Any], network: str | None) -> FoundNetwork:
    name = network or _harmless(header["training"]["network"], file)
    settings = {table: header[table] for table in ("training", "objective")}
    about = header["network"]
    return FoundNetwork(
        file=file,
        description=f"{_describe(name, settings, about['epoch'])}, rounded to half precision",
        weights=read_safetensors(file),
        network=name,
        num_classes=about["num_classes"],
        shape=tuple(about["shape"]),
        settings=settings,
        epoch=about["epoch"],
    )


def _published(file: Path, network: str | None, normalisation: str | None) -> FoundNetwork:
    found = recognise(file)
    name = network or found.network
    if name is None:
        raise CheckpointError(f"{file}: {found.description}: say with --network which network it is")
    known = name == found.network
    return FoundNetwork(
        file=file,
        description=found.description,
        weights=found.state_dict,
        network=name,
        num_classes=found.num_classes if known else None,
        shape=found.shape if known else None,
        normalisation=found.normalisation if normalisation is None else normalisation_named(normalisation),
        epoch=found.epoch,
    )
