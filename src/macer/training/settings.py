"""Everything that decides the result of a training run."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from macer import data, models
from macer.data import LabelledImages
from macer.errors import SettingsError
from macer.models.normalization import NORMALISATIONS
from macer.objectives import OBJECTIVES, Denoise, Macer, Objective, method_of
from macer.objectives.find import find_method, path_of
from macer.runs.settings import (
    DATA,
    DataOptions,
    Settings,
    default_table,
    from_table,
    option,
    require,
    to_table,
)

MACHINE_SETTINGS = frozenset({"root", "device", "devices", "num_nodes", "compile", "checkpoint_every"})
"""Settings that may differ when a run is resumed: where the data lies, what computes, how often that is saved."""
NETWORK, STEPS, SHORTCUTS, MACHINE = "Network", "Optimisation", "Faster steps", "Machine"
"""The groups of options in `macer train --help`."""


@dataclass(frozen=True, kw_only=True)
class _DataSet(Settings):
    """A base of its own, so that the data set comes before the options that few need of it, also in `--help`."""

    dataset: str = option(
        "cifar10", "Name of the data set, or hf:NAME for one of Hugging Face's Hub or of a directory.", panel=DATA
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(DataOptions, _DataSet):
    """What is trained, on what, and how; the method's own numbers are in `objective`.

    Defaults are those of the original's main program.
    """

    objective: Objective
    num_images: int = option(0, "Number of training images, the first of the split; 0: all.", least=0, panel=DATA)
    validation_images: int = option(
        0, "Number of training images to hold out, on which ACR is estimated after each epoch.", least=0, panel=DATA
    )
    teacher: str | None = option(
        None, "File of a teacher's votes on the training images, which `macer teacher` writes (cat-rs).", panel=DATA
    )
    network: str = option(
        "resnet110",
        "Name of the network, or package.module:function. [default: resnet110; denoiser: dncnn]",
        panel=NETWORK,
    )
    normalisation: str | None = option(
        None, f"Layer in front of the network: {', '.join(NORMALISATIONS)}.", panel=NETWORK
    )
    init: str | None = option(None, "Checkpoint whose weights training starts from.", panel=NETWORK)
    start_epoch: int = option(
        0, "Epochs that the weights of --init were trained for; epochs are counted from there.", least=0, panel=NETWORK
    )
    classifier: str | None = option(
        None,
        "Classifier behind the denoiser, as macer certify takes it: train the denoiser to keep its answers (denoiser).",
        panel=NETWORK,
    )
    epochs: int = option(440, "Number of passes over the training images.", least=1, panel=STEPS)
    batch_size: int = option(64, "Images per batch.", least=1, panel=STEPS)
    steps_per_batch: int = option(
        1,
        "Optimiser steps per batch, each on an equal part of it. Released code of Consistency, SmoothAdv, SmoothMix, "
        "CAT-RS and hard data takes as many as there are noisy copies of each image.",
        least=1,
        panel=STEPS,
    )
    optimizer: Literal["sgd", "adam"] = option("sgd", "Optimiser: SGD with momentum, or Adam.", panel=STEPS)
    lr: float = option(0.01, "Learning rate: the first (milestones), or the highest (one-cycle).", above=0, panel=STEPS)
    schedule: Literal["milestones", "one-cycle"] = option(
        "milestones", "How the learning rate changes: in drops, or in one linear rise and a cosine fall.", panel=STEPS
    )
    lr_milestones: tuple[int, ...] = option(
        (200, 400), "Epochs after which the learning rate drops (milestones), such as 200,400.", panel=STEPS
    )
    lr_decay: float = option(
        0.1, "Factor that each drop multiplies the learning rate with (milestones).", above=0, most=1, panel=STEPS
    )
    momentum: float = option(0.9, "Momentum of SGD.", least=0, below=1, panel=STEPS)
    nesterov: bool = option(False, "Use Nesterov's momentum.", panel=STEPS)
    weight_decay: float = option(5e-4, "Weight decay.", least=0, panel=STEPS)
    clip: float = option(
        0.0, "Largest norm of the gradient; a longer one is scaled down to it; 0: no clipping.", least=0, panel=STEPS
    )
    average: float = option(
        0.0,
        "Decay, per step, of a moving average of the weights, which is then certified; 0: no average.",
        least=0,
        below=1,
        panel=STEPS,
    )
    seed: int = option(0, "Seed of the initial weights, the order of images, augmentation and noise.", panel=STEPS)
    easy_fraction: float = option(
        1.0,
        "Fraction of the easy images of a batch that a step uses, with larger weight; easy: a cross-entropy below "
        "0.001 on one noisy copy. The expected gradient stays the same, except with --clip. 1: all.",
        above=0,
        most=1,
        panel=SHORTCUTS,
    )
    backward_fraction: float = option(
        1.0,
        "Fraction of the noisy images that get a backward pass, drawn in proportion to their gradient at the logits. "
        "The expected gradient stays the same, except with --clip. 1: all.",
        above=0,
        most=1,
        panel=SHORTCUTS,
    )
    micro_batch: int = option(
        0,
        "Images per forward and backward pass, whose gradients a step adds up; 0: as many as the device's cache or "
        "memory suits.",
        least=0,
        panel=MACHINE,
    )
    noise_per: Literal["step", "image"] = option(
        "step",
        "Draw noise from one seed per step and process (faster), or from one per image, which is the same for any "
        "number of processes.",
        panel=MACHINE,
    )
    precision: str = option(
        "32-true",
        "Arithmetic, as Lightning Fabric names it, such as 32-true or bf16-mixed; auto: bf16-mixed where the processor "
        "is faster in it, which is recorded.",
        panel=MACHINE,
    )
    sync_batch_norm: bool = option(
        False, "Compute the statistics of batch norm over all processes (GPUs only).", panel=NETWORK
    )
    device: str = option("auto", "Device: cpu, cuda, or auto: a GPU if there is one.", panel=MACHINE)
    devices: int = option(
        0,
        "Processes per machine, each with its own device; 0: as torchrun or Slurm says, or 1.",
        least=0,
        panel=MACHINE,
    )
    num_nodes: int = option(0, "Number of machines; 0: as torchrun or Slurm says, or 1.", least=0, panel=MACHINE)
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network with torch.compile; auto: on GPUs.", panel=MACHINE
    )
    checkpoint_every: float = option(
        5.0, "Minutes between checkpoints within an epoch; there is also one after each epoch.", above=0, panel=MACHINE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.start_epoch < self.epochs,
            f"epochs {self.epochs} leaves nothing to train after start_epoch {self.start_epoch}",
        )
        require(
            self.backward_fraction == 1 or not self.objective.attacks,
            f"backward_fraction is for methods without attacks, not for {self.objective.name}",
        )
        require(
            self.batch_size % self.steps_per_batch == 0,
            f"steps_per_batch {self.steps_per_batch} does not divide batch_size {self.batch_size}",
        )
        takers = ", ".join(name for name, method in OBJECTIVES.items() if method.takes_teacher)
        require(
            self.teacher is None or self.objective.takes_teacher,
            f"teacher is for {takers}, not for {self.objective.name}",
        )
        self._check_denoiser()
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0")
        require(
            self.precision != "16-mixed",
            "16-mixed needs a loss scale, which checkpoints do not hold: give `precision=bf16-mixed`",
        )

    def _check_denoiser(self) -> None:
        """Refuse settings of classifiers for a denoiser, and the other way round."""
        denoises = self.objective.denoises
        require(self.classifier is None or denoises, f"classifier is for denoiser, not for {self.objective.name}")
        kinds = ("classifiers", models.NETWORKS), ("denoisers", models.DENOISERS)
        kind, networks = kinds[denoises]
        require(
            ":" in self.network or self.network in networks or self.network not in models.NETWORKS | models.DENOISERS,
            f"{self.objective.name} trains {kind}, and {self.network} is none: choose one of {', '.join(networks)}",
        )
        for_classifiers = {
            "validation_images": 0,
            "easy_fraction": 1.0,
            "backward_fraction": 1.0,
            "normalisation": None,
        }
        for name, neutral in for_classifiers.items():
            require(not denoises or getattr(self, name) == neutral, f"{name} is for classifiers, not for a denoiser")

    def load(self, split: str) -> LabelledImages:
        """Return one split of the data set. Errors as for `macer.data.load`."""
        return data.load(self.dataset, self.root, split, **self.data_options)

    @property
    def images_per_step(self) -> int:
        """Images of each optimiser step, over all processes; the last step of an epoch may have fewer."""
        return self.batch_size // self.steps_per_batch

    def validation_indices(self, total: int) -> Int64[Tensor, " validation_images"]:
        """Return the indices of the images that training never sees, spread evenly over the split.

        Args:
            total: images in the split.

        Raises:
            SettingsError: that would be all of them.
        """
        held_out = self.validation_images
        require(held_out < total, f"validation_images {held_out} leaves nothing of the {total} training images")
        return (torch.arange(held_out) * total + total // 2) // max(held_out, 1)

    def training_indices(self, total: int) -> Int64[Tensor, " images"]:
        """Return the indices of the images that are trained on.

        Args:
            total: images in the split.

        Raises:
            SettingsError: there are fewer than num_images.
        """
        kept = torch.ones(total, dtype=torch.bool)
        kept[self.validation_indices(total)] = False
        indices = kept.nonzero().squeeze(1)
        rest = f" that validation_images {self.validation_images} leaves" if self.validation_images else ""
        require(
            self.num_images <= len(indices),
            f"num_images {self.num_images} is more than the {len(indices)} training images{rest}",
        )
        return indices[: self.num_images or None]

    def tables(self) -> dict[str, Any]:
        """Return the settings as TOML tables [training] and [objective]."""
        training = {key: value for key, value in to_table(self).items() if key != "objective"}
        path = path_of(type(self.objective))
        own = {} if path is None else {"class": path}
        return {"training": training, "objective": {"name": self.objective.name, **own, **to_table(self.objective)}}

    def defaults(self) -> dict[str, Any]:
        """Return the same tables, of the defaults of all settings that have one."""
        return {"training": default_table(type(self)), "objective": default_table(type(self.objective))}


_TRAINING_NAMES = frozenset(field.name for field in fields(TrainingSettings))
OTHER_KEYWORDS = ("recipe", "images", "method", "out", "class_names", "progress")
"""What `macer.train` takes beside settings."""


def check_options(method: type[Objective]) -> None:
    """Refuse a training method with an option that training itself has.

    Raises:
        SettingsError: it has one; the message names it.
    """
    for name in sorted({field.name for field in fields(method)} & _TRAINING_NAMES.union(OTHER_KEYWORDS)):
        raise SettingsError(f"the training method {method.__qualname__}: rename {name}, which training itself has")


for _method in OBJECTIVES.values():
    check_options(_method)


@dataclass(frozen=True, kw_only=True)
class TrainedWith(DataOptions):
    """What the file of a network says of its training. None: it does not say."""

    dataset: str | None = None
    network: str | None = None
    normalisation: str | None = None
    init: str | None = None
    start_epoch: int = 0
    epochs: int | None = None
    method: str | None = None
    sigma: float | None = None
    beta: float | None = None

    @classmethod
    def read(cls, tables: dict[str, Any]) -> "TrainedWith":
        """Return what the tables [training] and [objective] say, either of which may be missing."""
        objective = dict(tables.get("objective", {}))
        said = {**tables.get("training", {}), **objective, "method": method_of(objective)}
        return cls(**{field.name: said[field.name] for field in fields(cls) if field.name in said})

    def where(self, dataset: str) -> dict[str, Any]:
        """Return root and options of the data set that was trained on, by name; nothing for another one."""
        return {"root": self.root, **self.data_options} if dataset == self.dataset else {}

    def was_on(self, dataset: str, root: str | None) -> bool:
        """Return whether training was on this data set in this directory, however its path is written."""
        one, other = (None if each is None else Path(each).resolve() for each in (self.root, root))
        return (self.dataset, one) == (dataset, other)

    def check_share(self, source: str, share: float | None) -> None:
        """Refuse to hold out another share of the images that were trained on than training did.

        Args:
            source: the file of the network, for messages.
            share: the fraction that is held out for tests now.

        Raises:
            SettingsError: it is another one.
        """
        if self.split_share not in (None, share):
            raise SettingsError(
                f"{source} was trained with split_share {self.split_share}: give `split_share={self.split_share}`, "
                "because with another one images that it was trained on are among the test images"
            )


def resolve(
    tables: dict[str, Any], method: str | type[Objective] | None, chosen: dict[str, Any], *, where: str
) -> TrainingSettings:
    """Return a recipe's settings with single ones replaced.

    Args:
        tables: [training] and [objective], either of which may be missing.
        method: the training method, as `find_method` takes it; None keeps the tables', or MACER.
        chosen: settings by name, of the training or of the method.
        where: what to call the tables in an error.

    Raises:
        SettingsError: a setting is unknown to the method, or impossible.
    """
    objective = dict(tables.get("objective", {}))
    recorded = objective.pop("name", Macer.name)
    found = find_method(recorded, f"{where}: ") if method is None else find_method(method)
    check_options(found)
    if found.name != recorded:
        objective = {key: value for key, value in objective.items() if key == "sigma"}
    training = dict(tables.get("training", {}))
    if found is Denoise:
        training = {"network": next(iter(models.DENOISERS))} | training
    names = [field.name for field in fields(found)]
    for key, value in chosen.items():
        if key not in _TRAINING_NAMES and key not in names:
            raise SettingsError(f"{key} is no setting of {found.name}, which has {', '.join(names)}")
        (training if key in _TRAINING_NAMES else objective)[key] = value
    settings = from_table(found, objective, f"{where}: {found.name}")
    return from_table(TrainingSettings, {**training, "objective": settings}, where)
