"""From whatever a person points at (a run, a checkpoint of ours or of others) to a network with its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from macer import models
from macer.errors import CheckpointError
from macer.training.checkpoint import load_checkpoint, load_weights


@dataclass(frozen=True)
class FoundNetwork:
    """Weights, and what is known of them.

    Attributes:
        file: where they were found.
        weights: the state dict to certify or to start from.
        network: the network's name.
        num_classes: of the network.
        shape: (channels, height, width) of an image.
        sigma: the noise level of its training, if known.
        settings: the training's settings as TOML tables, if known.
    """

    file: Path
    weights: dict[str, Tensor]
    network: str
    num_classes: int
    shape: tuple[int, int, int]
    sigma: float | None
    settings: dict[str, Any]

    def build(self) -> nn.Module:
        """The network with its weights, in eval mode.

        Raises:
            CheckpointError: the weights do not fit the network.
        """
        network = models.build(self.network, self.num_classes, self.shape)
        load_weights(network, self.weights, self.network)
        return network.eval()


def find_network(target: Path, network: str | None = None) -> FoundNetwork:
    """The network of a run's directory or of a checkpoint file.

    Args:
        target: where to look.
        network: its name, where it is not the one that the file says.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    file = target / "checkpoints" / "last.pt" if target.is_dir() else target
    if not file.is_file():
        raise CheckpointError(f"{target}: no checkpoint there (looked for {file})")
    checkpoint = load_checkpoint(file)
    return FoundNetwork(
        file,
        checkpoint.weights,
        network or checkpoint.settings["training"]["network"],
        checkpoint.num_classes,
        checkpoint.shape,
        checkpoint.sigma,
        checkpoint.settings,
    )
