"""`macer.train`: a recipe, keywords, your own images or network -> a run's directory."""

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from macer.certification import CertificationDuringTraining
from macer.data import LabelledImages
from macer.data.own import own_images
from macer.errors import SettingsError
from macer.front.keywords import checked, console_for
from macer.models.digest import probe
from macer.models.in_memory import count_classes, module_name
from macer.models.weights import load_weights
from macer.objectives import OBJECTIVES, Denoise, Objective, method_of
from macer.objectives.find import find_method
from macer.pretrained import zoo
from macer.pretrained.find import find_network, named
from macer.recipes import read_recipe
from macer.runs.run import Run
from macer.runs.settings import require, take
from macer.training import TrainingSettings, fabric_for, resolve
from macer.training.loop import train as run_loop
from macer.training.processes import with_precision
from macer.training.settings import OTHER_KEYWORDS


def train(
    recipe: str | None = None,
    *,
    images: Any = None,
    network: str | nn.Module | None = None,
    method: str | type[Objective] | None = None,
    out: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    progress: bool | Console = True,
    **settings: Any,
) -> Run:
    """Train a network to be provably robust, or go on with a training that was interrupted.

    The same call again goes on where the last one stopped, and gives the weights that an undisturbed training gives.
    It does what `macer train` does on the command line, and every option of that is a keyword here, with underscores
    in place of hyphens: `macer train --help` explains them all.

    >>> import tempfile
    >>> settings = {"sigma": 0.25, "epochs": 1, "batch_size": 32, "num_images": 64}
    >>> run = train(images="digits", network="convnet", method="cohen", out=tempfile.mkdtemp(), **settings)
    >>> run.checkpoint().epoch
    1

    Your own images and network:

    >>> import torch
    >>> images, labels = torch.rand(64, 3, 8, 8), torch.arange(64) % 2
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
    >>> run = train(images=(images, labels), network=network, epochs=1, gauss_num=2, out=tempfile.mkdtemp())

    Args:
        recipe: published settings to start from, such as "mnist/short-macer-0.25"; `macer recipes` lists them. Keywords
            replace single settings.
        images: a data set's name, whose files are in the directory `root`; or your own images, as
            `macer.data.own.own_images` takes them: a pair of arrays (images, labels), or a `torch.utils.data.Dataset`.
            Default: the recipe's data set.
        network: a network's name, package.module:function, or an `nn.Module` that maps images in [0, 1] of shape
            (N, C, H, W) to logits (N, classes). A module stays as it is: a copy is trained from the weights that it
            has, and is the run's `network` afterwards, with the trained weights (their moving average, if `average` is
            set). Going on with its training needs the same module again.
        method: the training method by name, such as "macer" or "cohen"; `macer train --help` lists them. Or one of your
            own, a class that extends `macer.objectives.Objective`, or its import path package.module:Class; its options
            are keywords, too. Default: the recipe's, or "macer".
        out: directory of the run. Default: runs/DATASET-METHOD-SIGMA.
        class_names: the classes of your own images, in the order of their labels.
        progress: whether to show progress on standard error, or a `rich.console.Console` to show it on.
        settings: options of `macer train`, such as root, sigma, epochs, batch_size, lr, seed, device.

    Returns:
        The run: its directory, and what `macer.certify` takes as a model.

    Raises:
        SettingsError: a setting is unknown or impossible, or `out` was made with other settings or other images.
        DataError: the images are not there, damaged, or of another shape, type or scale.
        TrainingDiverged: the loss became infinite or undefined.
        Interrupted: a signal asked to stop; a checkpoint was written.
    """
    require(recipe is None or isinstance(recipe, str), "the first argument is a recipe's name: give network=, images=")
    own_method = () if method is None else (find_method(method),)
    known = (TrainingSettings, *OBJECTIVES.values(), *own_method, CertificationDuringTraining)
    given = checked(settings, *known, also=OTHER_KEYWORDS)
    certification, chosen = take(CertificationDuringTraining, given)
    require(
        certification.from_epoch > 0 or "certify_from_epoch" in given or given.keys() == chosen.keys(),
        "nothing is certified during training without `certify_from_epoch`",
    )
    if isinstance(network, nn.Module):
        require(
            "init" not in chosen, "a module is trained from the weights that it has: load them into it, without init"
        )
        require("normalisation" not in chosen, "normalisation is for networks by name: a module normalises by itself")
        chosen["network"] = module_name(network)
    elif network is not None:
        require(not isinstance(network, type), "network is a class: give an instance of it")
        chosen["network"] = network
    own = None
    require(images is None or "dataset" not in chosen, "images and dataset are one argument: give one of them")
    if isinstance(images, str):
        chosen["dataset"] = images
    elif images is not None:
        require("root" not in chosen, "root is for images by name")
        require(certification.from_epoch == 0, "certification during training is for data sets by name")
        module = network if isinstance(network, nn.Module) and method != Denoise.name else None
        num_classes = None if module is None else partial(count_classes, module)
        own = own_images(images, "train", class_names=class_names, num_classes=num_classes)
        chosen["dataset"] = own.name
    tables, where = (read_recipe(recipe), f"recipe {recipe}") if recipe else ({}, "settings")
    resolved = resolve(tables, method, chosen, where=where)
    denoises = resolved.objective.denoises
    require(certification.from_epoch == 0 or not denoises, "a denoiser has no classes to certify during training")
    console = console_for(progress)
    return _train(
        resolved,
        own,
        network,
        certification,
        out,
        console,
        any_batch="batch_size" not in chosen,
        any_network=recipe is None and "network" not in chosen,
    )


