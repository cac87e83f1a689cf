"""Find a trained network, given a run, a checkpoint, a program, a name in the zoo, or code."""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from macer import models
from macer.errors import CheckpointError, SettingsError
from macer.models.digest import digest
from macer.models.in_memory import module_name
from macer.models.normalization import Normalisation, behind, normalisation_named
from macer.models.openai_unet import is_openai
from macer.models.programs import Program, read_program
from macer.models.published import recognise
from macer.models.weights import read_safetensors, read_weights_file
from macer.pretrained import zoo
from macer.pretrained.exported import read_header
from macer.pretrained.found import FoundCode, FoundNetwork, FoundProgram, FoundWeights
from macer.runs.checkpoint import Checkpoint, is_checkpoint, parse_checkpoint
from macer.runs.run import Run
from macer.runs.settings import require
from macer.smoothing import SmoothedClassifier
from macer.smoothing.independence import check_modules
from macer.smoothing.network import evaluating


def find_network(
    target: str | os.PathLike[str] | None,
    network: str | nn.Module | None = None,
    normalisation: str | None = None,
    weights: str | None = None,
) -> FoundNetwork:
    """Return the network of a run, a file or a function.

    Args:
        target: one of
            - the directory of a run, or a checkpoint in it;
            - a checkpoint that others published (see `recognise`);
            - a program (see `read_program`), whose code is run;
            - zoo:NAME;
            - None, for a network that `network` returns with its weights.
        network: the name of the network or package.module:function, if the file does not say which network it is of,
            or to use another one than it says; or an `nn.Module` that takes the weights of the file, or, without a
            target, is the network.
        normalisation: name of the layer in front of a published network, a program or the network of a function.
            Default: for published files the usual one, as they do not record it; for others none. Files of this
            package record their normalisation, and any other one is refused.
        weights: key of the weights that are meant in a file that holds several: the last of the keys under which they
            lie, joined by dots. Default: the moving average where there is one; in checkpoints of this package,
            `network` and `average` are the keys.

    Raises:
        SettingsError: neither target nor network is given, there is no such normalisation or name in the zoo, the
            network was trained behind another normalisation, or it has a module that mixes the images of a batch.
        CheckpointError: there is no such file, it cannot be read, it is not known which network it is of, or the
            file of a network of the zoo is damaged.
        MissingLibrary: the library that runs a program is not installed.
    """
    if isinstance(target, Run) and network is None:
        network = target.network
    if isinstance(network, nn.Module):
        with evaluating(network):
            check_modules(network)
        return replace(find_network(target, module_name(network), normalisation, weights), module=network)
    layer = None if normalisation is None else normalisation_named(normalisation)
    found = _alone(target, network, layer)
    if found is not None:
        require(weights is None, f"{found.source}: {found.description}: there is no choice of weights")
        return found
    file = _file_of(Path(os.fspath(target or "")))
    content = read_weights_file(file)
    if is_checkpoint(content):
        return _ours(file, parse_checkpoint(content, file), network, layer, weights)
    return _published(file, content, network, layer, weights)


def named(model: str | os.PathLike[str], network: str | nn.Module | None = None) -> tuple[Any, Any]:
    """Return target and network, as `find_network` takes them, of a model that may be named in short.

    Args:
        model: a target of `find_network`, a network of the zoo by its bare name, or package.module:function.
        network: whose weights the target holds.
    """
    name = os.fspath(model)
    if not Path(name).exists():
        if name in zoo.names():
            return f"{zoo.PREFIX}{name}", network
        if network is None and ":" in name and not zoo.is_of_zoo(name):
            return None, name
    return model, network


