"""Results in the formats of other programs: Parquet, CSV, JSON, MATLAB and LaTeX."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from macer.errors import RecordsError, SettingsError
from macer.files.printable import printable
from macer.files.replacing import replacing
from macer.results.frame import to_frame
from macer.results.latex import to_latex
from macer.results.records import Records
from macer.results.tables import Table, results_table, to_markdown
from macer.runs.mat import write_mat


def write_results(all_records: Sequence[Records], file: Path) -> None:
    """Write records to a file, in the format of its suffix.

    `.parquet`, `.csv` and `.json` contain one row per image and network, with the columns of `to_frame` and all digits.
    `.mat` contains one run, as the original program writes it (see `write_mat`). `.tex` and `.md` contain the table of
    results.

    Args:
        all_records: the records, each with a name of its own.
        file: the file to write.

    Raises:
        SettingsError: the suffix is not among WRITERS.
        RecordsError: the records do not fit the format.
        OSError: the file cannot be written.
    """
    write = WRITERS.get(file.suffix.lower())
    if write is None:
        raise SettingsError(f"{file}: the name of exported results ends in {', '.join(WRITERS)}")
    write(all_records, file)


def _write_parquet(all_records: Sequence[Records], file: Path) -> None:
    with replacing(file) as temporary:
        to_frame(all_records).to_parquet(temporary, index=False)


def _write_csv(all_records: Sequence[Records], file: Path) -> None:
    with replacing(file) as temporary:
        to_frame(all_records).to_csv(temporary, index=False)


def _write_json(all_records: Sequence[Records], file: Path) -> None:
    frame = to_frame(all_records).astype(object)
    rows = frame.where(frame.notna(), None).to_dict("records")
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    with replacing(file) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _write_mat(all_records: Sequence[Records], file: Path) -> None:
    by_kind = {records.kind: records for records in all_records}
    if len({records.run for records in all_records}) > 1 or len(by_kind) < len(all_records):
        names = ", ".join(records.name for records in all_records)
        raise RecordsError(printable(f"{file}: a .mat file holds the certificates of one run, not of {names}"))
    if any(records.at_least is not None or records.within is not None for records in all_records):
        raise RecordsError(f"{file}: a .mat file cannot say by which rule sampling stopped: write .csv")
    idx = all_records[0].idx
    if not all(np.array_equal(np.asarray(idx), np.asarray(records.idx)) for records in all_records):
        raise RecordsError(f"{file}: a .mat file holds certificates of the same images; hard and soft are of others")
    write_mat(file, {kind: np.where(each.correct, each.radius, -1.0) for kind, each in by_kind.items()}, idx)


def _write_table(form: Callable[[Table], str]) -> Callable[[Sequence[Records], Path], None]:
    def write(all_records: Sequence[Records], file: Path) -> None:
        with replacing(file) as temporary:
            temporary.write_text(form(results_table(all_records)), encoding="utf-8")

    return write


WRITERS: dict[str, Callable[[Sequence[Records], Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".json": _write_json,
    ".mat": _write_mat,
    ".tex": _write_table(to_latex),
    ".md": _write_table(to_markdown),
}
"""The formats, by the suffixes of their files."""
