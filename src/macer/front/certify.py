"""`macer.certify`: a model and images -> results."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from macer.certification import CertificationSettings, Plan, certify_images, prepare
from macer.certification.carrying import with_carried
from macer.certification.evaluation import Outcome
from macer.certification.prepare import shape_for_network
from macer.compute.engine import Engine
from macer.data import LabelledImages
from macer.data.own import own_images
from macer.errors import SettingsError
from macer.front.keywords import checked, console_for
from macer.models.in_memory import count_classes
from macer.pretrained import zoo
from macer.pretrained.denoisers import FoundDenoiser, find_denoiser
from macer.pretrained.find import FoundNetwork, find_network, named
from macer.results.reading import facts_of, spending_notes
from macer.results.records import Records, note_on_answers
from macer.results.results import Results, load_results
from macer.runs.run import CertificationRun
from macer.runs.settings import require, to_table
from macer.smoothing import SmoothedClassifier

_PARAMETERS = ("images", "network", "normalisation", "denoiser", "out", "device", "devices", "scheduler", "progress")


def certify(
    model: str | os.PathLike[str] | nn.Module | None,
    images: Any = None,
    *,
    network: str | nn.Module | None = None,
    normalisation: str | None = None,
    denoiser: Any = None,
    out: str | os.PathLike[str] | None = None,
    device: str | None = None,
    devices: int = 1,
    scheduler: str | None = None,
    progress: bool | Console = True,
    **settings: Any,
) -> Results:
    """Return for each image its class and an L2 radius within which the smoothed classifier provably keeps to it.

    It does what `macer certify` does on the command line, and every option of that is a keyword here, with underscores
    in place of hyphens: `macer certify --help` explains them all. Certify of Cohen et al. 2019, section 3.2.2; soft
    certificates of Zhai et al. 2020, theorem 2.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> results = certify(network, "digits", sigma=0.25, n=1000, skip=100, progress=False)
    >>> results.frame()[["idx", "label"]].values.tolist()
    [[0, 0], [100, 4], [200, 6], [300, 2], [400, 0]]

    Args:
        model: a run that `macer.train` returned, its directory, a checkpoint's or program's file, a network of the zoo
            by its name, package.module:function, a `SmoothedClassifier`, or an `nn.Module` that maps images in [0, 1]
            of shape (N, C, H, W) to logits (N, classes), or to an output with `logits`. A module stays as it is.
        images: a data set's name, whose files are in the directory `root`; or your own images, as
            `macer.data.own.own_images` takes them: a pair of arrays (images, labels), or a `torch.utils.data.Dataset`.
            Default: the test images of the data set that the model was trained on.
        network: the network whose weights `model` holds, where that does not say: a name, package.module:function, or
            an `nn.Module`.
        normalisation: the layer in front of a published network, by name.
        denoiser: what makes noisy images clean before the model sees them, as `find_denoiser` takes it: a run that
            trained a denoiser, a published DnCNN, a diffusers pipeline or its directory, package.module:function, or an
            `nn.Module`. The model can then be one that was never trained on noise.
        out: directory to write certificates to, one row per image when it is done; the same call again goes on where
            the last one stopped. Default: nothing is written.
        device: "cpu", "cuda", or "auto": a GPU if there is one. Default: where the parameters of a module are, else
            "auto".
        devices: number of worker processes on this machine, each with a GPU or a share of the cores.
        scheduler: address of a Dask scheduler, on whose workers images are certified.
        progress: whether to show progress on standard error, or a `rich.console.Console` to show it on.
        settings: options of `macer certify`: sigma (noise level in units of [0, 1] pixels; default: that of the
            training), n0, n, alpha, mode ("hard", "soft" or "both"), skip, num_img, start_img, and others.

    Returns:
        The certificates, as one record per kind (hard, soft).

    Raises:
        SettingsError: a setting is unknown or impossible, sigma or the images are neither given nor known from
            training, or `out` holds certificates made with other settings or of other images.
        DataError: the images are not there, damaged, of another shape, type or scale, or have the model's classes in
            another order.
        CheckpointError: there is no such model, or it does not fit the images.
        Interrupted: a signal asked to stop.
    """
    require(images is None or "dataset" not in settings, "images and dataset are one argument: give one of them")
    images = settings.pop("dataset", images)
    chosen = checked(settings, CertificationSettings, also=_PARAMETERS)
    require(not chosen.get("remember") or out is not None, "votes are remembered in a directory: give `out`")
    require(denoiser is not None or "size" not in chosen, "`size` is that of denoised images: give a `denoiser`")
    if isinstance(model, SmoothedClassifier):
        require(not model.any_range, "a data set's images lie in [0, 1]: call certify of a classifier with any_range")
        own = {"sigma": model.sigma, "seed": model.given_seed, "sound": model.sound}
        chosen = {name: value for name, value in own.items() if value is not None} | chosen
        model = model.network
    if isinstance(model, nn.Module) and device is None:
        device = next((each.device.type for each in model.parameters()), None)
    if "carry" in chosen:
        chosen = with_carried(chosen, own_images=images is not None and not isinstance(images, str))
        dataset = chosen.pop("dataset", None)
        images = dataset if images is None else images
    found = _find(model, network, normalisation, chosen.get("weights"))
    console = console_for(progress)
    front = None if denoiser is None else find_denoiser(denoiser)
    plan = _plan(found, images, chosen, front)
    if not isinstance(model, nn.Module):
        console.print(f"found {found.description}", soft_wrap=True)
    for note in plan.notes:
        console.print(note, soft_wrap=True)
    for warning in plan.warnings:
        if isinstance(progress, Console):
            console.print(f"warning: {warning}", soft_wrap=True)
        else:
            warnings.warn(warning, stacklevel=2)
    name, directory = _name(model, found), None if out is None else Path(out)
    settled, outcomes = certify_images(
        plan,
        directory,
        console=console,
        title=f"certifying {directory or name}",
        engine=Engine(device or "auto", devices, scheduler),
    )
    if directory is None:
        return Results(_records(settled, plan.images, outcomes, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes stand below the table, and tell what was asked for
        return load_results(*(CertificationRun(directory).journal(kind.name) for kind in settled.kinds))


def _find(model: Any, network: str | nn.Module | None, normalisation: str | None, weights: str | None) -> FoundNetwork:
    if isinstance(model, nn.Module):
        require(network is None, "the model is a module: give no `network`")
        return find_network(None, model, normalisation, weights)
    if model is not None and not isinstance(model, str | os.PathLike):
        raise SettingsError(
            "the model is a run, a file, a name, an nn.Module or a SmoothedClassifier, not " + type(model).__name__
        )
    target, network = (None, network) if model is None else named(model, network)
    return find_network(target, network, normalisation, weights)


def _plan(found: FoundNetwork, images: Any, chosen: dict[str, Any], denoiser: FoundDenoiser | None) -> Plan:
    """Return what is certified, with your own images as a data set of as many classes as the network has."""
    if images is None or isinstance(images, str):
        return prepare(found, dataset=images, chosen=chosen, denoiser=denoiser)
    require(not chosen.keys() & {"root", "split"}, "root and split are for data sets by name")
    module = found.module

    def count(shape: tuple[int, int, int]) -> int:
        assert module is not None
        return count_classes(module, shape_for_network(shape, chosen.get("size")))

    own = own_images(images, "test", num_classes=found.num_classes if module is None else count)
    return prepare(found, dataset=None, chosen=chosen, images=own, denoiser=denoiser)


def _name(model: Any, found: FoundNetwork) -> str:
    """Return what the results are called in tables."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    return found.network if model is None else Path(os.fspath(model)).resolve().name.removeprefix(zoo.PREFIX)


def _records(
    settings: CertificationSettings, images: LabelledImages, outcomes: Sequence[Outcome], name: str
) -> list[Records]:
    """Return the certificates of all images as records, one per kind."""
    table, found = to_table(settings), []
    for place, kind in enumerate(settings.kinds):
        rows = [each.rows(file=images.file_name(each.index))[place] for each in outcomes]
        records = Records.from_rows(name, kind.name, rows, **facts_of(table, kind.name))
        notes = spending_notes(name, table, [row.n for row in rows].count(0)) + note_on_answers(records.name, rows)
        found.append(replace(records, notes=tuple(notes)))
    return found
