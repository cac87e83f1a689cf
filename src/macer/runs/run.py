"""The directories of a training and of a certification: where each of their files is, and how it is read."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from macer.errors import RecordsError
from macer.files.toml import read_toml
from macer.runs.certificates import KINDS
from macer.runs.checkpoint import Checkpoint, load_checkpoint
from macer.runs.foreign import holds_certificates
from macer.runs.metrics import Metrics, read_metrics

_CERTIFICATES = "certificates"
_CHECKPOINTS = "checkpoints"


class _Directory(os.PathLike):
    """A directory with a settings.toml. It can be used wherever a path can.

    Args:
        directory: its path; nothing needs to exist there.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    @property
    def settings_file(self) -> Path:
        """Settings and environment, as TOML tables."""
        return self.path / "settings.toml"

    def settings(self) -> dict[str, Any]:
        """Return the tables of the settings file.

        Raises:
            SettingsError: there is no such file, or it cannot be read.
        """
        return read_toml(self.settings_file)

    def recorded(self, table: str, kinds: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return one table of the settings file, as `read_table` does; empty where there is no such file or table."""
        return read_table(self.settings_file, table, kinds)


class Run(_Directory):
    """The directory of a training: settings, checkpoints, metrics, and usually its certificates.

    Args:
        directory: its path.
        network: the trained module, where it exists in memory alone; otherwise None.

    >>> run = Run("runs/mnist-macer-0.25")
    >>> run.checkpoint_file.as_posix()
    'runs/mnist-macer-0.25/checkpoints/last.pt'
    """

    def __init__(self, directory: str | os.PathLike[str], network: nn.Module | None = None) -> None:
        super().__init__(directory)
        self.network = network

    @classmethod
    def around(cls, file: Path) -> "Run | None":
        """Return the run in whose folder of certificates a file lies, however deep; None if it lies in none."""
        for parent in [*file.parents, *file.resolve().parents]:
            run = cls(parent.parent)
            if parent.name == _CERTIFICATES and run.settings_file.is_file():
                return run
        return None

    @classmethod
    def of_checkpoint(cls, file: Path) -> "Run | None":
        """Return the run whose checkpoint a file is, by its place; None if it lies in no folder of checkpoints."""
        return cls(file.parents[1]) if file.parent.name == _CHECKPOINTS else None

    @property
    def checkpoint_file(self) -> Path:
        """The last checkpoint."""
        return self.path / _CHECKPOINTS / "last.pt"

    @property
    def metrics_file(self) -> Path:
        """One line per epoch."""
        return self.path / "metrics.tsv"

    @property
    def tensorboard(self) -> Path:
        """The folder of the same curves for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def certification(self) -> "CertificationRun":
        """The directory of the run's certificates."""
        return CertificationRun(self.path / _CERTIFICATES)

    def checkpoint(self) -> Checkpoint:
        """Return the last checkpoint.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        return load_checkpoint(self.checkpoint_file)

    def metrics(self) -> Metrics:
        """Return the training curves: one array per column of the metrics file, "epoch" first.

        Raises:
            RecordsError: there are none, or the file cannot be read.
        """
        return read_metrics(self.metrics_file)

    def went_on_after(self, epoch: int | None) -> bool:
        """Return whether epochs after this one (None: unknown) were trained, as far as the training curves say."""
        if epoch is not None:
            with suppress(RecordsError):
                return bool(max(self.metrics()["epoch"], default=0) > epoch)
        return False


class CertificationRun(_Directory):
    """The directory of a certification: settings and one file of certificates per kind.

    Args:
        directory: its path.
    """

    def journal(self, kind: str) -> Path:
        """Return the file of the certificates of a kind, "hard" or "soft"."""
        return self.path / f"{kind}.tsv"

    @property
    def mat_file(self) -> Path:
        """The certified radii as the original program stores them; written when the certification is finished."""
        return self.path / "certificates.mat"

    @property
    def shards_seed_file(self) -> Path:
        """The seed that the shards have in common, which lie below this directory."""
        return self.path / "seed.toml"

    @property
    def shards_precision_file(self) -> Path:
        """The arithmetic that the shards have in common, which lie below this directory."""
        return self.path / "precision.toml"

    def of_epoch(self, epoch: int) -> "CertificationRun":
        """Return the directory of the certificates that were made after an epoch of training."""
        return CertificationRun(self.path / f"epoch-{epoch:04d}")

    def of_shard(self, part: int, parts: int) -> "CertificationRun":
        """Return the directory of the certificates of one shard."""
        return CertificationRun(self.path / f"shard-{part}-of-{parts}")

    @property
    def shards(self) -> "list[CertificationRun]":
        """The directories of the shards that lie here and have settings, by name."""
        return [CertificationRun(file.parent) for file in sorted(self.path.glob("shard-*-of-*/settings.toml"))]


def epoch_of(file: Path) -> int | None:
    """Return the epoch after which the certificates in a file were made, by its folder; None after the last one."""
    found = re.fullmatch(r"epoch-(\d+)", file.parent.name, re.ASCII)
    return int(found[1]) if found else None


def kind_of(file: Path) -> str:
    """Return the kind of the certificates in a `.tsv` file: by its name in a certification's directory, else hard."""
    return file.stem if file.stem in KINDS else "hard"


def certificate_files(directory: Path) -> list[Path]:
    """Return all files of certificates in and below a directory: the one rule of every command that reads a directory.

    These are `.tsv` files, `.mat` files, and whatever else looks like certificates inside. Hidden files do not count,
    nor do training curves, the `.mat` file beside a journal, and exported results, which say the same once more.
    """
    found = (file for file in sorted(directory.rglob("*")) if file.is_file() and not is_metrics(file))
    return [
        file
        for file in found
        if not any(part.startswith(".") for part in file.relative_to(directory).parts)
        and (_is_own_mat(file) if file.suffix.lower() == ".mat" else holds_certificates(file))
    ]


def _is_own_mat(file: Path) -> bool:
    """Return whether a `.mat` file says what no journal beside it says."""
    return not any(CertificationRun(file.parent).journal(kind).exists() for kind in KINDS)


def is_metrics(file: Path) -> bool:
    """Return whether a file is a run's training curves, by its name."""
    return file.name == Run("").metrics_file.name


def read_table(file: Path | None, name: str, kinds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read one table of a settings file; without such a file or table it is empty.

    Args:
        file: the settings file; None if there is none.
        name: the table's.
        kinds: the types that some of its values must have.

    Raises:
        RecordsError: it is no table, or a value has another type.
        SettingsError: the file cannot be read.
    """
    table = read_toml(file).get(name, {}) if file is not None and file.is_file() else {}
    if not isinstance(table, dict):
        raise RecordsError(f"{file}: {name} must be a table")
    for key, kind in (kinds or {}).items():
        if key in table and not isinstance(table[key], kind):
            raise RecordsError(f"{file}: {key} cannot be {table[key]!r}")
    return table