def _train(
    settings: TrainingSettings,
    own: LabelledImages | None,
    network: str | nn.Module | None,
    certification: CertificationDuringTraining,
    out: str | os.PathLike[str] | None,
    console: Console,
    *,
    any_batch: bool,
    any_network: bool,
) -> Run:
    if zoo.is_of_zoo(settings.network):
        name = zoo.card(settings.network)["training"]["network"]
        raise SettingsError(
            f"{settings.network} has weights: to start from them, give `network={name}` and `init={settings.network}`"
        )
    images = settings.load("train") if own is None else own
    if own is None:
        certification.check(settings)
    dataset = re.sub(r"[^\w.-]+", "-", settings.dataset).strip("-")  # of hf:, the name may be a path
    method = str(method_of(settings.tables()["objective"])).replace("+", "-")
    name = f"{dataset}-{method}-{settings.objective.sigma:g}"
    directory = Path("runs", name) if out is None else Path(out)
    settings = with_precision(settings, directory)
    fabric = fabric_for(settings)
    console.quiet = console.quiet or not fabric.is_global_zero  # one process speaks for all
    if any_network and settings.dataset != TrainingSettings.dataset:
        console.print(
            f"network {settings.network}, as in the paper for CIFAR-10: give another one, or a recipe "
            "(`macer recipes` lists them)",
            soft_wrap=True,
        )
    count = len(settings.training_indices(len(images)))
    if any_batch and settings.batch_size > count:
        console.print(f"batch_size {count}, not {settings.batch_size}: there are no more training images")
        settings = replace(settings, batch_size=count)
    module = copy.deepcopy(network) if isinstance(network, nn.Module) else None
    run = Run(directory, module)
    run_loop(
        settings,
        images,
        directory,
        console=console,
        title=f"training {name}",
        initial=_initial(settings, console),
        classifier=_classifier_behind(settings, images, console),
        network=copy.deepcopy(module),  # compiled, moved to the device, in training mode: not so the run's
        after_epoch=partial(
            certification.certify,
            directory=run.certification.path,
            network=settings.network,
            device=settings.device,
            console=console,
        ),
        fabric=fabric,
    )
    if module is not None:
        load_weights(module, run.checkpoint().weights, settings.network)
    return run


def _initial(settings: TrainingSettings, console: Console) -> dict[str, Tensor] | None:
    """Return the weights that training starts from; None for random ones."""
    if not settings.init:
        return None
    found = find_network(settings.init, settings.network, settings.normalisation)
    weights = found.to_start_from(settings.normalisation)
    if found.trained.was_on(settings.dataset, settings.root):
        found.trained.check_share(found.source, settings.split_share)
    console.print(f"starting from {found.description}", soft_wrap=True)
    return weights


def _classifier_behind(settings: TrainingSettings, images: LabelledImages, console: Console) -> nn.Module | None:
    """Return the classifier behind the denoiser, None where there is none.

    Raises:
        SettingsError: it takes other images than those of the training, or has other classes.
        DataError: the images have its classes in another order.
    """
    if not settings.classifier:
        return None
    found = find_network(*named(settings.classifier))
    classifier = found.build(images.num_classes, images.shape)
    console.print(f"classifier: {found.description}", soft_wrap=True)
    for warning in found.classes_unlike(images):
        console.print(f"warning: {warning}", soft_wrap=True)
    try:
        probe(classifier, images.num_classes, images.shape)
    except SettingsError as error:
        raise SettingsError(f"classifier {settings.classifier}: {error}") from error
    return classifier
