"""A run's training curve: metrics.tsv, one line an epoch, and the same for TensorBoard."""

from pathlib import Path
from types import TracebackType

from macer.files.replacing import replacing


class MetricsLog:
    """Writes the mean losses, rate and time of each epoch. Use as a context manager.

    Args:
        directory: the run's directory.
        epochs_done: epochs that the checkpoint holds; lines of later ones, which will be done again, are dropped.
    """

    def __init__(self, directory: Path, epochs_done: int) -> None:
        self.file = directory / "metrics.tsv"
        self.epochs_done = epochs_done
        self._tensorboard = directory / "tensorboard"

    def __enter__(self) -> "MetricsLog":
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import

        if self.file.exists():
            header, *lines = self.file.read_text(encoding="utf-8").split("\n")[:-1] or [""]  # the last was cut off
            kept = [
                line for line in lines if line.split("\t")[0].isdigit() and int(line.split("\t")[0]) <= self.epochs_done
            ]
            with replacing(self.file) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in [header, *kept] if line), encoding="utf-8")
        self._writer = SummaryWriter(str(self._tensorboard), purge_step=self.epochs_done + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, epoch: int, row: dict[str, float]) -> None:
        """Add the line of epoch number `epoch`, counted from 1."""
        new = not self.file.exists() or self.file.stat().st_size == 0
        with self.file.open("a", encoding="utf-8") as stream:
            if new:
                stream.write("\t".join(["epoch", *row]) + "\n")
            stream.write("\t".join([str(epoch), *(f"{value:.6g}" for value in row.values())]) + "\n")
        for name, value in row.items():
            self._writer.add_scalar(f"training/{name}", value, epoch)
        self._writer.flush()
