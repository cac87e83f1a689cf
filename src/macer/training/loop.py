"""The training loop: the same for every method, network and number of processes."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from macer.compute.interruption import Interrupted, StopRequest, stop_on_signals
from macer.compute.progress import ProgressView
from macer.compute.rate import training_rate
from macer.compute.seeding import generator
from macer.data import LabelledImages
from macer.runs.checkpoint import Checkpoint
from macer.runs.directory import open_directory
from macer.runs.metrics import MetricsLog
from macer.runs.run import Run
from macer.runs.settings import require
from macer.training.divergence import TrainingDiverged
from macer.training.log import EpochLog, describe
from macer.training.measure import measure
from macer.training.processes import Processes, fabric_for
from macer.training.sampled_backward import SampledBackward
from macer.training.schedule import learning_rate
from macer.training.settings import MACHINE_SETTINGS, TrainingSettings
from macer.training.state import TrainingState
from macer.training.step import batches_left, generators_of, micro_batch, noise_generators, split_batch
from macer.training.validation import acr_estimate

_SECONDS_BETWEEN_LOOKS = 1.0
"""How often the losses are read, which waits for the device."""
_SECONDS_BEFORE_MEASURING = 10.0
"""Only longer trainings take the time to measure how fast the network alone would be."""

AfterEpoch = Callable[[int, Path], None]


def train(
    settings: TrainingSettings,
    images: LabelledImages,
    directory: Path,
    *,
    console: Console,
    title: str = "training",
    initial: dict[str, Tensor] | None = None,
    network: nn.Module | None = None,
    classifier: nn.Module | None = None,
    after_epoch: AfterEpoch | None = None,
    fabric: Any = None,
) -> Path:
    """Train a network, or resume where an earlier process stopped; in one process, or in several together.

    The result depends on the settings alone: training that was interrupted and resumed gives the weights of undisturbed
    training, bit for bit on a CPU. With several processes each of them calls this function. With noise_per "image"
    their number changes nothing but rounding, and the statistics of a batch norm that is not synchronised.

    Args:
        settings: everything that decides the result.
        images: what to train on.
        directory: the run's directory, for settings.toml, metrics.tsv, tensorboard/ and checkpoints/.
        console: where progress is shown.
        title: what the progress is called.
        initial: weights to start from in place of random ones.
        network: what to train, in place, from the weights that it has; None: the network that the settings name.
        classifier: what stands behind a denoiser in training, and stays as it is; a copy, as it is moved and frozen.
        after_epoch: called in the first process after each epoch, with the number of epochs finished and the
            checkpoint's file. After an interruption it is called again for the last finished epoch.
        fabric: what `fabric_for` returns, not launched yet; None: that is called here.

    Returns:
        The file of the last checkpoint.

    Raises:
        SettingsError: settings that do not fit the data or the directory, or another process is at work there.
        TrainingDiverged: the loss is no longer finite.
        Interrupted: a signal asked to stop; a checkpoint was written.
        MacerError: another process has ended.
    """
    fabric = fabric or fabric_for(settings)
    run = Run(directory)
    file = run.checkpoint_file
    # Built first: a network that cannot be built must not leave a directory with its settings behind.
    state = TrainingState(settings, images, fabric, file, network=network, initial=initial, classifier=classifier)
    with ExitStack() as stack:
        checkpoint = _open(run, settings, fabric, stack) if fabric.is_global_zero else None
        processes = Processes(fabric)
        arithmetics = sorted(set(processes.all_gather(settings.precision)))
        require(
            len(arithmetics) == 1, f"the machines choose {' and '.join(arithmetics)}: give one of them as `precision`"
        )
        state.start(processes, checkpoint)
        for warning in state.warnings if processes.is_first else ():
            console.print(f"warning: {warning}", soft_wrap=True)
        if checkpoint is not None and state.epoch < settings.epochs:
            console.print(f"continues in {state.where}", soft_wrap=True)
        loop = _Loop(state, images)
        try:
            if processes.is_first:
                loop.run(console, title, MetricsLog(run.metrics_file, run.tensorboard, state.epoch), after_epoch)
            else:
                loop.run(Console(quiet=True), title, None, None)
        except (Interrupted, TrainingDiverged):
            if processes.is_first:
                raise  # the others, which raise the same, end in silence
        processes.destroy_process_group()
    return file


def _open(run: Run, settings: TrainingSettings, fabric: Any, stack: ExitStack) -> Checkpoint | None:
    """Create or enter the run's directory, lock it, and return its checkpoint if there is one."""
    opened = open_directory(
        run.path,
        settings.tables(),
        ignored=MACHINE_SETTINGS | {"teacher"},  # the checkpoint knows images and teacher by content
        device=fabric.device,
        defaults=settings.defaults(),
    )
    stack.enter_context(opened)
    run.checkpoint_file.parent.mkdir(exist_ok=True)
    return run.checkpoint() if run.checkpoint_file.exists() else None


