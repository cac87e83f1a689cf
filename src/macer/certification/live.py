"""What a person sees while images are certified: how many are done, how fast, and with which certified accuracy."""

import numpy as np
from rich.console import Console

from macer.certification.evaluation import Outcome
from macer.compute.progress import ProgressView
from macer.smoothing.bounds import wilson_interval


class LiveView(ProgressView):
    """The progress of a certification.

    Args:
        title: what is being done.
        total: how many images there are.
        before: how many of them were done by earlier processes.
        correct: how many of those are certified with the right class.
        console: where to write.
    """

    def __init__(self, title: str, total: int, before: int, correct: int, console: Console) -> None:
        super().__init__(title, total, done=before, unit="noisy images", console=console)
        self._correct = correct

    def count(self, outcome: Outcome, workers: int) -> None:
        """Count an image as done; `workers` is how many certify now."""
        images = self.done + 1
        self._correct += outcome.certificates[0].predict == outcome.label
        low, high = wilson_interval(np.array([self._correct / images]), images)
        accuracy = f"certified accuracy {self._correct / images:.3f} [{low[0]:.3f}, {high[0]:.3f}]"
        if outcome.network_rate is not None:
            self.limit = outcome.network_rate * workers
        self.advance(1, outcome.samples, accuracy)
