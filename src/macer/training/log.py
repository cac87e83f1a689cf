"""The losses of the running epoch: summed over steps and processes, shown, logged, and refused if not finite."""

import math
import time
from collections.abc import Collection

from torch import Tensor

from macer.errors import SettingsError
from macer.training.divergence import FirstBadStep, TrainingDiverged
from macer.training.state import TrainingState

_LAMBDAS = ("lbd", "consistency")
"""What methods call the weights of the terms that they add to a loss. Where one is too large, training collapses."""
_NOT_LOSSES = ("images", "seconds", "noisy_images", "learning_rate")


class EpochLog:
    """Keeps the sums of the running epoch, which are part of the training's state.

    Args:
        state: of the training.
    """

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self._first_bad = FirstBadStep()
        self._since = 0.0
        self._names: Collection[str] = ()

    def start_clock(self) -> None:
        """Count training time from now on."""
        self._since = time.perf_counter()

    def count_time(self) -> None:
        """Add the time since the last call, or since the clock was started, to the epoch's training time."""
        now = time.perf_counter()
        self._add("seconds", now - self._since)
        self._since = now

    def add_step(self, losses: dict[str, Tensor], images: int, noisy_images: int) -> None:
        """Add a step's losses and images.

        Args:
            losses: the loss and its parts, each summed over this process's images.
            images: how many those are.
            noisy_images: noisy images evaluated.
        """
        self._names = self._names or losses.keys()
        if losses.keys() != self._names:
            raise SettingsError(
                f"the loss of {self.state.settings.objective.name} has other terms ({', '.join(losses)}) than in the "
                f"first step ({', '.join(self._names)}): return the same ones in each, 0 where there is nothing to add"
            )
        for name, value in losses.items():
            self._add(name, value)
        self._add("images", float(images))
        self._add("noisy_images", float(noisy_images))
        self._first_bad.note(self.state.step, {name: value / max(images, 1) for name, value in losses.items()})

    def totals(self) -> dict[str, float]:
        """Return the sums over all processes (the seconds are this one's own). Waits for the device.

        Raises:
            TrainingDiverged: a sum or a weight is not finite, in any process.
        """
        own = {name: float(value) for name, value in self.state.sums.items()}
        seconds = own.pop("seconds", 0.0)
        sums = dict(zip(own, self.state.processes.all_reduce(list(own.values()), "sum"), strict=True))
        weights = float(sum(value.detach().sum() for value in self.state.module.parameters()))
        if not all(map(math.isfinite, (*sums.values(), weights))):
            raise TrainingDiverged(self._divergence(sums, weights))
        return {**sums, "seconds": seconds} if sums else {}

    def finish_epoch(self, learning_rate: float) -> dict[str, float]:
        """Return the epoch's row of metrics.tsv, and start the sums of the next epoch."""
        totals = self.totals()
        images, seconds, noisy_images = (totals.pop(name) for name in ("images", "seconds", "noisy_images"))
        self.state.sums = {}
        means = {name: value / images for name, value in totals.items()}
        return {"learning_rate": learning_rate, **means, "seconds": seconds, "noisy_images": noisy_images}

    def _add(self, name: str, value: Tensor | float) -> None:
        self.state.sums[name] = self.state.sums.get(name, 0.0) + value

    def _divergence(self, sums: dict[str, float], weights: float) -> str:
        """Return what is not finite, since which step, and what is left."""
        epoch, file = self.state.epoch + 1, self.state.file
        found = [each for each in self.state.processes.all_gather(self._first_bad.find()) if each is not None]
        if found:
            step, values = min(found, key=lambda each: each[0])
            losses = ", ".join(f"{name} {value:g}" for name, value in values.items())
            what = f"in step {step} of epoch {epoch} ({losses})"
        else:
            losses = ", ".join(f"{name} {value:g}" for name, value in sums.items() if name != "images")
            what = f"after step {self.state.step} of epoch {epoch} (weights {weights:g}; sums: {losses})"
        kept = f"the last good checkpoint is {file}" if file.exists() else "there is no checkpoint yet"
        objective = self.state.settings.objective
        weights_of_terms = [f"{name} (now {value:g})" for name in _LAMBDAS if (value := getattr(objective, name, 0))]
        smaller = " or ".join(["lr", *weights_of_terms])
        clip = "a smaller clip" if 0 < self.state.settings.clip <= 1 else "clip 1"
        return f"the loss is no longer finite {what}; {kept}. A smaller {smaller}, or {clip}, may help"


def describe(epoch: int, means: dict[str, float]) -> list[str]:
    """Return an epoch's number and its loss and parts, as the progress shows them."""
    return [f"epoch {epoch}", *(f"{name} {value:.3f}" for name, value in means.items() if name not in _NOT_LOSSES)]
