"""Networks over the same images: what may be compared, and the differences with their intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from macer.errors import RecordsError, SettingsError
from macer.results.metrics import (
    Estimate,
    default_radii,
    difference_in_words,
    obstacles,
    paired_accuracy_difference,
    paired_difference,
)
from macer.results.reading import read_records, with_facts
from macer.results.records import Records, distinct
from macer.results.tables import Table, printable, results_table
from macer.runs.run import CertificationRun

FACTS = ("images", "sigma", "n", "alpha")
"""What must agree, unless one says that it may differ."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two networks over the images that both were certified on.

    Attributes:
        first: the certificates of one network, of the common images only.
        second: those of the other.
        difference: ACR of the first minus ACR of the second, with its paired 95% interval over the choice of images.
        notes: in what the two differ all the same.
    """

    first: Records
    second: Records
    difference: Estimate
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The difference in words."""
        words = difference_in_words(self.first.name, self.second.name, self.difference)
        return printable(f"{words} (95%, over the choice of these {len(self.first):,} images)")

    def __repr__(self) -> str:
        return "\n".join([self.sentence, *self.notes])


def compare(first: Records, second: Records, *, despite: Collection[str] = ()) -> Comparison:
    """Compare two networks image by image.

    Args:
        first: the certificates of one network.
        second: those of the other.
        despite: which of "images", "sigma", "n" and "alpha" may differ, or be unknown. With "images", the images that
            both have are compared.

    Raises:
        RecordsError: they are not about the same images or noise, or not made with the same n and alpha, or do not say
            it; the text names all of it.
        SettingsError: `despite` names something else.
    """
    first, second = comparable([first, second], despite=despite)
    found = obstacles(first, second)
    notes = tuple(f"compared all the same: {printable(text)}" for text in found.values())
    return Comparison(first, second, paired_difference(first, second, despite=found), notes)


def comparable(all_records: Sequence[Records], *, despite: Collection[str] = ()) -> list[Records]:
    """The records, of the images that all of them have, if the first may be compared with each of the others.

    Others that have the labels of the first and do not say their data set, as published files, are of the first's.

    Args:
        all_records: two or more.
        despite: as for `compare`.

    Raises:
        RecordsError: as for `compare`.
        SettingsError: as for `compare`.
    """
    for fact in sorted(set(despite) - set(FACTS)):
        raise SettingsError(f"records are compared despite {', '.join(FACTS)}, not despite {fact!r}")
    first, *others = all_records
    common = _on_common_images(all_records)
    for other, kept in zip(others, common[1:], strict=True):
        hopeless = obstacles(common[0], kept).get("images")  # other data: no choice of images mends that
        found = {fact: text for fact, text in obstacles(first, other).items() if fact not in despite}
        if hopeless or found:
            reasons = hopeless or "; ".join(found.values())
            way = "" if hopeless else f"; despite {','.join(found)} is possible, on {len(kept):,} images"
            raise RecordsError(printable(f"{first.name} and {other.name} cannot be compared: {reasons}{way}"))
    return [_of_data_set(common[0], kept) for kept in common]


def _of_data_set(first: Records, other: Records) -> Records:
    """The other, of the same images, with the data set and the images in it that the first says."""
    if first.label is None or other.label is None or not np.array_equal(first.label, other.label):
        return other
    return replace(other, dataset=other.dataset or first.dataset, total=other.total or first.total)


def _on_common_images(all_records: Sequence[Records]) -> list[Records]:
    """The records of the images that all have; unchanged where one does not say which images it has."""
    every = [records.idx for records in all_records if records.idx is not None]
    if len(every) < len(all_records):
        return list(all_records)
    common: Int64[np.ndarray, " common"] = reduce(np.intersect1d, every)
    if len(common) == 0:
        names = " and ".join(records.name for records in all_records)
        raise RecordsError(printable(f"{names} cannot be compared: no image is in all of them"))
    return [_only(records, np.isin(idx, common)) for records, idx in zip(all_records, every, strict=True)]


