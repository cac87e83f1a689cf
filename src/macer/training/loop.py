"""The one training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from macer import models
from macer.compute.device import open_fabric, started_processes
from macer.compute.interruption import Interrupted, stop_on_signals
from macer.compute.progress import ProgressView
from macer.compute.rate import training_rate
from macer.compute.seeding import derive_seed, generator
from macer.data import LabelledImages
from macer.errors import CheckpointError
from macer.models.weights import load_weights
from macer.objectives import Progress
from macer.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from macer.runs.directory import alone_in, may_differ, open_directory
from macer.runs.metrics import MetricsLog
from macer.runs.run import Run
from macer.runs.settings import require
from macer.smoothing.noise import Generators
from macer.training.average import MovingAverage
from macer.training.divergence import FirstBadStep, TrainingDiverged, all_finite
from macer.training.peek import acr_estimate
from macer.training.processes import Processes
from macer.training.sampled_backward import SampledBackward
from macer.training.schedule import has_dropped, learning_rate
from macer.training.selection import Part, select
from macer.training.settings import MACHINE_SETTINGS, TrainingSettings

_SECONDS_BETWEEN_LOOKS = 1.0
"""How often the running losses are looked at: it makes the host wait for the device."""
_SECONDS_BEFORE_MEASURING = 10.0
"""Trainings shorter than this are not delayed by finding out how fast the network alone is."""
_CACHED_IMAGES = 256  # noisy images whose activations a CPU keeps near; measured for LeNet


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
    after_epoch: AfterEpoch | None = None,
    fabric: Any = None,
) -> Path:
    """Train a network, or go on where an earlier process stopped; in one process, or in several together.

    The result depends on the settings alone: interrupted and resumed training gives the weights that undisturbed
    training gives, bit for bit on a CPU. With several processes each of them calls this function; with noise_seeds
    "image" their number changes nothing but rounding (and the statistics of a batch norm that is not synchronised).

    Args:
        settings: all that decides the result.
        images: what to train on.
        directory: the run's directory, for settings.toml, metrics.tsv, tensorboard/ and checkpoints/.
        console: where progress is shown.
        title: what the progress is called.
        initial: weights to start from in place of random ones.
        network: what to train, in place, from the weights that it has; None: what the settings name.
        after_epoch: called in the first process with the number of epochs finished and the checkpoint's file, each
            time that both agree. After an interruption it is called again for the epoch it may have been interrupted
            in.
        fabric: what `fabric_for` gives, not launched yet; None: that is called here.

    Returns:
        The file of the last checkpoint.

    Raises:
        SettingsError: settings that do not fit the data or the directory, or another process is at work there.
        TrainingDiverged: the loss is no longer finite.
        Interrupted: a signal asked to stop; a checkpoint was written.
        MacerError: another process ended without a word.
    """
    fabric = fabric or fabric_for(settings)
    run = Run(directory)
    file = run.checkpoint_file
    # Built first: a network that cannot be built must not leave a directory with its settings behind.
    training = _Training(settings, images, fabric, file, initial, network)
    with ExitStack() as stack:
        checkpoint = None
        if fabric.is_global_zero:
            open_directory(
                directory,
                settings.tables(),
                ignored=may_differ(MACHINE_SETTINGS, settings.dataset),
                device=fabric.device,
                defaults=settings.defaults(),
            )
            file.parent.mkdir(exist_ok=True)
            stack.enter_context(alone_in(directory))
            checkpoint = load_checkpoint(file) if file.exists() else None
        processes = Processes(fabric)
        training.start(processes, processes.first_says(checkpoint))
        try:
            if processes.first:
                training.run(console, title, MetricsLog(run.metrics_file, run.tensorboard, training.epoch), after_epoch)
            else:
                training.run(Console(quiet=True), title, None, None)
        except (Interrupted, TrainingDiverged):
            if processes.first:
                raise  # it speaks for all
        processes.leave()
    return file


def fabric_for(settings: TrainingSettings) -> Any:
    """The Lightning Fabric of the devices and the arithmetic that are asked for, or that torchrun or Slurm started.

    Raises:
        SettingsError: they are not to be had here.
    """
    started = started_processes()
    return open_fabric(
        settings.device,
        settings.precision,
        devices=settings.devices or started[0],
        num_nodes=settings.num_nodes or started[1],
        gradients=True,
    )


class _Training:
    """The state of a running training, and the loop over it."""

    def __init__(
        self,
        settings: TrainingSettings,
        images: LabelledImages,
        fabric: Any,
        file: Path,
        initial: dict[str, Tensor] | None,
        network: nn.Module | None,
    ) -> None:
        self.settings, self.images, self.fabric, self.file = settings, images, fabric, file
        self.indices = settings.trained_on(len(images))
        require(
            settings.batch_size <= len(self.indices),
            f"batch_size {settings.batch_size} is more than the {len(self.indices)} training images",
        )
        torch.manual_seed(derive_seed(settings.seed, "network"))
        bare = network
        if bare is None:
            bare = models.build(settings.network, images.num_classes, images.shape, settings.normalisation)
        if initial is not None:
            load_weights(bare, initial, settings.network)
        alone = fabric.world_size == 1 and not _couples_images(bare)
        for name in ("easy_share", "backward_share"):
            require(
                getattr(settings, name) == 1 or alone,
                f"{name} is for one process, and for networks without batch norm, which couples images",
            )
        require(
            settings.backward_share == 1 or not _draws(bare),
            "backward_share is for networks that answer alike when asked again: without dropout",
        )
        on_gpu = fabric.device.type == "cuda"
        if settings.sync_batch_norm:
            require(on_gpu, "sync_batch_norm is for GPUs: PyTorch has no synchronised batch norm for the CPU")
            bare = nn.SyncBatchNorm.convert_sync_batchnorm(bare)
            require(settings.micro_batch == 0, "sync_batch_norm and micro_batch exclude each other: give one of them")
        self.compiled = settings.compile == "yes" or (settings.compile == "auto" and on_gpu)
        if self.compiled:
            bare.compile()
        self.bare = bare
        self.optimizer: Any = torch.optim.SGD(
            bare.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=on_gpu or None,
        )
        self.epoch = self.step = 0
        self.steps = math.ceil(len(self.indices) / settings.batch_size)
        self.sums: dict[str, Any] = {}  # of tensors and numbers, so that no step waits for the device
        self.bad = FirstBadStep()
        self.detail = ""
        self._since = 0.0

    def start(self, processes: Processes, checkpoint: Checkpoint | None) -> None:
        """Put everything on the device, and go on from a checkpoint of the same settings if there is one."""
        self.processes = processes
        self.network, self.optimizer = self.fabric.setup(self.bare, self.optimizer)
        self.average = MovingAverage(self.bare, self.settings.average) if self.settings.average > 0 else None
        if checkpoint is not None:
            self._restore(checkpoint)
        if not processes.first:  # what a network draws for itself, as in dropout, differs between processes
            torch.manual_seed(derive_seed(self.settings.seed, "process", processes.rank, self.epoch, self.step))

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.bare, checkpoint.network, self.settings.network)
        if self.average is not None:
            if checkpoint.average is None:
                raise CheckpointError(f"{self.file}: holds no moving average of the weights")
            for name, value in checkpoint.average.items():
                self.average.state[name].copy_(value)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
            torch.set_rng_state(checkpoint.random["cpu"])
            if torch.cuda.is_available():
                for device, state in enumerate(checkpoint.random["cuda"][: torch.cuda.device_count()]):
                    torch.cuda.set_rng_state(state, device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.file}: its optimizer or random states are not this training's") from error
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        # The sums are those of all processes: the first takes them over.
        self.sums = {name: value if self.processes.first else 0.0 for name, value in checkpoint.sums.items()}
        if "images" in self.sums:  # earlier versions did not count noisy images
            self.sums.setdefault("noisy_images", self.sums["images"] * self.settings.objective.samples)

    def save(self) -> None:
        """Write the state as it is between two steps, if it is sound."""
        sums = self._sound_sums()
        self._share_statistics()
        if not self.processes.first:
            return
        checkpoint = Checkpoint(
            settings=self.settings.tables(),
            num_classes=self.images.num_classes,
            shape=self.images.shape,
            epoch=self.epoch,
            step=self.step,
            network=self.bare.state_dict(),
            average=None if self.average is None else self.average.state,
            optimizer=self.optimizer.state_dict(),
            random={
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            sums=sums,
        )
        save_checkpoint(checkpoint, self.file)

    def run(self, console: Console, title: str, log: MetricsLog | None, after_epoch: AfterEpoch | None) -> None:
        """All epochs that are left.

        Args:
            console: where progress is shown.
            title: what it is called.
            log: the lines of epochs; None in all processes but the first.
            after_epoch: as for `train`.
        """
        settings = self.settings
        done = self.epoch * self.steps + self.step
        view = ProgressView(title, settings.epochs * self.steps, done=done, unit="noisy images", console=console)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            stack.enter_context(view)
            if log is not None:
                stack.enter_context(log)
            self._tell(after_epoch)
            saved = looked = time.monotonic()
            while self.epoch < settings.epochs:
                self._since = time.perf_counter()
                for images, labels in self._batches():
                    whole = min(settings.batch_size, len(self.indices) - self.step * settings.batch_size)
                    noisy_images = self._train_step(images, labels, whole)
                    self._count_time()
                    view.advance(1, noisy_images * self.processes.size, f"epoch {self.epoch + 1}{self.detail}")
                    now = time.monotonic()
                    signal_number, look, save = self.processes.largest(
                        [stop.signal_number or 0, now - looked > _SECONDS_BETWEEN_LOOKS, self._due(now - saved)]
                    )
                    if look:
                        self._look(view)
                        looked = time.monotonic()
                    if save or signal_number:
                        self.save()
                        saved = time.monotonic()
                        if signal_number:
                            message = f"training stopped; the same command goes on from {self.file}"
                            raise Interrupted(message, signal_number)
                        self._since = time.perf_counter()
                self._finish_epoch(log)
                self._tell(after_epoch)
                saved = time.monotonic()

    def _due(self, seconds: float) -> bool:
        """Whether the last checkpoint is old; the first process's clock decides."""
        return self.processes.first and seconds > 60 * self.settings.checkpoint_every

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the batches of the running epoch that are left."""
        seed = self.settings.seed
        order = torch.randperm(len(self.indices), generator=generator("cpu", seed, "order", self.epoch))
        batches = self.images.batches(
            self.indices[order],
            self.settings.batch_size,
            device=self.fabric.device,
            seed=seed,
            epoch=self.epoch,
            share=(self.processes.rank, self.processes.size),
        )
        return islice(batches, self.step, None)

    def _train_step(self, images: Tensor, labels: Tensor, whole: int) -> int:
        """One step on this process's share of a batch of `whole` images. Returns how many noisy images it took."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, self.epoch + self.step / self.steps)
        progress = self._progress()
        own = len(self.processes.positions(whole))
        noise = self._noise(whole)
        network = self.network.train()
        if settings.backward_share < 1:
            drawn = generator("cpu", settings.seed, "backward", self.epoch, self.step)
            network = SampledBackward(network, settings.backward_share, drawn)
        parts = self._parts(images, labels, progress)
        terms: dict[str, Any] = {}
        for number, part in enumerate(parts, start=1):
            here = part.positions
            drawn_from = (
                noise if isinstance(noise, torch.Generator) else [noise[position] for position in here.tolist()]
            )
            with self.processes.one_more(self.network, last=number == len(parts)):
                loss = settings.objective(network, images[here], labels[here], generator=drawn_from, progress=progress)
                # An image that came along, because there are more processes than images, counts for nothing.
                share = part.weight * len(here) / whole if own else 0.0
                self.fabric.backward(loss.total * (share * self.processes.size))
            for name, value in {"loss": loss.total.detach(), **loss.terms}.items():
                terms[name] = terms.get(name, 0.0) + value * (share * whole)
        for name, value in terms.items():
            self._add(name, value)
        noisy_images = sum(len(part.positions) for part in parts) * settings.objective.samples_at(progress)
        noisy_images = (noisy_images if own else 0) + (len(labels) if settings.easy_share < 1 else 0)
        self._add("images", float(own))
        self._add("noisy_images", float(noisy_images))
        if settings.clip > 0:
            # A norm that is not finite makes weights that are not, which the next look sees; asking here would wait.
            self.fabric.clip_gradients(self.network, self.optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        self.optimizer.step()
        # Where no row was drawn for a backward pass the gradient is 0, not missing.
        self.optimizer.zero_grad(set_to_none=settings.backward_share == 1)
        self.step += 1
        self.bad.note(self.step, {name: value / max(own, 1) for name, value in terms.items()})
        if self.average is not None:
            self.average.update(self.bare, self.epoch * self.steps + self.step)
        return noisy_images

    def _progress(self) -> Progress:
        epoch = self.epoch + self.step / self.steps
        return Progress(epoch, has_dropped(self.settings, epoch))

    def _parts(self, images: Tensor, labels: Tensor, progress: Progress) -> list[Part]:
        """The images to take the step on, in parts of one backward pass each."""
        settings = self.settings
        drawn = generator(self.fabric.device, settings.seed, "selection", self.epoch, self.step)
        sigma, share = settings.objective.sigma, settings.easy_share
        selected = select(self.network, images, labels, sigma=sigma, easy_share=share, generator=drawn)
        size = self._micro_batch(len(labels), progress)
        return [Part(positions, part.weight) for part in selected for positions in part.positions.split(size)]

    def _noise(self, whole: int) -> Generators:
        """What a step's noise is drawn from."""
        device, parts = self.fabric.device, (self.settings.seed, "noise", self.epoch, self.step)
        if self.settings.noise_seeds == "image":
            positions = self.processes.positions(whole) or range(1)
            return [generator(device, *parts, position) for position in positions]
        return generator(device, *parts, *([] if self.processes.first else [f"process {self.processes.rank}"]))

    def _micro_batch(self, batch: int, progress: Progress) -> int:
        """Images a backward pass. The sum over parts of a batch is exact unless batch norm couples its images."""
        if self.settings.micro_batch:
            return self.settings.micro_batch
        if _couples_images(self.bare) or self.fabric.device.type != "cpu":
            return batch
        objective = self.settings.objective
        return max(1, _CACHED_IMAGES // min(objective.copies, objective.samples_at(progress)))

    def _count_time(self) -> None:
        """Count what has passed since the last call, waiting for data included, as training time."""
        now = time.perf_counter()
        self._add("seconds", now - self._since)
        self._since = now

    def _add(self, name: str, value: Tensor | float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def _look(self, view: ProgressView) -> None:
        """Show the running losses, and stop if they are not finite."""
        sums = self._sound_sums()
        self.detail = _described({name: value / sums["images"] for name, value in sums.items()})
        # Synchronised batch norm would wait for the other processes; steps on a selection have no such limit.
        settings = self.settings
        measurable = not settings.sync_batch_norm and settings.easy_share == settings.backward_share == 1
        if self.processes.first and measurable and view.limit is None and view.seconds > _SECONDS_BEFORE_MEASURING:
            objective = self.settings.objective
            inputs = self._micro_batch(self.settings.batch_size, self._progress()) * objective.copies
            rate = training_rate(self.bare, self.images.shape, inputs, self.fabric, compiled=self.compiled)
            view.limit = rate * self.processes.size
            self._since = time.perf_counter()

    def _finish_epoch(self, log: MetricsLog | None) -> None:
        """One line in the log, then the checkpoint that says that the epoch is done."""
        self._wait_for_device()
        self._count_time()
        sums = self._sound_sums()
        images, seconds, noisy_images = (sums.pop(name) for name in ("images", "seconds", "noisy_images"))
        row = {
            "learning_rate": learning_rate(self.settings, self.epoch + (self.steps - 1) / self.steps),
            **{name: value / images for name, value in sums.items()},
            "seconds": seconds,
            "noisy_images": noisy_images,
        }
        self._share_statistics()
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        if log is not None:
            log.write(self.epoch, row | self._peek())
        self.save()
        self.detail = _described(row)

    def _share_statistics(self) -> None:
        """Give all processes the same running statistics, and so the moving average of the weights."""
        self.processes.average_statistics(self.bare)
        if self.average is not None:
            self.average.copy_buffers(self.bare)

    def _peek(self) -> dict[str, float]:
        """The estimate of the ACR on the images held back, where that is asked for."""
        held_back = self.settings.held_back(len(self.images))
        if len(held_back) == 0:
            return {}
        weights = self.bare.state_dict() if self.average is None else self.average.state
        sigma, seed = self.settings.objective.sigma, self.settings.seed
        return {"acr_estimate": acr_estimate(self.bare, weights, self.images, held_back, sigma=sigma, seed=seed)}

    def _tell(self, after_epoch: AfterEpoch | None) -> None:
        """Let others look at the checkpoint of a finished epoch."""
        if after_epoch is not None and self.epoch > 0 and self.step == 0:
            devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
            with torch.random.fork_rng(devices):  # building a network to look at draws from the global state
                after_epoch(self.epoch, self.file)
        self.processes.meet()  # the others wait here, not in a step, where they would lose patience

    def _wait_for_device(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize(self.fabric.device)

    def _sound_sums(self) -> dict[str, float]:
        """The sums over all processes as numbers, if they and the weights are finite; the seconds are this one's."""
        own = {name: float(value) for name, value in self.sums.items()}
        seconds = own.pop("seconds", 0.0)
        sums = dict(zip(own, self.processes.total(list(own.values())), strict=True))
        weights = float(sum(value.detach().sum() for value in self.bare.parameters()))
        if all_finite({**sums, "weights": weights}):
            return {**sums, "seconds": seconds} if sums else {}
        raise TrainingDiverged(self._divergence(sums, weights))

    def _divergence(self, sums: dict[str, float], weights: float) -> str:
        """What went wrong, and what is left."""
        found = self.processes.smallest(self.bad.find())
        if found is None:
            terms = ", ".join(f"{name} {value:g}" for name, value in sums.items() if name != "images")
            what = f"after step {self.step} of epoch {self.epoch + 1} (weights {weights:g}; sums: {terms})"
        else:
            step, values = found
            terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
            what = f"in step {step} of epoch {self.epoch + 1} ({terms})"
        kept = f"the last good checkpoint is {self.file}" if self.file.exists() else "there is no checkpoint yet"
        return f"the loss is no longer finite {what}; {kept}. A smaller --lr or --clip 1 may help"


def _couples_images(network: nn.Module) -> bool:
    """Whether the images of a batch change each other's logits in training."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def _draws(network: nn.Module) -> bool:
    """Whether the network's answers in training are random."""
    return any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules())


def _described(means: dict[str, float]) -> str:
    """The loss and its terms, as the progress shows them."""
    terms = [f"{name} {value:.3f}" for name, value in means.items() if name not in _NOT_TERMS]
    return "".join(f", {term}" for term in terms)


_NOT_TERMS = ("learning_rate", "seconds", "images", "noisy_images", "acr_estimate")
