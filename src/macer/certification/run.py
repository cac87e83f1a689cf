"""Certify a data set's images into journals, in one process or in several together."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from macer.certification.evaluation import evaluate_fast, smoothed_classifier
from macer.certification.live import LiveView
from macer.certification.processes import Processes, join
from macer.certification.settings import CertificationSettings
from macer.compute.interruption import Interrupted, stop_on_signals
from macer.data import LabelledImages
from macer.errors import MacerError
from macer.results.mat import write_mat
from macer.runs.certificates import Journal, Rows, gather, own_part
from macer.runs.directory import alone_in, may_differ, open_directory
from macer.runs.tsv import read_tsv
from macer.smoothing import SmoothedClassifier

_SECONDS_BETWEEN_GATHERINGS = 30.0


def certify_images(
    settings: CertificationSettings,
    network: nn.Module,
    images: LabelledImages,
    directory: Path,
    *,
    console: Console,
    title: str = "certifying",
    fabric: Any | None = None,
) -> list[Path]:
    """Certify the images that the settings choose, or go on where an earlier process stopped.

    Args:
        settings: what decides the certificates.
        network: in the state to be certified, on the device to use.
        images: the data set's split.
        directory: for settings.toml, one `.tsv` a kind of certificate, and certificates.mat at the end.
        console: where progress is shown.
        title: what the progress is called.
        fabric: the processes that certify together, not launched yet; None for this one alone. Each of them calls this
            function. The first returns when all images are done, the others when none is left for them.

    Returns:
        The journals, one a kind.

    Raises:
        SettingsError: the directory holds certificates made with other settings, or another process is at work there.
        RecordsError: what lies there are no certificates, or they contradict each other.
        Interrupted: a signal asked to stop; the images at hand were finished.
        MacerError: another process ended without a word.
    """
    classifier = smoothed_classifier(settings, network, images.num_classes)
    files = [directory / f"{kind.name}.tsv" for kind in settings.kinds]
    first = fabric is None or fabric.is_global_zero
    with ExitStack() as stack:
        before: list[Rows] = []
        if first:
            ignored = may_differ(settings.machine_settings, settings.dataset)
            open_directory(
                directory, settings.tables(), ignored=ignored, device=classifier.device, defaults=settings.defaults()
            )
            stack.enter_context(alone_in(directory))
            before = [gather(file) for file in files]
        left = missing_images(settings, before)
        stop = stack.enter_context(stop_on_signals())
        processes = join(fabric, left, stop)
        total = len(settings.indices)
        correct = before[0].correct() if first else 0
        shown = console if first else Console(quiet=True)
        view = stack.enter_context(LiveView(title, total, total - len(left), correct, processes, shown))
        with processes:
            samples = len(processes.images) * (settings.n0 + settings.n) // processes.size
            if samples:
                evaluate_fast(classifier, images.shape, compile=settings.compile, samples=samples)
            _certify(settings, classifier, images, files, processes, view)
        if not first:
            return files
        view.update()
        left = missing_images(settings, [gather(file) for file in files])
        if left:
            done = f"{total - len(left)} of {total} images"
            message = f"certification stopped after {done}; the same command goes on from {directory}"
            number = processes.signal_number
            raise MacerError(message) if number is None else Interrupted(message, number)
    write_original_mat(files, directory)
    return files


def _certify(
    settings: CertificationSettings,
    classifier: SmoothedClassifier,
    images: LabelledImages,
    files: Sequence[Path],
    processes: Processes,
    view: LiveView,
) -> None:
    """This process's images, into the journals themselves if it is alone, else into parts of its own."""
    alone, first = processes.size == 1, processes.rank == 0
    spending = settings.spending
    gathered = time.monotonic()
    with ExitStack() as stack:
        own = files if alone else [own_part(file, processes.name) for file in files]
        journals = [stack.enter_context(Journal(file)) for file in own]
        for index in processes:
            image, label = images[index]
            started = time.perf_counter()
            certificates = spending.certify(classifier, image, image_index=index, label=label)
            seconds = time.perf_counter() - started
            for journal, certificate in zip(journals, certificates, strict=True):
                if index not in journal.done:
                    journal.write(index, label, certificate, seconds)
            samples = settings.n0 + max(certificate.n for certificate in certificates)
            processes.count(correct=certificates[0].predict == label, samples=samples)
            if first:
                view.measure(classifier, image)
                view.update()
            if first and not alone and time.monotonic() - gathered > _SECONDS_BETWEEN_GATHERINGS:
                for file in files:
                    gather(file, keep_parts=True)
                gathered = time.monotonic()


def missing_images(settings: CertificationSettings, kinds: Sequence[Rows]) -> list[int]:
    """The images to certify that a kind of certificate lacks."""
    return [index for index in settings.indices if any(index not in rows.cells for rows in kinds)]


def write_original_mat(files: Sequence[Path], directory: Path) -> None:
    """The original's certificates.mat from finished journals: radii, -1 where the prediction is not the label."""
    radii = {}
    for file in files:
        rows, _ = read_tsv(file)
        radii[file.stem] = np.array([row.radius if row.correct else -1.0 for row in rows])
    write_mat(directory / "certificates.mat", radii)
