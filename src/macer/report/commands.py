"""The commands that repeat a training and its certification, from the recorded settings."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from macer.certification import CertificationSettings
from macer.data.own import PREFIX as OWN
from macer.errors import SettingsError
from macer.files.printable import printable
from macer.objectives import OBJECTIVES
from macer.report.sources import Source
from macer.results.times import Training
from macer.runs.run import Run
from macer.runs.settings import ImageChoice, flag, options_of
from macer.smoothing.words import SCHEME
from macer.training import TrainingSettings


def train_command(training: Training) -> str | None:
    """Return the `macer train` command with these settings, or None if this version does not know them.

    Options at their defaults are left out. Files and directories are named as they were recorded.
    """
    method = training.objective.get("name")
    if method not in OBJECTIVES:
        return None
    objective = {key: value for key, value in training.objective.items() if key != "name"}
    options = [
        _options(TrainingSettings, {**training.settings, **_device(training.environment)}),
        _options(OBJECTIVES[method], objective),
    ]
    return _line(["macer", "train", "--method", method, "--out", str(training.run)], options)


def certify_command(source: Source) -> str | None:
    """Return the `macer certify` command with these settings, or None if this version does not know them."""
    table = dict(source.certification)
    names = {field.name for field in dataclasses.fields(CertificationSettings)}
    if not {"dataset", "checkpoint", "network", "sigma", "num_img", "total"} <= table.keys() <= names:
        return None
    if table.get("noise") != SCHEME:  # this version draws other noise
        return None
    if str(table["dataset"]).startswith(OWN):  # these images were given in Python
        return None
    training = source.training
    out = source.file.parent if table.get("shard") is None else source.file.parent.parent
    known = {} if training is None else {**training.settings, "beta": 16.0, **training.objective}
    same_network = training is not None and _is_last_of(training, table["checkpoint"])
    words = ["macer", "certify", str(training.run if same_network and training else table["checkpoint"])]
    if not (same_network and training and out == training.run.certification.path):
        words += ["--out", str(out)]
    for name in ("dataset", "network"):
        if not same_network or table[name] != known.get(name) or ":" in str(table[name]):
            words += [f"--{name}", str(table[name])]
    if not same_network or table["sigma"] != known.get("sigma"):
        words += ["--sigma", str(table["sigma"])]
    if table.get("mode", "hard") != "hard" and not (same_network and table.get("beta") == known["beta"]):
        words += ["--beta", str(table.get("beta", 16.0))]
    if device := _device(source.environment):
        words += ["--device", device["device"]]
    # what is no option follows from the target, as the network's digest does
    known_by_target = names - options_of(CertificationSettings).keys() | {"dataset", "network", "sigma", "beta"}
    if same_network and table.get("root") == known.get("root"):
        known_by_target |= {"root"}
    try:
        choice = ImageChoice(start_img=table.get("start_img", 0), skip=table.get("skip", 1))
        if table["num_img"] == choice.count(table["total"], "the split"):
            known_by_target |= {"num_img"}
    except (SettingsError, TypeError):
        return None
    left = {key: value for key, value in table.items() if key not in known_by_target}
    return _line(words, [_options(CertificationSettings, left)])


def _is_last_of(training: Training, checkpoint: Any) -> bool:
    """Return whether a checkpoint is the run's own last one, wherever the run was when that was recorded."""
    return Path(str(checkpoint)).parts[-3:] == Run(training.run.name).checkpoint_file.parts


def _device(environment: dict[str, Any]) -> dict[str, str]:
    """Return the kind of device, as a setting: a CPU and a GPU round differently."""
    first = str(environment.get("device", "")).split(" ")[0]
    return {"device": first} if first in ("cpu", "cuda") else {}


def _options(cls: type, table: dict[str, Any]) -> list[str] | None:
    """Return a table's settings as options, without those at their defaults; None if `cls` does not know one."""
    options, words = options_of(cls), list[str]()
    for key, value in table.items():
        if key not in options:
            return None
        default = options[key].default
        value = tuple(value) if isinstance(value, list) else value
        if value == default:
            continue
        if isinstance(value, bool):
            words.append(flag(key, value))
        else:
            words += [flag(key), ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def _line(words: list[str], options: list[list[str] | None]) -> str | None:
    """Return a line for a shell, or None if some options are not known."""
    for each in options:
        if each is None:
            return None
        words = [*words, *each]
    return printable(shlex.join(words))


def typed_command(environment: dict[str, Any]) -> str | None:
    """Return the recorded command line, or None if there is none or it was not macer's."""
    text = environment.get("command")
    return printable(text) if isinstance(text, str) and text.startswith("macer ") else None
