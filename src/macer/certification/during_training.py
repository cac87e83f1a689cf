"""Certification while training goes on, as the original does it: every few epochs, on some images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from macer import data
from macer.certification.prepare import prepare
from macer.certification.run import certify_images
from macer.certification.settings import CertificationSettings, images_to_certify
from macer.pretrained.find import find_network
from macer.runs.settings import option, require
from macer.smoothing.classifier import check_budget
from macer.smoothing.kinds import Hard


@dataclass(frozen=True, kw_only=True)
class CertificationDuringTraining:
    """When, and which images. Defaults are the original's, but for the first epoch: it certifies from epoch 200 on."""

    certify_from_epoch: int = option(0, "certify during training from this epoch on; 0: never")
    certify_every: int = option(20, "certify every so many epochs")
    certify_start_img: int = option(0, "index of the first image to certify during training")
    certify_num_img: int = option(0, "how many images to certify during training; 0: as many as there are")
    certify_skip: int = option(20, "step from one image's index to the next")
    certify_n: int = option(100_000, "samples a certificate during training")

    def __post_init__(self) -> None:
        require(self.certify_from_epoch >= 0, f"certify_from_epoch must not be negative, not {self.certify_from_epoch}")
        require(self.certify_every >= 1, f"certify_every must be at least 1, not {self.certify_every}")
        require(self.certify_start_img >= 0, f"certify_start_img must not be negative, not {self.certify_start_img}")
        require(self.certify_num_img >= 0, f"certify_num_img must not be negative, not {self.certify_num_img}")
        require(self.certify_skip >= 1, f"certify_skip must be at least 1, not {self.certify_skip}")
        check_budget([Hard()], 100, self.certify_n, 0.001)  # before hours of training, not after

    def due(self, epoch: int) -> bool:
        """Whether to certify after epoch number `epoch`, counted from 1."""
        return 0 < self.certify_from_epoch <= epoch and epoch % self.certify_every == 0

    def check(self, dataset: str, root: str | None, epochs: range) -> None:
        """Refuse before training what would end it at its first certification.

        Args:
            dataset: the data set's name.
            root: the directory that holds it.
            epochs: the numbers of the epochs that training will finish.

        Raises:
            SettingsError: the test split lacks images that are to be certified.
            DataError: the test split is not there, or damaged.
        """
        last = epochs[-1] // self.certify_every * self.certify_every
        if last not in epochs or not self.due(last):
            return
        total = len(data.load(dataset, root, "test"))
        chosen = self._chosen()
        chosen["num_img"] = images_to_certify(chosen["num_img"], chosen["start_img"], chosen["skip"], total)
        CertificationSettings(dataset=dataset, checkpoint="", network="", digest="", total=total, **chosen)

    def certify(
        self, epoch: int, checkpoint: Path, directory: Path, *, network: str, device: str, console: Console
    ) -> None:
        """Hard certificates of the chosen test images into directory/epoch-NNNN, if they are due.

        Args:
            epoch: epochs finished.
            checkpoint: the file that holds the network as it is after them.
            directory: the run's directory of certificates.
            network: its name, or the package.module:function that training runs anyway.
            device: what computes.
            console: where progress is shown.
        """
        if not self.due(epoch):
            return
        plan = prepare(find_network(checkpoint, network), dataset=None, device=device, chosen=self._chosen())
        certify_images(
            plan.settings,
            plan.network,
            plan.images,
            directory / f"epoch-{epoch:04d}",
            console=console,
            title=f"certifying epoch {epoch}",
        )

    def _chosen(self) -> dict[str, Any]:
        """The same as settings of a certification, by field."""
        return {
            "start_img": self.certify_start_img,
            "num_img": self.certify_num_img,
            "skip": self.certify_skip,
            "n": self.certify_n,
        }
