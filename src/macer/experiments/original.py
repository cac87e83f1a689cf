"""The original program's two jobs, with its defaults and its files, done by this package."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from macer import data
from macer.certification import CertificationDuringTraining, CertificationSettings, certify_images, prepare
from macer.errors import SettingsError
from macer.files.replacing import replacing
from macer.pretrained.find import FoundNetwork, find_network
from macer.runs.directory import may_differ
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import require, to_table
from macer.training import load_checkpoint, resolve, train

_NETWORKS = {"mnist": "lenet", "fashion-mnist": "lenet", "digits": "convnet"}
"""The networks that the data set implies; resnet110 for all others."""

_MILESTONES = (200, 400)
"""Epochs after which the learning rate drops."""


def original_train(
    chosen: dict[str, Any],
    certification: CertificationDuringTraining,
    *,
    run: Path,
    ckptdir: Path | None,
    matdir: Path | None,
    resume_ckpt: Path | None,
    console: Console,
) -> None:
    """`main.py --task train`: MACER, certified from epoch 200 on every 20 epochs, with the original's files.

    Our own records count epochs from where this run starts; the original's files, and which epochs are certified, count
    on from the checkpoint's.

    Args:
        chosen: the settings given, dataset and epochs among them, by field of the training or of MACER.
        certification: when to certify, and which images.
        run: the directory of our own records.
        ckptdir: gets EPOCH.pth, {"net", "epoch"}, for each epoch that is certified.
        matdir: gets EPOCH.mat likewise.
        resume_ckpt: weights to start from, after as many epochs as the file says; the optimizer's state is not in the
            original's files. Where `run` has been stopped it goes on by itself, also if this is one of its own files.
        console: where progress is shown.

    Raises:
        SettingsError: the checkpoint's epoch is not known or leaves nothing to train, or images to certify do not
            exist.
    """
    network = _network(chosen["dataset"])
    epochs = chosen["epochs"]
    stopped = Run(run).checkpoint_file.exists()
    recorded = Run(run).settings().get("training", {}) if stopped else {}
    init = None if resume_ckpt is None else str(resume_ckpt)
    if resume_ckpt is not None and stopped and _is_of(resume_ckpt, run, ckptdir):
        init = recorded.get("init")
    found = None
    if stopped and init == recorded.get("init"):  # it goes on by itself, and needs nothing of where it started
        before = _MILESTONES[0] - recorded.get("lr_milestones", _MILESTONES)[0]
    elif init is not None:
        found = find_network(init, network)
        before = _epoch(found)
        require(0 <= before < epochs, f"{init} is of epoch {before}: --epochs {epochs} leaves none to train")
    else:
        before = 0
    settings = resolve(
        {"training": {"network": network, "lr_milestones": [each - before for each in _MILESTONES]}},
        "macer",
        {**chosen, "epochs": epochs - before, "init": init},
        where="macer main",
    )
    images = data.load(settings.dataset, settings.root, "train")
    certification.check(settings.dataset, settings.root, range(before + 1, epochs + 1))
    certification_run = Run(run).certification

    def after_epoch(epoch: int, checkpoint: Path) -> None:
        epoch += before
        if not certification.due(epoch):
            return
        if ckptdir is not None:  # before the certification, which may fail
            with replacing(ckptdir / f"{epoch}.pth") as temporary:
                torch.save({"net": load_checkpoint(checkpoint).weights, "epoch": epoch}, temporary)
        certification.certify(
            epoch,
            checkpoint,
            directory=certification_run.path,
            network=settings.network,
            device=settings.device,
            console=console,
        )
        if matdir is not None:
            shutil.copy(certification_run.of_epoch(epoch).mat_file, matdir / f"{epoch}.mat")

    if stopped:
        done = before + (find_network(run, network).epoch or 0)
        console.print(f"going on from {run} after epoch {done}", highlight=False, soft_wrap=True)
    elif found is not None:
        origin = f"{found.source} ({found.description})"
        console.print(f"starting from {origin} after epoch {before}", highlight=False, soft_wrap=True)
    for folder in (ckptdir, matdir):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    file = train(
        settings,
        images,
        run,
        console=console,
        title=f"training after epoch {before}" if before else "training",
        initial=None if found is None else found.to_start_from(None),
        after_epoch=after_epoch,
    )
    console.print(f"trained: {file}", highlight=False, soft_wrap=True)


def original_test(
    chosen: dict[str, Any], *, dataset: str, run: Path | None, matdir: Path | None, resume_ckpt: Path, console: Console
) -> Path:
    """`main.py --task test`: hard and soft certificates of a checkpoint.

    Args:
        chosen: settings of the certification, by field.
        dataset: what to certify.
        run: the directory of our own records; None for one in `matdir`, or in runs, of its own for each network and
            question, so that others beside it stay as they are.
        matdir: gets EPOCH.mat with the variables hard and soft; EPOCH is the checkpoint's.
        resume_ckpt: the checkpoint.
        console: where progress is shown.

    Returns:
        The directory of our own records.
    """
    found = find_network(resume_ckpt, _network(dataset))
    epoch = _epoch(found)
    plan = prepare(found, dataset=dataset, device="auto", chosen={**chosen, "mode": "both"})
    for warning in plan.warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    run = run or (matdir or Path("runs")) / f"test-{resume_ckpt.stem}-{_fingerprint(plan.settings)}"
    if matdir is not None:
        matdir.mkdir(parents=True, exist_ok=True)
    certify_images(plan.settings, plan.network, plan.images, run, console=console)
    if matdir is not None:
        shutil.copy(CertificationRun(run).mat_file, matdir / f"{epoch}.mat")
    return run


def _fingerprint(settings: CertificationSettings) -> str:
    """Eight hexadecimal digits that differ where settings do that decide the certificates."""
    ignored = may_differ(settings.machine_settings, settings.dataset)
    deciding = {name: value for name, value in to_table(settings).items() if name not in ignored}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]


def _epoch(found: FoundNetwork) -> int:
    """How many epochs a network was trained, by the original's count.

    Raises:
        SettingsError: its file does not say, or counts from somewhere else.
    """
    start = found.settings.get("training", {}).get("init")
    require(
        start is None, f"{found.source} counts epochs from where it started, {start}: give one of the EPOCH.pth files"
    )
    if found.epoch is None:
        raise SettingsError(f"{found.source} does not say its epoch")
    return found.epoch


def _is_of(checkpoint: Path, run: Path, ckptdir: Path | None) -> bool:
    """Whether a checkpoint lies where a run writes its own."""
    place = checkpoint.resolve()
    return place.is_relative_to(run.resolve()) or (ckptdir is not None and place.parent == ckptdir.resolve())


def _network(dataset: str) -> str:
    return _NETWORKS.get(dataset, "resnet110")
