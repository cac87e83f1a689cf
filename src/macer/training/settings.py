"""Everything that decides the result of a training run."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from macer.errors import UnknownName
from macer.models.normalization import NORMALISATIONS
from macer.objectives import OBJECTIVES, Objective
from macer.runs.settings import default_table, from_table, option, require, to_table

MACHINE_SETTINGS = frozenset({"root", "device", "devices", "num_nodes", "compile", "checkpoint_every"})
"""Settings that may differ when a run goes on: where the data lies, what computes, how often that is saved."""
CHOICES = {
    "schedule": ("milestones", "one-cycle"),
    "noise_seeds": ("step", "image"),
    "compile": ("auto", "yes", "no"),
}
"""Settings that are one of a few words."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What is trained, on what, and how; the method's own numbers are in `objective`.

    Defaults are those of the original's main program.
    """

    objective: Objective
    dataset: str = option("cifar10", "data set")
    root: str | None = option(None, "directory of the data set")
    num_images: int = option(0, "train on the first so many images of the split; 0: on all")
    network: str = option("resnet110", "network: a name, or package.module:function")
    normalisation: str | None = option(None, f"layer in front of the network: {', '.join(NORMALISATIONS)}")
    init: str | None = option(None, "checkpoint whose weights training starts from")
    epochs: int = option(440, "passes over the training images")
    batch_size: int = option(64, "images a step")
    micro_batch: int = option(0, "images a backward pass; 0: as fits the machine, where that changes nothing")
    easy_share: float = option(1.0, "share of the easy images, by the loss of one noisy copy, that a step is made for")
    backward_share: float = option(1.0, "share of noisy images that a backward pass is made for, drawn by gradient")
    lr: float = option(0.01, "learning rate at the start (milestones) or at its peak (one-cycle)")
    schedule: str = option("milestones", "learning rate schedule: milestones or one-cycle")
    lr_milestones: tuple[int, ...] = option((200, 400), "epochs after which the learning rate drops")
    lr_decay: float = option(0.1, "factor of each drop")
    momentum: float = option(0.9, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov's momentum")
    weight_decay: float = option(5e-4, "weight decay")
    clip: float = option(0.0, "largest norm of the gradient; 0: no clipping")
    average: float = option(0.0, "decay of the weights' moving average, which is then certified; 0: none")
    peek: int = option(0, "hold so many training images back, and estimate the ACR on them after each epoch")
    seed: int = option(0, "seed of initial weights, order, augmentation and noise")
    noise_seeds: str = option("step", "noise drawn a step (and process), or an image: the same for any devices")
    precision: str = option("32-true", "arithmetic, as Lightning Fabric names it")
    sync_batch_norm: bool = option(False, "batch norm over all processes' images; on GPUs")
    device: str = option("auto", "what computes: auto, cpu, cuda")
    devices: int = option(0, "processes on each machine, a device each; 0: torchrun's or Slurm's, or 1")
    num_nodes: int = option(0, "machines; 0: torchrun's or Slurm's, or 1")
    compile: str = option("auto", "compile the network: yes, no, or auto: on GPUs")
    checkpoint_every: float = option(5.0, "minutes between checkpoints, beside those at the end of epochs")

    def __post_init__(self) -> None:
        require(self.num_images >= 0, f"num_images must not be negative, not {self.num_images}")
        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        require(self.micro_batch >= 0, f"micro_batch must not be negative, not {self.micro_batch}")
        require(0 < self.easy_share <= 1, f"easy_share must lie in (0, 1], not {self.easy_share:g}")
        require(0 < self.backward_share <= 1, f"backward_share must lie in (0, 1], not {self.backward_share:g}")
        require(
            self.backward_share == 1 or not self.objective.attacks,
            f"backward_share is for methods without attacks, not for {self.objective.name}",
        )
        require(self.lr > 0, f"lr must be positive, not {self.lr:g}")
        for name, words in CHOICES.items():
            value = getattr(self, name)
            require(value in words, f"{name} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")
        require(0 < self.lr_decay <= 1, f"lr_decay must lie in (0, 1], not {self.lr_decay:g}")
        require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), not {self.momentum:g}")
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, not {self.weight_decay:g}")
        require(self.clip >= 0, f"clip must not be negative, not {self.clip:g}")
        require(0 <= self.average < 1, f"average must lie in [0, 1), not {self.average:g}")
        require(
            self.precision != "16-mixed", "16-mixed needs a loss scale, which checkpoints do not hold: give bf16-mixed"
        )
        require(self.peek >= 0, f"peek must not be negative, not {self.peek}")
        require(self.devices >= 0, f"devices must not be negative, not {self.devices}")
        require(self.num_nodes >= 0, f"num_nodes must not be negative, not {self.num_nodes}")
        require(self.checkpoint_every > 0, f"checkpoint_every must be positive, not {self.checkpoint_every:g}")

    def held_back(self, total: int) -> Int64[Tensor, " peek"]:
        """The indices of the images, spread evenly over the split, that training never sees."""
        require(self.peek < total, f"peek {self.peek} leaves nothing of the {total} training images")
        return (torch.arange(self.peek) * total + total // 2) // max(self.peek, 1)

    def trained_on(self, total: int) -> Int64[Tensor, " images"]:
        """The indices of the images of a split that are trained on.

        Raises:
            SettingsError: there are not as many as asked for.
        """
        kept = torch.ones(total, dtype=torch.bool)
        kept[self.held_back(total)] = False
        indices = kept.nonzero().squeeze(1)
        held_back = f" that are not held back for peek {self.peek}" if self.peek else ""
        require(
            self.num_images <= len(indices),
            f"num_images {self.num_images} is more than the {len(indices)} training images{held_back}",
        )
        return indices[: self.num_images or None]

    def tables(self) -> dict[str, Any]:
        """The settings as TOML tables [training] and [objective]."""
        training = {key: value for key, value in to_table(self).items() if key != "objective"}
        return {"training": training, "objective": {"name": self.objective.name, **to_table(self.objective)}}

    def defaults(self) -> dict[str, Any]:
        """The same tables, of the defaults of all settings that have one."""
        return {"training": default_table(type(self)), "objective": default_table(type(self.objective))}


def settings_from_tables(tables: dict[str, Any], where: str) -> TrainingSettings:
    """The inverse of `TrainingSettings.tables`.

    Raises:
        SettingsError: a table or the objective's name is missing or unknown, or a setting is impossible.
    """
    objective_table = dict(tables.get("objective", {}))
    name = objective_table.pop("name", None)
    if name not in OBJECTIVES:
        raise UnknownName(f"{where}: no training method is named {name!r}: choose one of {', '.join(OBJECTIVES)}")
    objective = from_table(OBJECTIVES[name], objective_table, where)
    return from_table(TrainingSettings, {**tables.get("training", {}), "objective": objective}, where)


def resolve(tables: dict[str, Any], method: str | None, chosen: dict[str, Any], *, where: str) -> TrainingSettings:
    """A recipe's tables with single settings put over them.

    Args:
        tables: [training] and [objective], either of which may be missing.
        method: the training method; None keeps the tables', or MACER.
        chosen: settings by field, of the training or of the method.
        where: what to call the tables in an error.

    Raises:
        SettingsError: a setting is unknown to the method, or impossible.
    """
    objective = dict(tables.get("objective", {}))
    if method is not None and objective.get("name", method) != method:
        objective = {key: value for key, value in objective.items() if key == "sigma"}
    objective["name"] = method or objective.get("name", "macer")
    training = dict(tables.get("training", {}))
    training_names = {field.name for field in fields(TrainingSettings)}
    for key, value in chosen.items():
        (training if key in training_names else objective)[key] = value
    return settings_from_tables({"training": training, "objective": objective}, where)
