"""Results that `macer export` wrote: the columns of `to_frame` in a CSV, JSON or Parquet file, read back as records."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from macer.errors import RecordsError, needs
from macer.files.reading import check_regular, open_file, read_text
from macer.results.records import Records
from macer.runs.certificates import KINDS, is_radius
from macer.runs.foreign_cells import flag, number, whole


def _shape(text: str) -> tuple[int, ...]:
    """Return (channels, height, width) of their text, such as 3x32x32."""
    if not re.fullmatch(r"([1-9]\d{0,8}x){2}[1-9]\d{0,8}", text, re.ASCII):
        raise ValueError("is no shape of an image, such as 3x32x32")
    return tuple(map(int, text.split("x")))


_COLUMNS: dict[str, Callable[[str], Any]] = {
    "idx": whole,
    "label": whole,
    "predict": whole,
    "radius": number,
    "correct": flag,
    "seconds": number,
    "p_a_lower": number,
    "image": str,
}
"""What differs between the rows of one network, and how it is read."""
_FACTS: dict[str, Callable[[str], Any]] = {
    "sigma": number,
    "n": whole,
    "alpha": number,
    "dataset": str,
    "split": str,
    "method": str,
    "total": whole,
    "shape": _shape,
    "at_least": number,
    "within": number,
    "bound": str,
    "beta": number,
    "precision": str,
    "notes": str,
}
_FIRST = "run,kind,idx,"
_MOST_ROWS = 2**24

Cells = dict[str, str]


def is_exported(file: Path) -> bool:
    """Return whether a file holds exported results: by its suffix, and of CSV files by their first columns."""
    suffix = file.suffix.lower()
    if suffix != ".csv" or not file.is_file():
        return suffix in (".json", ".parquet")
    with open_file(file) as stream:
        return stream.read(len(_FIRST)) == _FIRST.encode()


def read_exported(file: Path) -> list[Records]:
    """Read the records of an exported file, in its order.

    Raises:
        RecordsError: it is no such file, or a row is impossible; the message names row, column and value.
    """
    try:
        rows = _READERS[file.suffix.lower()](file)
    except OSError as error:
        raise RecordsError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise RecordsError(f"{file}: not exported results: {' '.join(str(error).split())[:200]}") from error
    if not rows:
        raise RecordsError(f"{file}: no certificates in it")
    groups: dict[tuple[str, str], list[tuple[int, Cells]]] = {}
    for number_of_row, cells in enumerate(rows, start=1):
        groups.setdefault((cells.get("run", ""), cells.get("kind", "")), []).append((number_of_row, cells))
    return [_records(file, run, kind, group) for (run, kind), group in groups.items()]


def _csv(file: Path) -> list[Cells]:
    return list(csv.DictReader(io.StringIO(read_text(file)), restval="", strict=True))


def _json(file: Path) -> list[Cells]:
    content = json.loads(read_text(file))
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("no list of objects")
    return [{name: _text(value) for name, value in row.items()} for row in content]


def _parquet(file: Path) -> list[Cells]:
    with needs("report"):
        from pyarrow import ArrowException, parquet  # slow to import

    try:
        check_regular(file)
        with parquet.ParquetFile(file) as opened:
            if opened.metadata.num_rows > _MOST_ROWS:
                raise ValueError(f"{opened.metadata.num_rows:,} rows; at most {_MOST_ROWS:,} are read")
            rows = opened.read().to_pylist()
    except ArrowException as error:
        raise ValueError(str(error)) from error
    return [{name: _text(value) for name, value in row.items()} for row in rows]


_READERS: dict[str, Callable[[Path], list[Cells]]] = {".csv": _csv, ".json": _json, ".parquet": _parquet}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _records(file: Path, run: str, kind: str, rows: Sequence[tuple[int, Cells]]) -> Records:
    def refuse(at: int, column: str, reason: str) -> NoReturn:
        raise RecordsError(f"{file}, row {rows[at][0]}: column {column}: {reason}")

    def value(at: int, column: str, convert: Callable[[str], Any]) -> Any:
        cell = rows[at][1].get(column) or ""
        try:
            return convert(cell) if cell else None
        except ValueError as error:
            refuse(at, column, f"{cell[:100]!r} {error}")

    def values(column: str) -> np.ndarray | None:
        found = [value(at, column, _COLUMNS[column]) for at in range(len(rows))]
        if None in found:
            at = next((at for at, each in enumerate(found) if (each is None) != (found[0] is None)), None)
            if at is not None or column in ("radius", "correct"):
                refuse(at or 0, column, "a value is missing")
            return None
        return np.array(found, dtype={number: np.float64, str: object}.get(_COLUMNS[column], np.int64))

    columns = {name: values(name) for name in _COLUMNS}
    facts = {name: value(0, name, convert) for name, convert in _FACTS.items()}
    facts["notes"] = tuple(filter(None, [facts["notes"]]))
    for at, (_, cells) in enumerate(rows):
        for name in _FACTS:
            if cells.get(name) != rows[0][1].get(name):
                refuse(at, name, f"{cells.get(name)!r:.100} differs from the rows above")
    if kind not in KINDS:
        refuse(0, "kind", f"{kind[:100]!r} is neither hard nor soft")
    _check(columns, refuse)
    columns["correct"] = columns["correct"] == 1  # type: ignore[assignment]
    return Records(run=run, kind=kind, **columns, **facts)  # type: ignore[arg-type]


def _check(columns: dict[str, np.ndarray | None], refuse: Callable[[int, str, str], NoReturn]) -> None:
    """Refuse values that no certificate has, and columns that contradict each other."""
    idx, label, predict, seconds = (columns[name] for name in ("idx", "label", "predict", "seconds"))
    radius, correct = columns["radius"], columns["correct"]
    assert radius is not None
    assert correct is not None
    possible = {"radius": is_radius(radius), "correct": (correct == 0) | (correct == 1)}
    if idx is not None:
        possible["idx"] = (idx >= 0) & (np.diff(idx, prepend=-1) > 0)
    if seconds is not None:
        possible["seconds"] = (seconds >= 0) & (seconds < np.inf)
    if label is not None and predict is not None:
        possible["label"] = label >= 0
        possible["predict"] = (predict >= -1) & ((predict != -1) | (radius == 0))
        right = predict == label
        possible["correct"] &= np.where(correct == 1, right, ~right | (radius == 0))
    for column, holds in possible.items():
        if not holds.all():
            at = int(np.argmin(holds))
            refuse(at, column, f"{columns[column][at]:g} is impossible here")  # type: ignore[index]
