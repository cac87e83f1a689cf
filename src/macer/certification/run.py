"""Certify a data set's images, one after the other, into journals."""

import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import nn

from macer.certification.journal import Journal
from macer.certification.settings import MACHINE_SETTINGS, CertificationSettings
from macer.data import LabelledImages
from macer.interruption import stop_on_signals
from macer.progress import ProgressView
from macer.results.mat import write_mat
from macer.results.tsv import read_tsv
from macer.run import alone_in, may_differ, open_directory
from macer.smoothing import SmoothedClassifier


def certify_images(
    settings: CertificationSettings,
    network: nn.Module,
    images: LabelledImages,
    directory: Path,
    *,
    console: Console,
    title: str = "certifying",
) -> list[Path]:
    """Certify the images that the settings choose, or go on where an earlier process stopped.

    Args:
        settings: what decides the certificates.
        network: in the state to be certified, on the device to use.
        images: the data set's split.
        directory: for settings.toml, one `.tsv` a kind of certificate, and certificates.mat at the end.
        console: where progress is shown.
        title: what the progress is called.

    Returns:
        The journals, one a kind.

    Raises:
        SettingsError: the directory holds certificates made with other settings, or another process is at work there.
        Interrupted: a signal asked to stop; the image at hand was finished.
    """
    classifier = SmoothedClassifier(
        network,
        settings.sigma,
        images.num_classes,
        batch_size=settings.batch_size or None,
        seed=settings.seed,
    )
    open_directory(
        directory, settings.tables(), ignored=may_differ(MACHINE_SETTINGS, settings.dataset), device=classifier.device
    )
    files = [directory / f"{kind.name}.tsv" for kind in settings.kinds]
    with ExitStack() as stack:
        stack.enter_context(alone_in(directory))
        journals = [stack.enter_context(Journal(file)) for file in files]
        left = [index for index in settings.indices if any(index not in journal.done for journal in journals)]
        done = settings.num_img - len(left)
        stop = stack.enter_context(stop_on_signals())
        view = stack.enter_context(
            ProgressView(title, settings.num_img, done=done, unit="noisy images", console=console)
        )
        for number, index in enumerate(left, start=done + 1):
            image, label = images[index]
            started = time.perf_counter()
            certificates = classifier.certify_kinds(
                image, settings.n0, settings.n, settings.alpha, kinds=settings.kinds, image_index=index
            )
            seconds = time.perf_counter() - started
            for journal, certificate in zip(journals, certificates, strict=True):
                if index not in journal.done:
                    journal.write(index, label, certificate, seconds)
            view.advance(1, settings.n0 + settings.n)
            if number < settings.num_img:
                stop.check(
                    f"certification stopped after {number} of {settings.num_img} images; "
                    f"the same command goes on from {directory}"
                )
    write_mat(directory / "certificates.mat", {file.stem: _original_radii(file) for file in files})
    return files


def _original_radii(journal: Path) -> np.ndarray:
    """The radii as the original stores them: -1 where the prediction is wrong or missing."""
    rows, _ = read_tsv(journal)
    return np.array([row.radius if row.correct else -1.0 for row in rows])
