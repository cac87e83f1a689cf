"""Export a trained network to one file without code, with weights in half precision and its settings."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from macer.errors import CheckpointError, SettingsError
from macer.files.reading import check_regular
from macer.files.replacing import replacing
from macer.models.weights import readable
from macer.runs.checkpoint import are_class_names
from macer.runs.run import Run
from macer.training.settings import MACHINE_SETTINGS, resolve

_KEY = "macer"  # of the header's entry


def export(run: Path, file: Path) -> None:
    """Write the network of a run to a `.safetensors` file whose header contains its settings.

    Weights are rounded to half precision. This is another network than that of the run: certify the file, not the run.

    Args:
        run: directory of a training run.
        file: file to write, which ends in .safetensors.

    Raises:
        SettingsError: the name ends in something else, or the directory is not a run.
        CheckpointError: the run has no checkpoint, or a weight is too large for half precision.
        RecordsError: the metrics of the run cannot be read, or no epoch is done.
        OSError: the file cannot be written.
    """
    if file.suffix != ".safetensors":
        raise SettingsError(f"{file}: the name of exported weights ends in .safetensors")
    for needed in (Run(run).settings_file, Run(run).checkpoint_file):
        if not needed.is_file():
            raise SettingsError(f"{run}: not the directory of a training run (no {needed.relative_to(run)})")
    environment = Run(run).settings().get("environment", {})
    checkpoint = Run(run).checkpoint()
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in checkpoint.weights.items()
    }
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise CheckpointError(f"{run}: a weight is too large for half precision")
    curves = Run(run).metrics()
    header = {
        "network": {
            "num_classes": checkpoint.num_classes,
            "shape": list(checkpoint.shape),
            "epoch": checkpoint.epoch,
            "training_seconds": round(float(curves["seconds"].sum()), 3),
            "noisy_images": int(curves["noisy_images"].sum()),
            "class_names": checkpoint.class_names,
            "images": checkpoint.images,
        },
        "training": checkpoint.settings["training"],
        "objective": checkpoint.settings["objective"],
        "environment": environment,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, weights, portable(header))


def write(file: Path, weights: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write weights with a header, as `read_header` reads it.

    Raises:
        OSError: the file cannot be written; an older one is still there.
    """
    with replacing(file) as temporary:
        temporary.write_bytes(save(weights, metadata={_KEY: json.dumps(header)}))


def portable(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header without what names places of the machine that wrote it.

    Left out are the command line, the operating system, the directory of the data and the device; of the weights that
    training started from, of a teacher's votes and of a classifier, only the file's name stays.
    """
    training = {key: value for key, value in header["training"].items() if key not in MACHINE_SETTINGS}
    for key in {"init", "teacher", "classifier"} & training.keys():
        training[key] = Path(training[key]).name
    environment = {
        key: value for key, value in header.get("environment", {}).items() if key not in ("command", "platform")
    }
    return {**header, "training": training, "environment": environment}


def read_header(file: Path) -> dict[str, Any] | None:
    """Return the header that `export` wrote: tables network, training, objective and environment.

    Returns:
        The tables, or None for a `.safetensors` file of another program.

    Raises:
        CheckpointError: the file cannot be read, or its header contradicts itself.
    """
    with readable(file, "safetensors file"):
        check_regular(file)
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
    if text is None:
        return None
    try:
        header = json.loads(text)
        network, training = header["network"], header["training"]
        numbers = [network["num_classes"], network["epoch"], *network["shape"]]
        texts = [training.get(key, "") for key in ("root", "init", "teacher", "classifier", "normalisation")]
        texts += [network.get("images") or "", *header.get("environment", {}).values()]
        sound = len(numbers) == 5 and all(type(number) is int and number > 0 for number in numbers)
        sound = sound and (
            "class_names" not in network or are_class_names(network["class_names"], network["num_classes"])
        )
        if not sound or not all(isinstance(text, str) for text in texts):
            raise ValueError("values of other types")
        objective = header["objective"]
        if not isinstance(objective["name"], str):
            raise ValueError("an objective without its name")
        if "class" not in objective:  # the numbers of a method that this machine need not have stay unread
            resolve(header, None, {}, where=str(file))
        elif type(objective["sigma"]) is not float:
            raise ValueError("an objective without its sigma")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SettingsError) as error:
        raise CheckpointError(f"{file}: its header is not one that macer writes ({error})".splitlines()[0]) from error
    return header
