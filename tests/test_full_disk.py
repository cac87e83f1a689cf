"""A full or read-only disk is one line in the system's words, whoever writes the file."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from macer.files.replacing import replacing, writing
from macer.files.toml import write_toml
from macer.results.plots import radius_accuracy_figure, save_figure
from macer.results.records import Records
from macer.results.writing import WRITERS, write_results
from macer.runs.certificates import Row
from macer.runs.checkpoint import write_torch_file
from macer.runs.mat import write_mat
from macer.runs.metrics import MetricsLog
from macer.runs.tensorboard import TensorBoardLog
from macer.smoothing import Certificate

pytest_plugins = ["command"]

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, which refuses everything, as a full disk")


def records() -> Records:
    rows = [Row.of(idx, 1, Certificate(1, 0.1, 0.6, 500.0, 700), 1.0) for idx in range(3)]
    told = {"sigma": 0.25, "n": 700, "alpha": 0.001, "total": 500, "dataset": "digits", "method": "cohen"}
    return Records.from_rows("run", "hard", rows, **told)


def _figure(file: Path) -> None:
    save_figure(radius_accuracy_figure([records()], "title"), [file])


WRITTEN = {
    "settings.toml": lambda file: write_toml(file, {"training": {"epochs": 1}}),
    "last.pt": lambda file: write_torch_file({"weights": torch.zeros(10_000)}, file),
    "certificates.mat": lambda file: write_mat(file, {"hard": np.zeros(10_000)}),
    **{f"certificates{suffix}": lambda file: write_results([records()], file) for suffix in WRITERS},
    **{f"figure.{suffix}": _figure for suffix in ("png", "svg", "pdf")},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_writer_says_what_the_system_says_and_which_file(tmp_path, name):
    file = tmp_path / name
    (tmp_path / f"{name}.tmp").symlink_to(FULL)
    with pytest.raises(OSError, match="could not be written: No space left on device: ") as raised:
        WRITTEN[name](file)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(file))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["metrics.tsv", "tensorboard"])
def test_a_full_disk_while_curves_are_written(tmp_path, name, monkeypatch):
    """TensorBoard's own writer would print a traceback from a thread."""
    full = FULL.open("wb", buffering=0)
    with full, MetricsLog(tmp_path / "metrics.tsv", tmp_path / "tensorboard", 0) as log:
        if name == "metrics.tsv":
            (tmp_path / name).symlink_to(FULL)
        else:
            monkeypatch.setattr(log._writer._records, "_writer", full)
        with pytest.raises(OSError, match="No space left on device") as raised:
            log.write(1, {"loss": 2.0})
    assert name in str(raised.value.filename)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_the_systems_words_are_found_behind_a_librarys(tmp_path, number):
    def library() -> None:
        try:
            raise OSError(number, "the library's words")
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed") from None

    with pytest.raises(OSError, match=os.strerror(number)) as raised, replacing(tmp_path / "file"):
        library()
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "file"))


def test_other_errors_keep_their_words(tmp_path):
    with pytest.raises(RuntimeError, match="a defect"), writing(tmp_path / "file"):
        raise RuntimeError("a defect")


def test_training_ends_with_one_line(macer, digits, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.pt.tmp").symlink_to(FULL)
    words = ("train", *digits.options, "--epochs", 1, "--num-images", 40, "--batch-size", 20, "--method", "cohen")
    said = macer.refuses(*words, "--out", tmp_path / "run")
    assert said == f"macer: {folder / 'last.pt'}: could not be written: No space left on device"


def test_tensorboard_reads_what_was_written(tmp_path):
    log = TensorBoardLog(tmp_path, purge_step=1)
    log.write(1, {"training/loss": 2.5, "training/seconds": 3.0})
    log.write(2, {"training/loss": 1.25, "training/seconds": 3.0})
    log.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Tags()["scalars"] == ["training/loss", "training/seconds"]
    assert [(event.step, event.value) for event in read.Scalars("training/loss")] == [(1, 2.5), (2, 1.25)]
