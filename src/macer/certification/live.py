"""What a person sees while images are certified: how many are done, how fast, and with which certified accuracy."""

from types import TracebackType

import numpy as np
from rich.console import Console

from macer.certification.evaluation import Outcome
from macer.compute.progress import ProgressView
from macer.smoothing.bounds import wilson_interval


class LiveView:
    """The progress of a certification. Use as a context manager.

    Args:
        title: what is being done.
        total: how many images there are.
        before: how many of them were done by earlier processes.
        correct: how many of those are certified with the right class.
        console: where to write.
    """

    def __init__(self, title: str, total: int, before: int, correct: int, console: Console) -> None:
        self._images, self._correct = before, correct
        self._view = ProgressView(title, total, done=before, unit="noisy images", console=console)

    def __enter__(self) -> "LiveView":
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, traceback)

    def answer(self) -> None:
        """Answer a request to stop: the image at hand is being finished. Handlers of signals call this."""
        self._view.answer("this image")

    def count(self, outcome: Outcome, workers: int) -> None:
        """Count an image as done; `workers` is how many certify now."""
        self._images += 1
        self._correct += outcome.certificates[0].predict == outcome.label
        low, high = wilson_interval(np.array([self._correct / self._images]), self._images)
        accuracy = f"certified accuracy {self._correct / self._images:.3f} [{low[0]:.3f}, {high[0]:.3f}]"
        if outcome.network_rate is not None:
            self._view.limit = outcome.network_rate * workers
        self._view.advance(1, outcome.samples, accuracy)
