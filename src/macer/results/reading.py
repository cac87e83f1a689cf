"""From a path to records: run directories, TSV and .mat files, ours or published."""

from pathlib import Path
from typing import Any

import numpy as np

from macer.errors import RecordsError
from macer.results.mat import read_mat
from macer.results.records import Records
from macer.results.tsv import read_tsv
from macer.settings import read_toml


def read_records(path: Path) -> list[Records]:
    """All records that `path` holds: one a kind of certificate.

    Args:
        path: a run's directory (whatever certificates lie in it), a `.tsv` file or a `.mat` file.

    Raises:
        RecordsError: there are none, or a file cannot be read.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.tsv"))
        found = [_from_tsv(file, _name(file, path)) for file in files if file.name != "metrics.tsv"]
        if not found:
            raise RecordsError(f"{path}: no certificates in it (no .tsv file); macer certify makes them")
        return found
    if not path.is_file():
        raise RecordsError(f"{path}: no such file or directory")
    if path.suffix == ".mat":
        return [
            Records(name=f"{path.stem} {kind}", idx=None, radius=np.maximum(radii, 0.0), correct=radii >= 0)
            for kind, radii in read_mat(path).items()
        ]
    return [_from_tsv(path, _file_name(path))]


def _from_tsv(file: Path, name: str) -> Records:
    rows, notes = read_tsv(file)
    settings = _settings(file)
    return Records(
        name=name,
        idx=np.array([row.idx for row in rows], dtype=np.int64),
        radius=np.array([row.radius for row in rows], dtype=np.float64),
        correct=np.array([row.correct for row in rows], dtype=bool),
        label=np.array([row.label for row in rows], dtype=np.int64),
        predict=np.array([row.predict for row in rows], dtype=np.int64),
        seconds=np.array([row.seconds for row in rows], dtype=np.float64),
        sigma=settings.get("sigma"),
        n=settings.get("n"),
        alpha=settings.get("alpha"),
        total=settings.get("total"),
        dataset=settings.get("dataset"),
        notes=tuple(notes + _unfinished(file, len(rows), settings.get("num_img"))),
    )


def _unfinished(file: Path, rows: int, expected: int | None) -> list[str]:
    if expected is None or rows >= expected:
        return []
    return [f"{file}: {rows} of {expected} images; the certification is not finished"]


def _settings(file: Path) -> dict[str, Any]:
    """What stands beside a certificate file about how it was made; nothing for published files."""
    beside = file.with_name("settings.toml")
    return read_toml(beside).get("certification", {}) if beside.is_file() else {}


def _name(file: Path, run: Path) -> str:
    """A run's name for its hard certificates, with whatever sets others in it apart."""
    parts = [*file.relative_to(run).parent.parts, file.stem]
    return " ".join([run.resolve().name, *(part for part in parts if part not in ("certificates", "hard"))])


def _file_name(file: Path) -> str:
    """A published file is named by its folder and itself, because `noise_0.25` alone says little."""
    return f"{file.resolve().parent.name}/{file.stem}"
