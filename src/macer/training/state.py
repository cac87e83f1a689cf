"""The state of a training between two steps: what a checkpoint holds, written and restored."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from macer import models
from macer.compute.seeding import derive_seed
from macer.data import LabelledImages
from macer.data.class_names import unlike_training
from macer.data.images import digest_of_some
from macer.data.own import doubts_about_scale
from macer.errors import CheckpointError
from macer.models.digest import class_digest, code_digest, digest, probe
from macer.models.weights import load_weights
from macer.objectives import OBJECTIVES, Progress
from macer.runs.checkpoint import Checkpoint, save_checkpoint
from macer.runs.settings import require
from macer.smoothing.radius import doubts_about_sigma
from macer.training.average import MovingAverage
from macer.training.processes import Processes
from macer.training.schedule import has_dropped
from macer.training.settings import TrainingSettings
from macer.training.teacher import teacher_for


class TrainingState:
    """The network in training, its optimizer, and everything else that changes from step to step.

    Args:
        settings: of the training.
        images: what is trained on.
        fabric: the devices and the arithmetic.
        file: the checkpoint's file.
        network: what to train, in place, from the weights that it has; None: the network that the settings name.
        initial: weights to start from.
        classifier: what stands behind a denoiser in training, and stays as it is.

    Attributes:
        indices: of the images that are trained on.
        teacher: a teacher's votes on the images, or None.
        warnings: what a person should know before the training begins.
        steps: steps per epoch.
        image_weights: how often each image that is trained on is drawn, relative to the others; None: each once.
        module: the network itself.
        network: the network as Fabric wraps it; from `start` on.
        processes: those that train together; from `start` on.
        average: the moving average of the weights, or None.
        epoch: epochs finished.
        step: steps of the running epoch finished.
        sums: of losses, images and seconds over the running epoch. They are tensors, so that no step waits for the
            device.

    Raises:
        SettingsError: the settings do not fit the data, the network or the devices.
        CheckpointError: the initial weights do not fit the network.
    """

    network: Any
    processes: Processes

    def __init__(
        self,
        settings: TrainingSettings,
        images: LabelledImages,
        fabric: Any,
        file: Path,
        *,
        network: nn.Module | None = None,
        initial: dict[str, Tensor] | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        self.settings, self.fabric, self.file = settings, fabric, file
        self.images, self.num_classes, self.shape = images, images.num_classes, images.shape
        self.indices = settings.training_indices(len(images))
        self.images_digest = digest_of_some(images)
        self.teacher, self.warnings = teacher_for(settings, images, self.images_digest)
        self.warnings += doubts_about_sigma(settings.objective.sigma) + doubts_about_scale(images)
        if held_back_by := settings.objective.held_back_by(self._progress_at(settings.epochs - 1.0)):
            too_few = f"in all {settings.epochs} epochs, which are too few"
            self.warnings.append(f"{held_back_by} holds {settings.objective.name} back {too_few}")
        require(
            settings.batch_size <= len(self.indices),
            f"batch_size {settings.batch_size} is more than the {len(self.indices)} training images",
        )
        torch.manual_seed(derive_seed(settings.seed, "network"))
        module = network
        if module is None:
            module = models.build(settings.network, images.num_classes, images.shape, settings.normalisation)
        if initial is not None:
            load_weights(module, initial, settings.network)
        self.code = _code_of(None if network is not None else module, settings)
        if ":" in settings.network and not settings.objective.denoises:
            probe(module, images.num_classes, images.shape)  # code that fails on these images says so in one line
        _check_network(module, settings, fabric)
        if settings.sync_batch_norm:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        on_gpu = fabric.device.type == "cuda"
        self.compiled = settings.compile == "yes" or (settings.compile == "auto" and on_gpu)
        if self.compiled:
            module.compile()
        self.module = module
        common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": on_gpu or None}
        self.optimizer: Any = (
            torch.optim.Adam(module.parameters(), **common)
            if settings.optimizer == "adam"
            else torch.optim.SGD(module.parameters(), momentum=settings.momentum, nesterov=settings.nesterov, **common)
        )
        self.classifier = None if classifier is None else classifier.to(fabric.device).eval().requires_grad_(False)
        self.classifier_digest = None if classifier is None else digest(classifier.state_dict())
        self.average: MovingAverage | None = None
        self.steps = math.ceil(len(self.indices) / settings.images_per_step)
        self.image_weights: Tensor | None = None
        self.epoch, self.step = settings.start_epoch, 0
        self.sums: dict[str, Any] = {}

    @property
    def now(self) -> float:
        """Epochs finished, with the fraction of the running one."""
        return self.epoch + self.step / self.steps

    @property
    def where(self) -> str:
        """How far training got, in words."""
        return f"epoch {self.epoch + 1}, after {self.step} of {self.steps} steps"

    @property
    def progress(self) -> Progress:
        """What a training method is told of the progress."""
        return self._progress_at(self.now)

    def _progress_at(self, epoch: float) -> Progress:
        return Progress(epoch, has_dropped(self.settings, epoch))

    @property
    def weights(self) -> dict[str, Tensor]:
        """What is certified: the moving average where there is one, else the network's weights."""
        return self.module.state_dict() if self.average is None else self.average.state

    def start(self, processes: Processes, checkpoint: Checkpoint | None) -> None:
        """Move everything to the device, and restore a checkpoint of the same settings if there is one.

        Args:
            processes: those that train together.
            checkpoint: what the first process found; None in the others, which get their state from it.

        Raises:
            CheckpointError: it does not fit.
            DataError: the images have its classes in another order.
        """
        self.processes = processes
        self.network, self.optimizer = self.fabric.setup(self.module, self.optimizer)
        if self.settings.average > 0:
            self.average = MovingAverage(self.module, self.settings.average)
        if checkpoint is not None:
            self._restore(checkpoint)
        if processes.size > 1:
            self._share()
        if not processes.is_first:  # what a network draws for itself, as in dropout, differs between processes
            torch.manual_seed(derive_seed(self.settings.seed, "process", processes.rank, self.epoch, self.step))

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.module, checkpoint.network, self.settings.network)
        if self.average is not None:
            if checkpoint.average is None:
                raise CheckpointError(f"{self.file}: holds no moving average of the weights")
            for name, value in checkpoint.average.items():
                self.average.state[name].copy_(value)
        try:
            for saved, own in zip(checkpoint.optimizer["param_groups"], self.optimizer.param_groups, strict=True):
                saved["fused"] = own["fused"]  # a matter of this device, and not of the checkpoint's
            self.optimizer.load_state_dict(checkpoint.optimizer)
            torch.set_rng_state(checkpoint.random["cpu"])
            if torch.cuda.is_available():
                for device, state in enumerate(checkpoint.random["cuda"][: torch.cuda.device_count()]):
                    torch.cuda.set_rng_state(state, device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.file}: its optimizer or random states are not this training's") from error
        if checkpoint.teacher != (None if self.teacher is None else self.teacher.digest):
            raise CheckpointError(f"{self.file}: its training had another teacher than {self.settings.teacher}")
        if checkpoint.classifier != self.classifier_digest:
            raise CheckpointError(f"{self.file}: its training had another classifier than {self.settings.classifier}")
        if checkpoint.images != self.images_digest:
            raise CheckpointError(
                f"{self.file}: its training had other images than there are now: give the same, or train in another "
                "directory"
            )
        for what in self.code.keys() & checkpoint.code.keys():
            if self.code[what] != checkpoint.code[what]:
                raise CheckpointError(
                    f"{self.file}: the code of its {what} has changed since: train in another directory, or restore it"
                )
        if unlike := unlike_training(self.images, checkpoint.class_names, self.settings.dataset, str(self.file)):
            raise CheckpointError(f"{unlike}: give the same data, or train in another directory")
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.image_weights = checkpoint.image_weights
        self.sums = dict(checkpoint.sums)

    def _share(self) -> None:
        """Give all processes what the first one restored. They exchange numbers, no files, which could hold anything.

        The checkpoint's sums are those over all processes; the first goes on from them, the others from 0.
        """
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        moving = sorted({name for each in parameters for name in self.optimizer.state.get(each, {})})
        own = [self.epoch, self.step, list(self.sums), moving, self.image_weights is not None]
        self.epoch, self.step, names, moving, weighted = self.processes.all_gather(own)[0]
        if not self.processes.is_first:
            self.sums = dict.fromkeys(names, 0.0)
            self.image_weights = torch.zeros(len(self.indices), dtype=torch.float64) if weighted else None
        if self.image_weights is not None:
            self.processes.broadcast([self.image_weights])
        self.processes.broadcast(self.module.state_dict().values())
        if self.average is not None:
            self.processes.broadcast(self.average.state.values())
        for name in moving:
            states = [self.optimizer.state[each] for each in parameters]
            for state, each in zip(states, parameters, strict=True):
                if state.get(name) is None:  # Adam counts its steps in one number per parameter
                    count = torch.zeros((), dtype=torch.float32, device=each.device)  # on a GPU, where it is fused
                    state[name] = count if name == "step" else torch.zeros_like(each)
            self.processes.broadcast(state[name] for state in states)

    def share_statistics(self) -> None:
        """Give all processes, and the moving average of the weights, the same running statistics of batch norm."""
        self.processes.average_statistics(self.module)
        if self.average is not None:
            self.average.copy_buffers(self.module)

    def save(self, sums: dict[str, float]) -> None:
        """Write the checkpoint, in the first process. All processes must call this.

        Args:
            sums: of the running epoch, over all processes.
        """
        self.share_statistics()
        if not self.processes.is_first:
            return
        checkpoint = Checkpoint(
            settings=self.settings.tables(),
            num_classes=self.num_classes,
            shape=self.shape,
            epoch=self.epoch,
            step=self.step,
            network=self.module.state_dict(),
            average=None if self.average is None else self.average.state,
            optimizer=self.optimizer.state_dict(),
            random={
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            sums=sums,
            image_weights=self.image_weights,
            teacher=None if self.teacher is None else self.teacher.digest,
            classifier=self.classifier_digest,
            class_names=list(self.images.class_names),
            images=self.images_digest,
            code=self.code,
        )
        save_checkpoint(checkpoint, self.file)


def couples_images(module: nn.Module) -> bool:
    """Return whether the images of a batch change each other's logits in training."""
    return any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in module.modules())


