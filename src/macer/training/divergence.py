"""Noticing that a loss is no longer finite, without waiting for the device in every step."""

import torch
from jaxtyping import Float
from torch import Tensor

from macer.errors import MacerError


class TrainingDiverged(MacerError):
    """The loss became infinite or undefined."""


class FirstBadStep:
    """Remembers, on the device, the first step whose losses were not all finite.

    Reading a number of a GPU waits until it is computed. So `note` only takes notes, and `find` reads them.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._found: Tensor | None = None

    def note(self, step: int, losses: dict[str, Float[Tensor, ""]]) -> None:
        """Take note of the losses of step number `step`, counted from 1."""
        self._names = list(losses)
        values = torch.stack([value.detach().double() for value in losses.values()])
        row = torch.cat([values.new_full((1,), step), values])
        bad = torch.where(values.isfinite().all(), torch.zeros_like(row), row)
        self._found = bad if self._found is None else torch.where(self._found[0] > 0, self._found, bad)

    def find(self) -> tuple[int, dict[str, float]] | None:
        """Return the step and its losses, or None if all were finite. Waits for the device."""
        if self._found is None:
            return None
        step, *values = self._found.tolist()
        return (int(step), dict(zip(self._names, values, strict=True))) if step > 0 else None
