"""The original's command line, and certification during training."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.io import loadmat

from macer.certification import CertificationDuringTraining
from macer.errors import SettingsError
from macer.experiments.original import original_test, original_train
from macer.objectives import Macer
from macer.runs.certificates import read_journal
from macer.training import TrainingSettings

QUIET = Console(file=io.StringIO())
SETTINGS = TrainingSettings(
    objective=Macer(gauss_num=2, lbd=0.0),
    dataset="digits",
    network="convnet",
    epochs=4,
    batch_size=16,
    lr=0.02,
    device="cpu",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `main.py --task train`, certified after its second and fourth epoch."""
    directory = tmp_path_factory.mktemp("original")
    when = CertificationDuringTraining(from_epoch=2, every=2, skip=50, n=200)
    places = {"run": directory / "run", "ckptdir": directory / "ckpt", "matdir": directory / "mat"}
    original_train(SETTINGS, when, **places, resume_ckpt=None, console=QUIET)
    return directory


def test_training_leaves_the_originals_files(trained: Path) -> None:
    assert sorted(file.name for file in (trained / "ckpt").iterdir()) == ["2.pth", "4.pth"]
    assert sorted(file.name for file in (trained / "mat").iterdir()) == ["2.mat", "4.mat"]
    content = torch.load(trained / "ckpt" / "4.pth", weights_only=True)
    assert content["epoch"] == 4
    assert set(content) == {"net", "epoch"}
    last = torch.load(trained / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.equal(value, last["network"][name]) for name, value in content["net"].items())


@pytest.mark.parametrize("epoch", [2, 4])
def test_mat_files_hold_what_the_journal_of_that_epoch_says(trained: Path, epoch: int) -> None:
    rows = list(read_journal(trained / "run" / "certificates" / f"epoch-{epoch:04d}" / "hard.tsv").values())
    assert [row.idx for row in rows] == list(range(0, 500, 50))
    radii = loadmat(trained / "mat" / f"{epoch}.mat")["hard"].ravel()
    np.testing.assert_array_equal(radii, [row.radius if row.correct else -1 for row in rows])


def test_the_certified_network_is_that_epochs(trained: Path, tmp_path: Path) -> None:
    """Certifying 2.pth by hand gives the journal of epoch 2, not of the end."""
    chosen = {"sigma": 0.25, "beta": 16.0, "start_img": 0, "num_img": 10, "skip": 50, "n": 200}
    original_test(
        chosen,
        dataset="digits",
        run=tmp_path / "run",
        matdir=tmp_path / "mat",
        resume_ckpt=trained / "ckpt" / "2.pth",
        console=QUIET,
    )
    found = loadmat(tmp_path / "mat" / "2.mat")
    during = {epoch: loadmat(trained / "mat" / f"{epoch}.mat")["hard"] for epoch in (2, 4)}
    np.testing.assert_array_equal(found["hard"], during[2])
    assert not np.array_equal(during[2], during[4])
    assert found["soft"].shape == found["hard"].shape


def test_a_run_that_goes_on_certifies_what_is_missing(trained: Path) -> None:
    """Killed between the checkpoint and the certificates: the same command makes them."""
    journal = trained / "run" / "certificates" / "epoch-0004" / "hard.tsv"
    whole = journal.read_text()
    journal.write_text("".join(whole.splitlines(keepends=True)[:4]))
    when = CertificationDuringTraining(from_epoch=2, every=2, skip=50, n=200)
    original_train(SETTINGS, when, run=trained / "run", ckptdir=None, matdir=None, resume_ckpt=None, console=QUIET)

    def without_time(text: str) -> list[list[str]]:
        return [line.split("\t")[:5] + line.split("\t")[6:-1] for line in text.splitlines()]

    assert without_time(journal.read_text()) == without_time(whole)


def test_due_epochs_are_the_originals() -> None:
    when = CertificationDuringTraining(from_epoch=200)
    assert [epoch for epoch in range(1, 441) if when.due(epoch)] == list(range(200, 441, 20))
    assert not any(CertificationDuringTraining().due(epoch) for epoch in range(1, 441))


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(SettingsError, match="certify_every"):
        CertificationDuringTraining(every=0)
