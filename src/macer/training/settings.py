"""Everything that decides the result of a training run."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from macer.errors import UnknownName
from macer.models.normalization import NORMALISATIONS
from macer.objectives import OBJECTIVES, Objective
from macer.runs.settings import Settings, default_table, from_table, option, require, to_table

MACHINE_SETTINGS = frozenset({"root", "device", "devices", "num_nodes", "compile", "checkpoint_every"})
"""Settings that may differ when a run goes on: where the data lies, what computes, how often that is saved."""
DATA, NETWORK, OPTIMISATION, MACHINE = "Data", "Network", "Optimisation", "Machine"
"""The groups of options in `macer train --help`."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """What is trained, on what, and how; the method's own numbers are in `objective`.

    Defaults are those of the original's main program.
    """

    objective: Objective
    dataset: str = option("cifar10", "data set", panel=DATA)
    root: str | None = option(None, "directory of the data set", panel=DATA)
    num_images: int = option(0, "train on the first images of the split only, this many; 0: all", least=0, panel=DATA)
    network: str = option("resnet110", "network: a name, or package.module:function", panel=NETWORK)
    normalisation: str | None = option(
        None, f"layer in front of the network: {', '.join(NORMALISATIONS)}", panel=NETWORK
    )
    init: str | None = option(None, "checkpoint whose weights training starts from", panel=NETWORK)
    epochs: int = option(440, "number of passes over the training images", least=1, panel=OPTIMISATION)
    batch_size: int = option(64, "images per optimiser step", least=1, panel=OPTIMISATION)
    micro_batch: int = option(0, "images per backward pass; 0: as many as suit the device", least=0, panel=MACHINE)
    easy_share: float = option(
        1.0, "share of the easy images, by the loss of one noisy copy, that a step is made for", above=0, most=1
    )
    backward_share: float = option(
        1.0, "share of noisy images that a backward pass is made for, drawn by gradient", above=0, most=1
    )
    lr: float = option(
        0.01, "learning rate at the start (milestones) or at its peak (one-cycle)", above=0, panel=OPTIMISATION
    )
    schedule: Literal["milestones", "one-cycle"] = option(
        "milestones", "course of the learning rate", panel=OPTIMISATION
    )
    lr_milestones: tuple[int, ...] = option(
        (200, 400), "epochs after which the learning rate drops (milestones)", panel=OPTIMISATION
    )
    lr_decay: float = option(0.1, "factor of each drop (milestones)", above=0, most=1, panel=OPTIMISATION)
    momentum: float = option(0.9, "momentum of SGD", least=0, below=1, panel=OPTIMISATION)
    nesterov: bool = option(False, "use Nesterov's momentum", panel=OPTIMISATION)
    weight_decay: float = option(5e-4, "weight decay (L2 penalty)", least=0, panel=OPTIMISATION)
    clip: float = option(
        0.0, "largest norm of the gradient, longer ones are scaled down; 0: no clipping", least=0, panel=OPTIMISATION
    )
    average: float = option(
        0.0,
        "decay of an exponential moving average of the weights, which is then what is certified; 0: none",
        least=0,
        below=1,
        panel=OPTIMISATION,
    )
    peek: int = option(
        0, "hold so many training images back, and estimate the ACR on them after each epoch", least=0, panel=DATA
    )
    seed: int = option(0, "seed of the initial weights, the order of images, augmentation and noise")
    noise_seeds: Literal["step", "image"] = option(
        "step", "noise drawn a step (and process), or an image: the same for any devices", panel=MACHINE
    )
    precision: str = option("32-true", "arithmetic, as Lightning Fabric names it", panel=MACHINE)
    sync_batch_norm: bool = option(False, "batch norm over all processes' images; on GPUs", panel=MACHINE)
    device: str = option("auto", "what computes: auto, cpu, cuda", panel=MACHINE)
    devices: int = option(
        0, "processes on each machine, a device each; 0: torchrun's or Slurm's, or 1", least=0, panel=MACHINE
    )
    num_nodes: int = option(0, "machines; 0: torchrun's or Slurm's, or 1", least=0, panel=MACHINE)
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "compile the network with torch.compile; auto: on GPUs", panel=MACHINE
    )
    checkpoint_every: float = option(
        5.0, "minutes between checkpoints, beside those at the end of epochs", above=0, panel=MACHINE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.backward_share == 1 or not self.objective.attacks,
            f"backward_share is for methods without attacks, not for {self.objective.name}",
        )
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0")
        require(
            self.precision != "16-mixed", "16-mixed needs a loss scale, which checkpoints do not hold: give bf16-mixed"
        )

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
