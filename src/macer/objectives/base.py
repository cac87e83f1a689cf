"""What the training loop knows of a training method."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor, nn

from macer.runs.settings import Settings, option, require
from macer.smoothing.noise import Generators


@dataclass(frozen=True)
class Progress:
    """Where training stands, for methods that change on the way.

    Attributes:
        epoch: epochs finished, with the fraction of the running one.
        learning_rate_dropped: whether the schedule has passed its first drop.
    """

    epoch: float = 0.0
    learning_rate_dropped: bool = False


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and its named parts for the log (detached)."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Objective(Settings):
    """A training method: its numbers as keyword-only fields, its loss as a call.

    Subclasses are frozen dataclasses. Each field made with `option` appears on the command line by itself.
    """

    name: ClassVar[str]
    attacks: ClassVar[bool] = False
    """Whether it needs gradients with respect to the images."""
    panel = "Training method"
    sigma: float = option(0.25, "standard deviation of the noise, in units of [0, 1] pixels", above=0)

    @property
    def samples(self) -> int:
        """Noisy images that one image costs, each with a forward and a backward pass."""
        raise NotImplementedError

    def samples_at(self, progress: Progress) -> int:
        """The same at a point of the training, for methods that begin with fewer."""
        return self.samples

    @property
    def copies(self) -> int:
        """Noisy copies of an image that are in memory at once."""
        return self.samples

    def __call__(
        self,
        network: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        *,
        generator: Generators,
        progress: Progress,
    ) -> Loss:
        """The mean loss of a batch. All randomness comes from `generator`."""
        raise NotImplementedError


__all__ = ["Loss", "Objective", "Progress", "option", "require"]
