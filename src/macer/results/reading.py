"""From a path to records: run directories, TSV and .mat files, ours or published."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from macer.errors import RecordsError
from macer.results.mat import read_mat
from macer.results.records import METHODS, Records
from macer.results.tsv import read_tsv
from macer.settings import read_toml
from macer.smoothing.radius import largest_radius


def read_records(path: Path) -> list[Records]:
    """All records that `path` holds: one a kind of certificate.

    Args:
        path: a run's directory (whatever certificates lie in it), a `.tsv` file or a `.mat` file.

    Raises:
        RecordsError: there are none, a file cannot be read, or it contradicts the settings beside it.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.tsv"))
        found = [_from_tsv(file, _name(file, path)) for file in files if file.name != "metrics.tsv"]
        if not found:
            raise RecordsError(f"{path}: no certificates in it (no .tsv file); macer certify makes them")
        return found
    if not path.is_file():
        raise RecordsError(f"{path}: no such file or directory")
    if path.suffix.lower() == ".mat":
        return [_from_mat(path, kind, radii) for kind, radii in read_mat(path).items()]
    return [_from_tsv(path, _file_name(path))]


def _from_mat(file: Path, kind: str, radii: Float64[np.ndarray, " images"]) -> Records:
    radius = np.maximum(radii, 0.0)
    name = f"{_file_name(file)} {kind}"
    return Records(name=name, idx=None, radius=radius, correct=radii >= 0, **_facts(file, name, None, radius))


def _from_tsv(file: Path, name: str) -> Records:
    rows, notes = read_tsv(file)
    idx = np.array([row.idx for row in rows], dtype=np.int64)
    radius = np.array([row.radius for row in rows], dtype=np.float64)
    return Records(
        name=name,
        idx=idx,
        radius=radius,
        correct=np.array([row.correct for row in rows], dtype=bool),
        label=np.array([row.label for row in rows], dtype=np.int64),
        predict=np.array([row.predict for row in rows], dtype=np.int64),
        seconds=np.array([row.seconds for row in rows], dtype=np.float64),
        notes=tuple(notes + _unfinished(file, len(rows))),
        **_facts(file, name, idx, radius),
    )


def _unfinished(file: Path, rows: int) -> list[str]:
    expected = _certification(file).get("num_img", rows)
    return [f"{file}: {rows} of {expected} images; the certification is not finished"] if rows < expected else []


def _certification(file: Path) -> dict[str, Any]:
    """What stands beside a certificate file about how it was made; nothing for published files."""
    number = (float, int)
    kinds = {"sigma": number, "alpha": float, "n": int, "total": int, "num_img": int, "dataset": str}
    return read_table(file.with_name("settings.toml"), "certification", kinds)


def _method(file: Path) -> str | None:
    """How the run that a certificate file lies in, somewhere below its `certificates/`, was trained."""
    for parent in file.resolve().parents:
        if parent.name == "certificates":
            return read_table(parent.with_name("settings.toml"), "objective", {"name": str}).get("name")
    return None


def read_table(file: Path, name: str, kinds: dict[str, Any]) -> dict[str, Any]:
    """A table of a settings.toml; empty where there is no such file or table.

    Args:
        file: the settings.toml.
        name: the table's.
        kinds: the types that some of its values must be of.

    Raises:
        RecordsError: it is no table, or a value is of another type.
        SettingsError: the file cannot be read.
    """
    table = read_toml(file).get(name, {}) if file.is_file() else {}
    if not isinstance(table, dict):
        raise RecordsError(f"{file}: {name} must be a table")
    for key, kind in kinds.items():
        if key in table and not isinstance(table[key], kind):
            raise RecordsError(f"{file}: {key} cannot be {table[key]!r}")
    return table


def _facts(
    file: Path, name: str, idx: Int64[np.ndarray, " images"] | None, radius: Float64[np.ndarray, " images"]
) -> dict[str, Any]:
    """How the certificates were made, for Records. Refuses certificates that cannot have been made so."""
    settings = _certification(file)
    facts: dict[str, Any] = {key: settings.get(key) for key in ("sigma", "n", "alpha", "total", "dataset")}
    sigma, n, alpha, total = (facts[key] for key in ("sigma", "n", "alpha", "total"))
    last = len(radius) - 1 if idx is None else int(idx[-1])
    if total is not None and last >= total:
        raise RecordsError(f"{file}: has image {last}, but settings.toml speaks of {total:,} images")
    if None not in (sigma, n, alpha):
        limit, largest = largest_radius(sigma, n, alpha), float(radius.max())
        if largest > limit * 1.005:  # published radii are rounded to 3 digits
            raise RecordsError(
                f"{file}: a radius of {largest:g} is impossible with the sigma {sigma:g}, n {n:,} and alpha {alpha:g} "
                f"of settings.toml, which allow {limit:.4g}"
            )
    facts["method"] = _method(file)
    told = {"sigma": _sigma_in(_stem(file)), "method": _method_in(name)}
    told = {key: value for key, value in told.items() if facts[key] is None and value is not None}
    return {**facts, **told, "from_name": frozenset(told)}


def _sigma_in(stem: str) -> float | None:
    """The noise level in the field's names of certificate files, `noise_0.25` and `sigma_0.25`."""
    found = re.fullmatch(r"(?:noise|sigma)_(\d+\.\d+)", stem, re.ASCII)
    return (float(found[1]) or None) if found else None


def _method_in(name: str) -> str | None:
    """The one method of the paper that is a word of a name, as in `cifar10-cohen-resnet110/noise_0.25`."""
    found = [method for method in METHODS if method in re.split(r"[^a-z0-9]+", name.lower())]
    return found[0] if len(found) == 1 else None


def _name(file: Path, run: Path) -> str:
    """A run's name for its hard certificates, with whatever sets others in it apart."""
    parts = [*file.relative_to(run).parent.parts, file.stem]
    run = run.resolve()
    owner = run.parent if run.name == "certificates" else run
    return " ".join([owner.name, *(part for part in parts if part not in ("certificates", "hard"))])


def _file_name(file: Path) -> str:
    """A published file is named by its folder and itself, because `noise_0.25` alone says little."""
    folder = file.resolve().parent
    return f"{(folder.parent if folder.name == 'certificates' else folder).name}/{_stem(file)}"


def _stem(file: Path) -> str:
    """A file's name without its suffix; `sigma_0.25` has none."""
    return file.name if file.suffix[1:].isdigit() else file.stem