class _Loop:
    """The loop over the epochs and steps of a training.

    Args:
        state: of the training, started.
        images: what to train on.
    """

    def __init__(self, state: TrainingState, images: LabelledImages) -> None:
        self.state, self.images = state, images
        self.settings, self.fabric, self.processes = state.settings, state.fabric, state.processes
        self.log = EpochLog(state)
        self.details = [f"epoch {state.epoch + 1}"]
        """The running epoch, or the last finished one, and its mean losses, once they were looked at."""

    def run(self, console: Console, title: str, metrics: MetricsLog | None, after_epoch: AfterEpoch | None) -> None:
        """Train for all epochs that are left. `metrics` is None in all processes but the first."""
        state, settings = self.state, self.settings
        done, total = state.epoch * state.steps + state.step, settings.epochs * state.steps
        view = ProgressView(title, total, done=done, unit="noisy images", console=console)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            stack.enter_context(view)
            stop.answer = partial(view.answer, "this step, then saving")
            if metrics is not None:
                stack.enter_context(metrics)
            self._call(after_epoch)
            saved = looked = time.monotonic()
            while state.epoch < settings.epochs:
                self.log.start_clock()
                if state.step == 0:
                    self._choose_images(stop)
                for images, labels, indices in batches_left(state, self.images):
                    noisy_images = self.train_step(images, labels, indices)
                    self.log.count_time()
                    view.advance(1, noisy_images * self.processes.size, *self.details)
                    now = time.monotonic()
                    due = self.processes.is_first and now - saved > 60 * settings.checkpoint_every
                    signal_number, look, save = self.processes.all_reduce(
                        [stop.signal_number or 0, now - looked > _SECONDS_BETWEEN_LOOKS, due], "max"
                    )
                    if look:
                        self._look(view)
                        looked = time.monotonic()
                    if save or signal_number:
                        state.save(self.log.totals())
                        saved = time.monotonic()
                        if signal_number:
                            raise self._interrupted(signal_number)
                        self.log.start_clock()
                self._finish_epoch(metrics)
                view.advance(0, 0, *self.details)
                self._call(after_epoch)
                saved = time.monotonic()

    def _choose_images(self, stop: StopRequest) -> None:
        """Let the method choose which images the epoch that begins is drawn from."""
        state = self.state

        def stop_if_asked() -> None:
            (signal_number,) = self.processes.all_reduce([stop.signal_number or 0], "max")
            if signal_number:
                state.save({})
                raise self._interrupted(signal_number)

        offered = partial(measure, state, self.images, stop_if_asked)
        state.image_weights = self.settings.objective.image_weights(state.epoch, state.image_weights, offered)

    def _interrupted(self, signal_number: int | float) -> Interrupted:
        where = f"in {self.state.where}; the same command goes on from {self.state.file}"
        return Interrupted(f"training stopped {where}", int(signal_number))

    def train_step(self, images: Tensor, labels: Tensor, indices: Tensor) -> int:
        """Take one optimiser step on this process's images of a batch. Return how many noisy images it evaluated."""
        state, settings, objective = self.state, self.settings, self.settings.objective
        size = settings.images_per_step
        batch = min(size, len(state.indices) - state.step * size)  # over all processes
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, state.now)
        progress = state.progress
        own = len(self.processes.positions(batch))
        generators = noise_generators(state, batch)
        network = state.network.train()
        if settings.backward_fraction < 1:
            drawn = generator("cpu", settings.seed, "backward", state.epoch, state.step)
            network = SampledBackward(network, settings.backward_fraction, drawn)
        parts = split_batch(state, images, labels, progress)
        teacher = None if state.teacher is None else state.teacher.shares(indices).to(images.device)
        losses: dict[str, Any] = {}
        for number, part in enumerate(parts, start=1):
            here = part.positions
            noise = generators_of(generators, here)
            with self.processes.no_sync(state.network, enabled=number < len(parts)):
                loss = objective(
                    network,
                    images[here],
                    labels[here],
                    generator=noise,
                    progress=progress,
                    teacher=None if teacher is None else teacher[here],
                    classifier=state.classifier,
                )
                # A process without an image of its own, where there are fewer than processes, adds nothing.
                weight = part.weight * len(here) / batch if own else 0.0
                self.fabric.backward(loss.total * (weight * self.processes.size))
            for name, value in {"loss": loss.total.detach(), **loss.terms}.items():
                losses[name] = losses.get(name, 0.0) + value * (weight * batch)
        if settings.clip > 0:
            # A norm that is not finite makes weights that are not, which is found later; checking here would wait.
            self.fabric.clip_gradients(state.network, state.optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        state.optimizer.step()
        # Where no noisy image was drawn for a backward pass the gradient is 0, not missing.
        state.optimizer.zero_grad(set_to_none=settings.backward_fraction == 1)
        state.step += 1
        if state.average is not None:
            state.average.update(state.module, state.epoch * state.steps + state.step)
        noisy_images = sum(len(part.positions) for part in parts) * objective.samples_at(progress) if own else 0
        noisy_images += len(labels) if settings.easy_fraction < 1 else 0  # those that told which images are easy
        self.log.add_step(losses, own, noisy_images)
        return noisy_images

    def _look(self, view: ProgressView) -> None:
        """Show the running losses, stop if they are not finite, and once measure how fast the network alone is."""
        state, settings = self.state, self.settings
        totals = self.log.totals()
        self.details = describe(state.epoch + 1, {name: value / totals["images"] for name, value in totals.items()})
        # Synchronised batch norm would wait for the other processes; the network is no limit for steps on few images.
        whole = settings.easy_fraction == settings.backward_fraction == 1 and not settings.sync_batch_norm
        if self.processes.is_first and whole and view.limit is None and view.seconds > _SECONDS_BEFORE_MEASURING:
            inputs = micro_batch(state, settings.images_per_step, state.progress) * settings.objective.copies
            rate = training_rate(state.module, state.shape, inputs, self.fabric, compiled=state.compiled)
            view.limit = rate * self.processes.size
            self.log.start_clock()

    def _finish_epoch(self, metrics: MetricsLog | None) -> None:
        """Write the epoch's row to the log, then the checkpoint which says that the epoch is finished."""
        state = self.state
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)
        self.log.count_time()
        row = self.log.finish_epoch(learning_rate(self.settings, state.epoch + (state.steps - 1) / state.steps))
        state.share_statistics()
        state.epoch, state.step = state.epoch + 1, 0
        if metrics is not None:
            metrics.write(state.epoch, row | self._estimate())
        state.save(self.log.totals())
        self.details = describe(state.epoch, row)

    def _estimate(self) -> dict[str, float]:
        """Return the estimate of ACR on the validation images, if there are any."""
        indices = self.settings.validation_indices(len(self.images))
        if len(indices) == 0:
            return {}
        state, sigma, seed = self.state, self.settings.objective.sigma, self.settings.seed
        return {"acr_estimate": acr_estimate(state.module, state.weights, self.images, indices, sigma=sigma, seed=seed)}

    def _call(self, after_epoch: AfterEpoch | None) -> None:
        """Call `after_epoch` if an epoch has just been finished."""
        stopped: Interrupted | None = None
        if after_epoch is not None and self.state.epoch > self.settings.start_epoch and self.state.step == 0:
            devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
            try:
                with torch.random.fork_rng(devices):  # a network that is built there draws from the global state
                    after_epoch(self.state.epoch, self.state.file)
            except Interrupted as interrupted:
                stopped = interrupted
        # The others wait here, where they have more patience than in a step, and end in silence if the first one stops.
        (signal_number,) = self.processes.all_reduce([stopped.signal_number if stopped else 0], "max")
        if signal_number:
            raise stopped or self._interrupted(signal_number)
