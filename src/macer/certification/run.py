"""Certify the images of a data set, in this process or on many workers, into a directory or in memory."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from macer.certification.carrying import Carrying, read_carrying
from macer.certification.evaluation import ImageCertification, Item, Outcome
from macer.certification.journals import Journals, check_image
from macer.certification.live import LiveView
from macer.certification.precision import with_precision
from macer.certification.prepare import Plan, prepare
from macer.certification.seed import with_seed
from macer.certification.settings import CertificationSettings
from macer.certification.shards import check_mergeable, check_shards
from macer.compute.engine import Engine
from macer.compute.interruption import StopRequest, stop_on_signals
from macer.compute.workers import Workers
from macer.pretrained.find import find_network


def certify_images(
    plan: Plan,
    directory: Path | None,
    *,
    console: Console,
    title: str = "certifying",
    engine: Engine | None = None,
) -> tuple[CertificationSettings, list[Outcome]]:
    """Certify the images that the settings choose, or go on where an earlier process stopped.

    Args:
        plan: what to certify. Its network is moved to the device that computes.
        directory: for settings.toml, one `.tsv` per kind of certificate, and certificates.mat in the end. None: nothing
            is written.
        console: where progress is shown.
        title: what the progress is called.
        engine: where images are certified. Default: in this process, on a GPU if there is one.

    Returns:
        The settings with seed and precision, which may not have been chosen before; and what was certified now, in
        the order of the images. What earlier processes did is in the directory alone.

    Raises:
        SettingsError: the directory holds certificates made with other settings, or another process is at work there;
            or shards are there whose images would be certified again, or which have other settings; or what is to be
            carried over is of other samples or images.
        RecordsError: what lies there are no certificates, or they contradict each other.
        Interrupted: a signal asked to stop. Alone, this process finished its image; other workers are ended at once.
        MacerError: workers cannot be started or were lost.
    """
    engine = engine or Engine()
    if directory is not None:
        check_shards(plan.settings, directory)
    settings = with_precision(with_seed(plan.settings, directory), plan.network, directory, engine.device)
    if directory is not None:
        check_mergeable(settings, directory)
    plan, images = replace(plan, settings=settings), plan.images
    total, done = len(settings.indices), []
    carrying = None if settings.carry is None else read_carrying(settings, images, settings.indices)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        named = images.file_name(settings.indices[0]) is not None
        journals = None if directory is None else stack.enter_context(Journals(settings, directory, named=named))
        left = list(settings.indices) if journals is None else journals.missing
        before, correct = total - len(left), 0 if journals is None else journals.correct
        if journals is not None:
            journals.check_images(images)
        view = LiveView(title, total, before, correct, console)
        stack.enter_context(view)
        if left:
            workers = stack.enter_context(engine.open())
            stop.answer = partial(view.answer, "this image")
            if workers.count == 0:
                console.print("waiting for the first worker")
            found = stack.enter_context(closing(outcomes(plan, left, workers, stop, carrying)))
            for outcome in found:
                if journals is not None:
                    journals.write(outcome, images.file_name(outcome.index))
                view.count(outcome, workers.count)
                done.append(outcome)
        if len(done) < len(left):
            where = "" if directory is None else f"; the same command goes on from {directory}"
            stop.check(f"certification stopped after {before + len(done)} of {total} images{where}")
        if journals is not None:
            journals.finish()
    return settings, sorted(done, key=lambda outcome: outcome.index)


def certify_run(
    run: Path,
    directory: Path,
    chosen: Mapping[str, Any],
    *,
    network: str | None = None,
    console: Console,
    title: str,
    device: str,
) -> None:
    """Certify images of the data set that a run was trained on, as a part of longer work.

    Args:
        run: its directory, or a checkpoint of it.
        directory: of the certificates.
        chosen: values of fields of `CertificationSettings`, by name.
        network: the network's name or package.module:function; None: as the run says.
        console: where progress is shown.
        title: what the progress is called.
        device: what computes.
    """
    plan = prepare(find_network(run, network), chosen=chosen)
    certify_images(plan, directory, console=console, title=title, engine=Engine(device))


def outcomes(
    plan: Plan, indices: Sequence[int], workers: Workers, stop: StopRequest, carrying: Carrying | None
) -> Generator[Outcome, None, None]:
    """Yield what certifying each image gives, in the order in which they are done; none after a request to stop.

    Raises:
        RecordsError: what is carried over is of other images.
    """
    settings, images = plan.settings, plan.images
    work = ImageCertification(
        settings=settings,
        spending=settings.spending if carrying is None else carrying.spending,
        network=plan.network,
        num_classes=images.num_classes,
        shape=images.shape,
        samples=len(indices) * settings.samples(settings.n) // max(1, workers.count),
    )

    def items() -> Iterator[Item]:
        for index in indices:
            if carrying is not None:
                check_image(carrying.file, carrying.rows[index], images)
            yield index, *images[index]

    yield from workers.map(work, items(), stop)
