"""A run's training curves: metrics.tsv, one line per epoch, and the same for TensorBoard where it is installed."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from macer.errors import RecordsError, SettingsError
from macer.files.reading import read_text
from macer.files.replacing import replacing, writing

Metrics = dict[str, Float64[np.ndarray, " epochs"]]
"""The columns by their names, "epoch" first."""


class MetricsLog:
    """Writes the mean losses, learning rate and time of each epoch. Use as a context manager.

    Args:
        file: the metrics file.
        tensorboard: the folder for TensorBoard.
        epochs_done: epochs that the checkpoint holds; lines of later ones, which will be done again, are dropped.
    """

    def __init__(self, file: Path, tensorboard: Path, epochs_done: int) -> None:
        self.file = file
        self.epochs_done = epochs_done
        self._tensorboard = tensorboard
        self._columns: list[str] = []

    def __enter__(self) -> "MetricsLog":
        if self.file.exists():
            header, *lines = read_text(self.file).split("\n")[:-1] or [""]  # the last was cut off
            self._columns = header.split("\t")
            epochs = [(line.split("\t")[0], line) for line in lines]
            kept = [line for epoch, line in epochs if epoch.isdigit() and int(epoch) <= self.epochs_done]
            with replacing(self.file) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in [header, *kept] if line), encoding="utf-8")
        try:
            from macer.runs.tensorboard import TensorBoardLog
        except ModuleNotFoundError:  # metrics.tsv says the same
            self._writer = None
        else:
            self._writer = TensorBoardLog(self._tensorboard, self.epochs_done + 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, epoch: int, row: dict[str, float]) -> None:
        """Add the line of epoch number `epoch`, counted from 1.

        Raises:
            SettingsError: the file has other columns.
        """
        new, columns = not self.file.exists() or self.file.stat().st_size == 0, ["epoch", *row]
        if not new and columns != self._columns:
            raise SettingsError(f"{self.file}: its columns are {', '.join(self._columns)}, not {', '.join(columns)}")
        self._columns = columns
        with writing(self.file), self.file.open("a", encoding="utf-8") as stream:
            if new:
                stream.write("\t".join(columns) + "\n")
            stream.write("\t".join([str(epoch), *(f"{value:.6g}" for value in row.values())]) + "\n")
        if self._writer is not None:
            self._writer.write(epoch, {f"training/{name}": value for name, value in row.items()})


def read_metrics(file: Path) -> Metrics:
    """Read the training curves that `MetricsLog` wrote. A last line without its end was cut off, and is left out.

    Raises:
        RecordsError: the file cannot be read, or does not hold one line of finite numbers per epoch.
    """
    try:
        header, *lines = read_text(file).split("\n")[:-1] or [""]
    except FileNotFoundError as error:
        raise RecordsError(f"{file}: not there yet: no epoch is done") from error
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordsError(f"{file}: not a text file") from error
    names = header.split("\t")
    if names[0] != "epoch" or len(set(names)) < len(names):
        raise RecordsError(f"{file}: no training curves (the columns are epoch and others, each with its own name)")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            row = [float(cell) for cell in line.split("\t")]
        except ValueError:
            row = []
        # Training that goes on from another's weights may count its epochs from theirs.
        epoch = int(rows[-1][0]) + 1 if rows else max(1, int(row[0])) if row and math.isfinite(row[0]) else 1
        if len(row) != len(names) or row[0] != epoch or not all(map(math.isfinite, row)):
            raise RecordsError(f"{file}, line {number}: not {len(names)} finite numbers of epoch {epoch}")
        rows.append(row)
    if not rows:
        raise RecordsError(f"{file}: no epoch is done")
    return dict(zip(names, np.array(rows).T, strict=True))
