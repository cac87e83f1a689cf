"""Certification while training goes on, as the original does it: every few epochs, on some images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from macer.certification.run import certify_run
from macer.runs.run import CertificationRun
from macer.runs.settings import ImageChoice, option
from macer.smoothing.kinds import Hard
from macer.smoothing.spending import check_budget
from macer.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FewImages(ImageChoice):
    """Hard certificates of some test images, for experiments that certify many networks."""

    skip: int = option(20, "Distance between the indices of successive images.", least=1, panel="Images")
    n: int = option(100_000, "Number of noisy copies per certificate.", least=1, panel="Images")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget([Hard()], 100, self.n, 0.001)  # before hours of training, not after

    def chosen(self) -> dict[str, Any]:
        """Return these as settings of a certification, by name."""
        return {name: getattr(self, name) for name in ("start_img", "num_img", "skip", "n")}


@dataclass(frozen=True, kw_only=True)
class CertificationDuringTraining(FewImages):
    """After which epochs to certify, and which images.

    The defaults are the original's, except that nothing is certified: the original certifies from epoch 200 on.
    """

    prefix = "certify_"
    panel = "Certification during training"
    from_epoch: int = option(0, "Certify during training from this epoch on; 0: never.", least=0)
    every: int = option(20, "Certify after each epoch that is a multiple of this.", least=1)

    def due(self, epoch: int) -> bool:
        """Return whether to certify after epoch number `epoch`, counted from 1."""
        return 0 < self.from_epoch <= epoch and epoch % self.every == 0

    def check(self, settings: TrainingSettings) -> None:
        """Refuse before training what would end it at its first certification: images that do not exist.

        Args:
            settings: of the training.

        Raises:
            SettingsError: the test split lacks images that are to be certified.
            DataError: the test split is not there, or damaged.
        """
        last = settings.epochs // self.every * self.every
        if last <= settings.start_epoch or not self.due(last):
            return
        self.count(len(settings.load("test")), f"{settings.dataset} test")

    def certify(
        self, epoch: int, checkpoint: Path, directory: Path, *, network: str, device: str, console: Console
    ) -> None:
        """Write hard certificates of the chosen test images into directory/epoch-NNNN, if they are due.

        Args:
            epoch: epochs finished.
            checkpoint: the file of the network after them.
            directory: the run's directory of certificates.
            network: its name, or package.module:function.
            device: what computes.
            console: where progress is shown.
        """
        if not self.due(epoch):
            return
        certify_run(
            checkpoint,
            CertificationRun(directory).of_epoch(epoch).path,
            self.chosen(),
            network=network,
            console=console,
            title=f"certifying epoch {epoch}",
            device=device,
        )