def load_model(
    target: str | os.PathLike[str] | None,
    *,
    sigma: float | None = None,
    network: str | nn.Module | None = None,
    num_classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    normalisation: str | None = None,
    weights: str | None = None,
    device: str = "cpu",
) -> SmoothedClassifier:
    """Return the smoothed classifier of a trained network.

    >>> import macer
    >>> g = macer.load_model("mnist-macer-0.25")
    >>> g.sigma, g.num_classes
    (0.25, 10)

    Args:
        target: a run that `macer.train` returned, its directory, a checkpoint's or program's file, a network of the
            zoo by its name (`macer zoo` lists them), or package.module:function that returns a network with its
            weights; None for a network that `network` returns so.
        sigma: the noise level in units of [0, 1] pixels. Default: that of the training, which files of other programs
            do not record.
        network: the network that the weights belong to, if the file does not say: a name, package.module:function, or
            an `nn.Module`, of which a copy is used.
        num_classes: number of classes, if the file does not say.
        shape: (channels, height, width) of the images, if the file does not say.
        normalisation: the layer in front of a published network, by name. Default: that of the training; files of other
            programs do not record it, and a warning says which one is assumed.
        weights: key of the weights in a file that holds several, as for `find_network`.
        device: the device that computes, as PyTorch names it, such as "cuda".

    Raises:
        SettingsError: sigma is not known, or as for `find_network`.
        CheckpointError: there is no such network, or neither the file nor the call says its classes and images.
    """
    if target is not None:
        target, network = named(target, network)
    found = find_network(target, network, normalisation, weights)
    if found.doubt is not None:
        warnings.warn(found.doubt, stacklevel=2)
    sigma = found.sigma if sigma is None else sigma
    if sigma is None:
        raise SettingsError(f"{found.source} does not say with which sigma it was trained: give `sigma`")
    num_classes, shape = num_classes or found.num_classes, shape or found.shape
    if num_classes is None or shape is None:
        raise CheckpointError(f"{found.source}: {found.description}: give `num_classes` and `shape`")
    return SmoothedClassifier(found.build(num_classes, shape).to(device), sigma, num_classes, shape=shape)


def _alone(
    target: str | os.PathLike[str] | None, network: str | None, layer: Normalisation | None
) -> FoundNetwork | None:
    """Return a network that lies alone in its place: code, one of the zoo, an exported one or a program; or None."""
    if target is None:
        return _code(network, layer)
    target = os.fspath(target)
    if zoo.is_of_zoo(target):
        return _of_zoo(target, network, layer)
    file = _file_of(Path(target))
    if file.suffix.lower() == ".safetensors" and (header := read_header(file)) is not None:
        return _exported(file, header, network, layer)
    program = None if Path(target).is_dir() else read_program(file)  # a run's directory contains no code
    return None if program is None else _program(file, program, network, layer)


def _file_of(target: Path) -> Path:
    """Return the file of a network, given itself or a run's directory."""
    file = Run(target).checkpoint_file if target.is_dir() else target
    if not file.exists():
        if all((target / name).is_file() for name in ("config.json", "model.safetensors")):
            raise CheckpointError(f"{target}: a Hugging Face model: docs/your-classifier.md shows how to certify it")
        looked = "" if file == target else f" (looked for {file})"
        raise CheckpointError(f"{target}: no checkpoint there{looked}")
    return file


def _harmless(name: str, file: Path) -> str:
    """Return the name of a network, and refuse one that would run code because a file of unknown origin says so."""
    if name not in models.NETWORKS | models.DENOISERS:
        raise CheckpointError(
            f"{file}: its network is code or was given in Python, {name!r}: to allow that it is run, give the module "
            "in Python, or package.module:function, which builds it, as `network`"
        )
    return name


def _describe(file: Path, network: str, settings: dict[str, Any], epoch: int, layer: Normalisation | None) -> str:
    """Describe the network of a training in one line, and refuse another normalisation than that of the training."""
    name = settings["training"].get("normalisation")
    own = None if name is None else normalisation_named(name)
    if layer not in (None, own):
        raise SettingsError(f"{file}: was trained{behind(own) or ' without a normalisation'}, not{behind(layer)}")
    method, sigma = settings["objective"]["name"], settings["objective"]["sigma"]
    of = settings["training"].get("epochs", epoch)
    done = f"epoch {epoch}" if of == epoch else f"epoch {epoch} of {of}"
    return f"{network}{behind(own)} trained by {method} at sigma {sigma:g}, {done}"


