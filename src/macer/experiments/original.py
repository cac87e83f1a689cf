"""The original program's command line (`main.py`), with its defaults and its files, done by this package."""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from macer.certification import CertificationDuringTraining, CertificationSettings, certify_images, prepare
from macer.errors import SettingsError
from macer.files.replacing import replacing
from macer.objectives import Macer
from macer.pretrained.find import FoundNetwork, find_network
from macer.runs.checkpoint import write_torch_file
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import IMAGES_DIGEST, Settings, option, require, to_table
from macer.training import TrainingSettings, load_checkpoint, train
from macer.training.settings import TrainedWith

_NETWORKS = {"mnist": "lenet", "fashion-mnist": "lenet", "digits": "convnet"}
"""The networks that the data set implies; resnet110 for all others."""


@dataclass(frozen=True, kw_only=True)
class OriginalOptions(Settings):
    """The options of the original's `main.py`, with its defaults and names. A path "none" is none."""

    task: Literal["train", "test"] = option("train", "Train a network, or certify one.")
    root: str = option("data", "Directory of the data set.")
    dataset: str = option("cifar10", "Name of the data set.")
    resume_ckpt: str = option("none", "Checkpoint to start from, or to certify.")
    ckptdir: str = option("none", "Directory for the checkpoints EPOCH.pth.")
    matdir: str = option("none", "Directory for the certified radii EPOCH.mat.")
    epochs: int = option(440, "Number of epochs, with those of the checkpoint to start from.", least=1)
    gauss_num: int = option(16, "k, the number of noise samples per image.", least=1)
    batch_size: int = option(64, "Images per step.", least=1)
    lr: float = option(0.01, "Learning rate before it drops after epochs 200 and 400.", above=0)
    sigma: float = option(0.25, "Standard deviation of the noise, in units of [0, 1] pixels.", above=0)
    lbd: float = option(12.0, "Lambda, the weight of the robustness loss.", least=0)
    gamma: float = option(8.0, "Hinge of the robustness loss.", above=0)
    beta: float = option(16.0, "Inverse temperature of the softmax.", above=0)
    start_img: int = option(500, "Index of the first image to certify.", least=0)
    num_img: int = option(500, "Number of images to certify.", least=0)
    skip: int = option(1, "Distance between the indices of two successive images (test).", least=1)
    out: str | None = option(None, "Directory of macer's own records. [default: beside the .pth or .mat]")

    def path(self, name: str) -> Path | None:
        """Return one of the paths, or None where it is "none"."""
        value = getattr(self, name)
        return None if value == "none" else Path(value)

    @property
    def training(self) -> TrainingSettings:
        """The settings of `--task train`."""
        return TrainingSettings(
            objective=Macer(sigma=self.sigma, gauss_num=self.gauss_num, lbd=self.lbd, gamma=self.gamma, beta=self.beta),
            network=network_of(self.dataset),
            **{name: getattr(self, name) for name in ("dataset", "root", "epochs", "batch_size", "lr")},
        )

    @property
    def certification(self) -> dict[str, Any]:
        """The settings of `--task test`, by name."""
        return {name: getattr(self, name) for name in ("root", "sigma", "beta", "start_img", "num_img", "skip")}


def original_train(
    settings: TrainingSettings,
    certification: CertificationDuringTraining,
    *,
    run: Path,
    ckptdir: Path | None,
    matdir: Path | None,
    resume_ckpt: Path | None,
    console: Console,
) -> None:
    """Train as `main.py --task train` does, with certificates during training and the original's files.

    Args:
        settings: of the training; its epochs count from the checkpoint's.
        certification: when to certify, and which images.
        run: the directory of macer's own records.
        ckptdir: gets EPOCH.pth, {"net", "epoch"}, for each epoch that is certified.
        matdir: gets EPOCH.mat for each epoch that is certified.
        resume_ckpt: weights to start from, after the epoch that the file says. The original's files do not hold the
            optimizer's state. A `run` that was stopped resumes by itself, also if this is one of its own files.
        console: where progress is shown.

    Raises:
        SettingsError: the checkpoint's epoch is not known or leaves nothing to train, or images to certify do not
            exist.
    """
    stopped = Run(run).checkpoint_file.exists()
    settings, found = _starting(settings, run, ckptdir, resume_ckpt)
    images = settings.load("train")
    certification.check(settings)
    if stopped:
        done = find_network(run, settings.network).epoch
        console.print(f"going on from {run} after epoch {done}", soft_wrap=True)
    elif found is not None:
        origin = f"{found.source} ({found.description})"
        console.print(f"starting from {origin} after epoch {settings.start_epoch}", soft_wrap=True)
    for folder in (ckptdir, matdir):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    file = train(
        settings,
        images,
        run,
        console=console,
        initial=None if found is None else found.to_start_from(None),
        after_epoch=partial(
            _leave_files, settings, certification, Run(run).certification, ckptdir, matdir, console=console
        ),
    )
    console.print(f"trained: {file}", soft_wrap=True)


