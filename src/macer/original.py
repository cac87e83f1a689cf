"""The original program's two jobs, with its defaults and its files, done by this package."""

import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from macer import data
from macer.certification import CertificationDuringTraining, certify_images, prepare
from macer.pretrained import find_network
from macer.training import load_checkpoint, resolve, train

_NETWORKS = {"mnist": "lenet", "fashion-mnist": "lenet", "digits": "convnet"}
"""The networks that the data set implies; resnet110 for all others."""


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

    Args:
        chosen: the settings given, dataset among them, by field of the training or of MACER.
        certification: when to certify, and which images.
        run: the directory of our own records.
        ckptdir: gets EPOCH.pth, {"net", "epoch"}, for each epoch that is certified.
        matdir: gets EPOCH.mat likewise.
        resume_ckpt: weights to start from. The original goes on with this checkpoint's epoch; here, a stopped run goes
            on by itself when the same command is given again.
        console: where progress is shown.
    """
    settings = resolve({"training": {"network": _network(chosen["dataset"])}}, "macer", chosen, where="macer main")
    certificates = run / "certificates"

    def after_epoch(epoch: int, checkpoint: Path) -> None:
        certification.certify(
            epoch,
            checkpoint,
            directory=certificates,
            network=settings.network,
            device=settings.device,
            console=console,
        )
        if not certification.due(epoch):
            return
        if matdir is not None:
            matdir.mkdir(parents=True, exist_ok=True)
            shutil.copy(certificates / f"epoch-{epoch:04d}" / "certificates.mat", matdir / f"{epoch}.mat")
        if ckptdir is not None:
            ckptdir.mkdir(parents=True, exist_ok=True)
            torch.save({"net": load_checkpoint(checkpoint).weights, "epoch": epoch}, ckptdir / f"{epoch}.pth")

    file = train(
        settings,
        data.load(settings.dataset, settings.root, "train"),
        run,
        console=console,
        initial=find_network(resume_ckpt, settings.network).to_start_from(None) if resume_ckpt else None,
        after_epoch=after_epoch,
    )
    console.print(f"trained: {file}", highlight=False, soft_wrap=True)


def original_test(
    chosen: dict[str, Any], *, dataset: str, run: Path, matdir: Path | None, resume_ckpt: Path, console: Console
) -> None:
    """`main.py --task test`: hard and soft certificates of a checkpoint.

    Args:
        chosen: settings of the certification, by field.
        dataset: what to certify.
        run: the directory of our own records.
        matdir: gets EPOCH.mat with the variables hard and soft; EPOCH is the checkpoint's.
        resume_ckpt: the checkpoint.
        console: where progress is shown.
    """
    found = find_network(resume_ckpt, _network(dataset))
    plan = prepare(found, dataset=dataset, device="auto", chosen={**chosen, "mode": "both"})
    for warning in plan.warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    certify_images(plan.settings, plan.network, plan.images, run, console=console)
    if matdir is not None:
        matdir.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "certificates.mat", matdir / f"{found.epoch or 0}.mat")


def _network(dataset: str) -> str:
    return _NETWORKS.get(dataset, "resnet110")
