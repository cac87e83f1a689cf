"""What a person sees while images are certified: how far, how fast, how fast it could be, and what comes out."""

import time
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from macer.certification.processes import Processes, Totals
from macer.compute.progress import ProgressView
from macer.results.metrics import wilson_interval
from macer.smoothing import SmoothedClassifier
from macer.smoothing.noise import BLOCK

_SECONDS_BEFORE_MEASURING = 10.0
"""Certifications shorter than this are not delayed by finding out how fast the network alone is."""


class LiveView:
    """The progress of all processes together, for the first of them to show. Use as a context manager.

    Args:
        title: what is being done.
        total: how many images there are.
        before: how many were done before this run.
        correct: how many of those are certified correctly.
        processes: those that certify together.
        console: where to write.
    """

    def __init__(
        self, title: str, total: int, before: int, correct: int, processes: Processes, console: Console
    ) -> None:
        self._before, self._correct, self._processes = before, correct, processes
        self._view = ProgressView(title, total, done=before, unit="noisy images", console=console)
        self._shown = Totals(0, 0, 0)

    def __enter__(self) -> "LiveView":
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, traceback)

    def update(self) -> None:
        """Show what has been counted since."""
        totals, shown = self._processes.totals, self._shown
        images, correct = self._before + totals.images, self._correct + totals.correct
        low, high = wilson_interval(np.array([correct / max(images, 1)]), max(images, 1))
        accuracy = f"certified accuracy {correct / max(images, 1):.3f} [{low[0]:.3f}, {high[0]:.3f}]"
        self._view.advance(totals.images - shown.images, totals.samples - shown.samples, accuracy)
        self._shown = totals

    def measure(self, classifier: SmoothedClassifier, image: Tensor) -> None:
        """Once the work lasts, find out at which rate the network alone would run in this many processes."""
        if self._view.limit is None and self._view.seconds > _SECONDS_BEFORE_MEASURING:
            self._view.limit = network_rate(classifier, image) * self._processes.size


@torch.inference_mode()
def network_rate(
    classifier: SmoothedClassifier, image: Float[Tensor, "channels height width"], seconds: float = 0.5
) -> float:
    """Images a second of the bare network on the certification's batches: what no certification can exceed.

    Args:
        classifier: whose network.
        image: one like those to certify.
        seconds: how long to measure.
    """
    size = classifier.batch_size // BLOCK * BLOCK
    batch = image.to(classifier.device).repeat(size, 1, 1, 1)
    images, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        classifier.logits(batch).sum().item()  # waits for the device
        images += size
    return images / elapsed