def _only(records: Records, kept: np.ndarray) -> Records:
    values = {field.name: getattr(records, field.name) for field in fields(records)}
    return replace(records, **{name: value[kept] for name, value in values.items() if isinstance(value, np.ndarray)})


def comparison_table(
    all_records: Sequence[Records], radii: Sequence[float] | None = None, *, despite: Collection[str] = ()
) -> Table:
    """The first beside the others on the images that all have: a column a network, and one a difference.

    The differences are those of the first minus another, paired, in certified accuracy and in ACR; below they are said
    in words.

    Args:
        all_records: two or more, of different names.
        radii: where to give certified accuracy; by default 0.00, 0.25, ... as far as any radius reaches.
        despite: as for `compare`.

    Raises:
        RecordsError: as for `compare`.
        SettingsError: as for `compare`.
    """
    first, *others = comparable(all_records, despite=despite)
    radii = default_radii([first, *others]) if radii is None else radii
    wide = results_table([first, *others], radii)
    at_acr = len(wide.header) - 3  # behind it are abstentions and seconds
    header = ["", *(row[0] for row in wide.rows)]
    rows = [list(cells) for cells in list(zip(wide.header, *wide.rows, strict=True))[1:]]
    comparisons = [compare(first, other, despite=despite) for other in others]
    for comparison in comparisons:
        second = comparison.second
        header.append(printable(f"difference{f' from {second.name}' if len(others) > 1 else ''} [95%]"))
        differences = [paired_accuracy_difference(first, second, radius, despite=FACTS) for radius in radii]
        cells = [*map(_signed, differences), _signed(comparison.difference)]
        cells = [""] * (at_acr - len(cells)) + cells
        for row, cell in zip(rows, [*cells, "", ""], strict=True):
            row.append(cell)
    return Table(
        tuple(header),
        tuple(map(tuple, rows)),
        wide.shared,
        (
            *(comparison.sentence for comparison in comparisons),
            *dict.fromkeys(note for comparison in comparisons for note in comparison.notes),
            *wide.notes,
        ),
        frozenset((column - 1, row + 1) for row, column in wide.best),
    )


def _signed(difference: Estimate) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def read_comparable(
    path: Path,
    others: Sequence[Path],
    *,
    sigma: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
) -> tuple[list[Records], tuple[str, ...]]:
    """A run and what to compare it with: hard certificates where a run has soft ones, too.

    Of a directory with certificates at several sigma, as those of published ones, only those at the run's are taken.

    Args:
        path: a run or a file of certificates.
        others: the same, or directories of such.
        sigma: the noise level of files that do not say theirs.
        n: the samples a certificate of files that do not say theirs.
        alpha: the failure probability of each certificate of files that do not say theirs.

    Returns:
        The records by different names, the run's first; and notes on what was left out.

    Raises:
        RecordsError: `path` has several certificates, or as for `read_records` and `with_facts`.
        SettingsError: a sigma, n or alpha that is impossible.
    """
    (run, *more), *found_others = (
        [with_facts(records, sigma=sigma) for records in _hard(each)] for each in (path, *others)
    )
    if more:
        names = ", ".join(records.name for records in (run, *more))
        raise RecordsError(printable(f"{path}: holds several certificates ({names}): name one of their files"))
    kept, left = [run], []
    for found in found_others:
        alike = [records for records in found if records.sigma == run.sigma]
        kept += alike or found
        left += [records.name for records in found if alike and records.sigma != run.sigma]
    notes = (printable(f"left out, of another sigma or of none recorded: {', '.join(left)}"),) if left else ()
    return distinct([with_facts(records, n=n, alpha=alpha) for records in kept]), notes


def _hard(path: Path) -> list[Records]:
    """The hard certificates of a run or a `.mat` file; where there are none, or not of one run, all that there is."""
    found = read_records(path)
    if path.suffix.lower() == ".mat":
        return found[:1]  # hard comes first
    own = CertificationRun(path).owner, "hard"
    return [records for records in found if (records.run, records.kind) == own] or found