def _ours(
    file: Path, checkpoint: Checkpoint, network: str | None, layer: Normalisation | None, key: str | None
) -> FoundWeights:
    name = network or _harmless(checkpoint.settings["training"]["network"], file)
    held = {"network": checkpoint.network, "average": checkpoint.average}
    weights = checkpoint.weights if key is None else held.get(key)
    if weights is None:
        names = " and ".join(each for each, value in held.items() if value is not None)
        raise CheckpointError(f"{file}: holds no weights under the key {key!r}; it holds {names}")
    average = "" if checkpoint.average is None else f", the {'network' if key == 'network' else 'moving average'}"
    return FoundWeights(
        source=str(file),
        description=_describe(file, name, checkpoint.settings, checkpoint.epoch, layer) + average,
        weights=weights,
        network=name,
        num_classes=checkpoint.num_classes,
        shape=checkpoint.shape,
        class_names=checkpoint.class_names,
        images=checkpoint.images,
        code=checkpoint.code.get("network"),
        settings=checkpoint.settings,
        epoch=checkpoint.epoch,
    )


def _exported(file: Path, header: dict[str, Any], network: str | None, layer: Normalisation | None) -> FoundWeights:
    name = network or _harmless(header["training"]["network"], file)
    settings = {table: header[table] for table in ("training", "objective")}
    about = header["network"]
    return FoundWeights(
        source=str(file),
        description=f"{_describe(file, name, settings, about['epoch'], layer)}, rounded to half precision",
        weights=read_safetensors(file),
        network=name,
        num_classes=about["num_classes"],
        shape=tuple(about["shape"]),
        class_names=about.get("class_names"),
        images=about.get("images"),
        settings=settings,
        epoch=about["epoch"],
    )


def _of_zoo(target: str, network: str | None, layer: Normalisation | None) -> FoundWeights:
    """Return a network of the zoo, after comparing its file with its card: safetensors files have no checksum."""
    file, card = zoo.weights_file(target), zoo.card(target)
    header = read_header(file) or {}
    damaged = CheckpointError(f"{file}: damaged: it differs from the description beside it; install macer again")
    if any(header.get(table) != card.get(table) for table in ("network", "training", "objective", "environment")):
        raise damaged
    found = _exported(file, header, network, layer)
    certified = {name: each.float() if each.is_floating_point() else each for name, each in found.weights.items()}
    if digest(certified) != card["certification"]["digest"]:
        raise damaged
    return replace(found, source=target)


def _published(
    file: Path, content: Any, network: str | None, layer: Normalisation | None, key: str | None
) -> FoundWeights:
    found = recognise(content, file, layer, key)
    name = network or found.network
    if name is None:
        advice = (
            "a diffusion model of OpenAI's, which does not say its noise levels and heads: name a function that "
            "returns a OneStepDiffusion of from_openai (docs/your-classifier.md)"
        )
        raise CheckpointError(
            f"{file}: {found.description}: {advice if is_openai(found.state_dict) else 'give its `network`'}"
        )
    known = name == found.network
    return FoundWeights(
        source=str(file),
        description=found.description,
        weights=found.state_dict,
        network=name,
        num_classes=found.num_classes if known else None,
        shape=found.shape if known else None,
        normalisation=found.normalisation,
        epoch=found.epoch,
    )


def _program(file: Path, program: Program, network: str | None, layer: Normalisation | None) -> FoundProgram:
    if network is not None:
        raise CheckpointError(f"{file}: {program.kind} program, which contains its network: leave {network!r} out")
    return FoundProgram(
        source=str(file),
        description=f"{program.kind} program{behind(layer)}",
        network=program.kind,
        num_classes=program.num_classes,
        shape=program.shape,
        normalisation=layer,
        program=program,
    )


def _code(network: str | None, layer: Normalisation | None) -> FoundCode:
    if network is None or ":" not in network:
        raise SettingsError("give a run, a file, or package.module:function that returns a network with its weights")
    return FoundCode(
        source=network, description=f"the network of {network}{behind(layer)}", network=network, normalisation=layer
    )