def _starting(
    settings: TrainingSettings, run: Path, ckptdir: Path | None, resume_ckpt: Path | None
) -> tuple[TrainingSettings, FoundNetwork | None]:
    """Return the settings with what training starts from, and the network of the weights if they are needed."""
    stopped = Run(run).checkpoint_file.exists()
    recorded = TrainedWith.read(Run(run).settings()) if stopped else TrainedWith()
    init = None if resume_ckpt is None else str(resume_ckpt)
    if resume_ckpt is not None and stopped and _is_of(resume_ckpt, run, ckptdir):
        init = recorded.init
    if stopped and init == recorded.init:
        return replace(settings, init=init, start_epoch=recorded.start_epoch), None
    if init is None:
        return settings, None
    found = find_network(init, settings.network)
    epoch = _epoch(found)
    require(0 <= epoch < settings.epochs, f"{init} is of epoch {epoch}: epochs {settings.epochs} leaves none to train")
    return replace(settings, init=init, start_epoch=epoch), found


def _leave_files(
    settings: TrainingSettings,
    certification: CertificationDuringTraining,
    directory: CertificationRun,
    ckptdir: Path | None,
    matdir: Path | None,
    epoch: int,
    checkpoint: Path,
    *,
    console: Console,
) -> None:
    """Write EPOCH.pth, certify, and write EPOCH.mat, if certificates are due after this epoch."""
    if not certification.due(epoch):
        return
    if ckptdir is not None:  # before the certification, which may fail
        write_torch_file({"net": load_checkpoint(checkpoint).weights, "epoch": epoch}, ckptdir / f"{epoch}.pth")
    certification.certify(
        epoch,
        checkpoint,
        directory=directory.path,
        network=settings.network,
        device=settings.device,
        console=console,
    )
    if matdir is not None:
        _copy(directory.of_epoch(epoch).mat_file, matdir / f"{epoch}.mat")


def original_test(
    chosen: dict[str, Any], *, dataset: str, run: Path | None, matdir: Path | None, resume_ckpt: Path, console: Console
) -> Path:
    """Certify a checkpoint as `main.py --task test` does: hard and soft certificates, with the original's file.

    Args:
        chosen: settings of the certification, by name.
        dataset: what to certify.
        run: the directory of macer's own records; None: one in `matdir`, or in runs, with a name of its own for each
            network and each choice of settings, so that others beside it stay as they are.
        matdir: gets EPOCH.mat with the variables hard and soft; EPOCH is the checkpoint's.
        resume_ckpt: the checkpoint.
        console: where progress is shown.

    Returns:
        The directory of macer's own records.
    """
    found = find_network(resume_ckpt, network_of(dataset))
    epoch = _epoch(found)
    plan = prepare(found, dataset=dataset, chosen={**chosen, "mode": "both"})
    for line in [*plan.notes, *(f"warning: {warning}" for warning in plan.warnings)]:
        console.print(line, soft_wrap=True)
    run = run or (matdir or Path("runs")) / f"test-{resume_ckpt.stem}-{_fingerprint(plan.settings)}"
    if matdir is not None:
        matdir.mkdir(parents=True, exist_ok=True)
    certify_images(plan, run, console=console)
    if matdir is not None:
        _copy(CertificationRun(run).mat_file, matdir / f"{epoch}.mat")
    return run


def _copy(source: Path, file: Path) -> None:
    with replacing(file) as temporary:
        shutil.copyfile(source, temporary)


def network_of(dataset: str) -> str:
    """Return the name of the network that the original uses for a data set."""
    return _NETWORKS.get(dataset, "resnet110")


def _fingerprint(settings: CertificationSettings) -> str:
    """Return eight hexadecimal digits that differ where settings differ that decide the certificates."""
    ignored = settings.machine_settings | {IMAGES_DIGEST}
    deciding = {name: value for name, value in to_table(settings).items() if name not in ignored}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]


def _epoch(found: FoundNetwork) -> int:
    """Return for how many epochs a network was trained, with those of the weights that it started from.

    Raises:
        SettingsError: its file does not say.
    """
    require(
        found.trained.init is None or found.trained.start_epoch > 0,
        f"{found.source} counts epochs from where it started, {found.trained.init}: give one of the EPOCH.pth files",
    )
    if found.epoch is None:
        raise SettingsError(f"{found.source} does not say its epoch")
    return found.epoch


def _is_of(checkpoint: Path, run: Path, ckptdir: Path | None) -> bool:
    """Return whether a checkpoint lies where a run writes its own."""
    place = checkpoint.resolve()
    return place.is_relative_to(run.resolve()) or (ckptdir is not None and place.parent == ckptdir.resolve())