def _code_of(module: nn.Module | None, settings: TrainingSettings) -> dict[str, str]:
    """Return the digests of code that is not this package's, which may change while a training is interrupted.

    Args:
        module: a new network of the settings' name, which no image has passed yet; None where one was given in Python.
        settings: of the training.
    """
    code, method = {}, type(settings.objective)
    if ":" in settings.network and module is not None:
        code["network"] = code_digest(module)
    if method is not OBJECTIVES.get(method.name):
        code["method"] = class_digest(method)
    return code


def _check_network(module: nn.Module, settings: TrainingSettings, fabric: Any) -> None:
    """Refuse settings that do not fit the network or the devices."""
    independent = fabric.world_size == 1 and not couples_images(module)
    for name in ("easy_fraction", "backward_fraction"):
        require(
            getattr(settings, name) == 1 or independent,
            f"{name} is for one process, and for networks without batch norm, which couples images",
        )
    random = any(isinstance(each, nn.modules.dropout._DropoutNd) for each in module.modules())
    require(
        settings.backward_fraction == 1 or not random,
        "backward_fraction evaluates the network twice, so it is for networks without dropout",
    )
    if settings.sync_batch_norm:
        require(
            fabric.device.type == "cuda",
            "sync_batch_norm is for GPUs: PyTorch has no synchronised batch norm for the CPU",
        )
        require(settings.micro_batch == 0, "`sync_batch_norm` and `micro_batch` exclude each other: give one of them")
