"""Comparing networks on the same images: what may be compared, and the differences with their intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from macer.errors import RecordsError, SettingsError, needs
from macer.files.printable import printable
from macer.results.metrics import (
    Estimate,
    average_certified_radius,
    certified_accuracy,
    difference_in_words,
    obstacles,
    paired_accuracy_difference,
    paired_difference,
)
from macer.results.reading import read_files, with_facts
from macer.results.records import Records, distinct
from macer.results.tables import ACR, Table, radius_title, results_table, shown_radii
from macer.runs.run import CertificationRun, Run

if TYPE_CHECKING:  # slow to import
    import pandas as pd

FACTS = ("images", "sigma", "n", "alpha")
"""What must agree unless the caller allows it to differ."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two networks over the images that both were certified on.

    Attributes:
        first: the certificates of one network, on the common images only.
        second: those of the other.
        difference: ACR of the first minus ACR of the second, with its paired 95% interval over the choice of images;
            where images of one were certified at one radius or not at all, that of certified accuracy at this radius.
        notes: what differs or is unknown and was allowed to, other kinds of certificates, and the notes of both.
    """

    first: Records
    second: Records
    difference: Estimate
    notes: tuple[str, ...]
    quantity: str = ACR

    @property
    def sentence(self) -> str:
        """The difference as a sentence."""
        quantity, asked = self.quantity.split(" [")[0], self.first.at_least or self.second.at_least
        certified = (each.certified_radius >= (asked or 0) for each in (self.first, self.second))
        differ = None if asked is None else int(np.not_equal(*certified).sum())
        words = difference_in_words(self.first.name, self.second.name, self.difference, quantity, differ=differ)
        return printable(f"{words} (95%, over the choice of these {len(self.first):,} images)")

    def __repr__(self) -> str:
        return "\n".join([self.sentence, *self.notes])

    def accuracy_differences(self, radii: Sequence[float]) -> list[tuple[float, Estimate]]:
        """Return the paired differences in certified accuracy, at those of the radii at which both have one."""
        known = [radius for radius in radii if {self.first.at_least, self.second.at_least} <= {None, radius}]
        return [(each, paired_accuracy_difference(self.first, self.second, each, despite=FACTS)) for each in known]

    def frame(self, radii: Sequence[float] | None = None) -> "pd.DataFrame":
        """Return both networks' ACR and certified accuracy, and the paired differences with their 95% intervals.

        Args:
            radii: as for `Results.metrics`.

        Returns:
            One row for ACR, then one per radius. The columns are metric ("ACR" or "certified accuracy"), radius
            (missing for ACR), first, second, difference, low and high.
        """
        with needs("report"):
            import pandas as pd  # slow to import

        pair = (self.first, self.second)
        rows = []
        if self.quantity == ACR:
            rows.append(("ACR", None, *(average_certified_radius(each).value for each in pair), self.difference))
        for radius, difference in self.accuracy_differences(shown_radii(pair) if radii is None else radii):
            values = (certified_accuracy(each, radius) for each in pair)
            rows.append(("certified accuracy", radius, *values, difference))
        columns = ["metric", "radius", "first", "second", "difference", "low", "high"]
        cells = [(*row, estimate.value, estimate.low, estimate.high) for *row, estimate in rows]
        return pd.DataFrame(cells, columns=columns).astype({"radius": "float64"})


def compare(first: Records, second: Records, *, despite: Collection[str] = ()) -> Comparison:
    """Compare two networks image by image.

    Args:
        first: the certificates of one network.
        second: those of the other.
        despite: which of "images", "sigma", "n" and "alpha" may differ or be unknown. With "images", the images that
            both have are compared.

    Raises:
        RecordsError: images, sigma, n or alpha differ or are unknown; the message names all of these.
        SettingsError: `despite` names something else.
    """
    first, second = comparable([first, second], despite=despite)
    found = obstacles(first, second)
    notes = (
        *(f"compared although {printable(text)}" for text in found.values()),
        *unlike_certificates(first, second),
        *_known_by_indices_alone(first, second),
        *(printable(note) for note in (*first.notes, *second.notes)),
    )
    asked = first.at_least if first.at_least is not None else second.at_least
    if asked is None:
        return Comparison(first, second, paired_difference(first, second, despite=found), notes)
    difference = paired_accuracy_difference(first, second, asked, despite=found)
    return Comparison(first, second, difference, notes, f"certified accuracy at {radius_title(asked)}")


def unlike_certificates(first: Records, second: Records) -> list[str]:
    """Return a note if the certificates are of different kinds, and not only of different networks."""
    one, other = map(_kind_in_words, (first, second))
    if one == other:
        return []
    return [
        printable(
            f"certificates are {one} for {first.name}, {other} for {second.name}: the difference is not that of the "
            "networks alone"
        )
    ]


def _known_by_indices_alone(first: Records, second: Records) -> list[str]:
    """Return a note if nothing but indices says that both are of the same images."""
    for fact in ("dataset", "label", "image"):
        if getattr(first, fact) is not None and getattr(second, fact) is not None:
            return []
    silent = " and ".join(records.name for records in (first, second) if records.dataset is None)
    return [printable(f"the images are taken for the same by their indices: {silent} does not say of which data set")]


def _kind_in_words(records: Records) -> str:
    beta = None if records.beta is None else f"beta {records.beta:g}"
    asked = None if records.at_least is None else f"at radius {records.at_least:g} or not at all"
    more = ", ".join(filter(None, (asked, records.bound, beta, records.precision)))
    return f"{records.kind} ({more})" if more else records.kind


def comparable(all_records: Sequence[Records], *, despite: Collection[str] = ()) -> list[Records]:
    """Return the records of the images that all of them have, if the first may be compared with each of the others.

    Others that have the same labels as the first but no known data set, as published files, get the data set of the
    first.

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
    refused = {other.name: reasons for other in others if (reasons := _reasons(first, other, despite))}
    if refused:
        (name, reasons), *_ = refused.items()
        rest = f"; without {' and '.join(refused)} the others can be compared" if len(refused) < len(others) else ""
        raise RecordsError(printable(f"{first.name} and {name} cannot be compared: {reasons}{rest}"))
    common = _on_common_images(all_records)
    return [_of_data_set(common[0], kept) for kept in common]


def _reasons(first: Records, other: Records, despite: Collection[str]) -> str:
    """Return why two records must not be compared, and despite what they can be; "" if they may be compared."""
    one, kept = _on_common_images([first, other])
    hopeless = obstacles(one, kept)  # by other data or another question: no choice of images mends that
    if fact := next((fact for fact in ("images", "at_least") if fact in hopeless), None):
        return hopeless[fact]
    found = {fact: text for fact, text in obstacles(first, other).items() if fact not in despite}
    asked = ",".join(fact for fact in FACTS if fact in found or fact in despite)
    way = f"despite {asked} they can be compared, on {len(kept):,} images"
    return "; ".join([*found.values(), way]) if found else ""


def _of_data_set(first: Records, other: Records) -> Records:
    """Return the other records with the data set of the first if they have the same labels."""
    if first.label is None or other.label is None or not np.array_equal(first.label, other.label):
        return other
    return replace(
        other,
        dataset=other.dataset or first.dataset,
        split=other.split or first.split,
        total=other.total or first.total,
    )


def _on_common_images(all_records: Sequence[Records]) -> list[Records]:
    """Return the records of the images that all have; unchanged if the images of one are unknown."""
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
    """Return the first beside the others on the images that all have: one column per network and per difference.

    The differences are paired, the first minus another, in certified accuracy and in ACR. The notes below say them in
    words.

    Args:
        all_records: two or more, of different names.
        radii: where to give certified accuracy; by default 0.00, 0.25, ... up to the largest certified radius.
        despite: as for `compare`.

    Raises:
        RecordsError: as for `compare`.
        SettingsError: as for `compare`.
    """
    first, *others = comparable(all_records, despite=despite)
    radii = shown_radii([first, *others]) if radii is None else radii
    wide = results_table([first, *others], radii)
    header = ["", *(row[0] for row in wide.rows)]
    rows = [list(cells) for cells in list(zip(wide.header, *wide.rows, strict=True))[1:]]
    named = len(others) > 1 or header[1] != printable(first.name)  # columns go by sigma, where that differs
    comparisons = [compare(first, other, despite=despite) for other in others]
    for comparison in comparisons:
        second = comparison.second
        header.append(printable(f"difference{f' from {second.name}' if named else ''} [95%]"))
        cells = {comparison.quantity: comparison.difference.in_words(sign="+")}
        for radius, difference in comparison.accuracy_differences(radii):
            cells[radius_title(radius)] = difference.in_words(sign="+")
        for row in rows:
            row.append(cells.get(row[0], ""))
    return Table(
        tuple(header),
        tuple(map(tuple, rows)),
        wide.shared,
        (
            *(comparison.sentence for comparison in comparisons),
            *dict.fromkeys(note for each in (*comparisons, wide) for note in each.notes),
        ),
        frozenset((column - 1, row + 1) for row, column in wide.best),
    )


def read_comparable(
    path: Path,
    others: Sequence[Path],
    *,
    sigma: float | None = None,
    n: int | None = None,
    alpha: float | None = None,
) -> tuple[list[Records], tuple[str, ...]]:
    """Read a run and what to compare it with; of runs with hard and soft certificates the hard ones.

    From a directory with certificates at several sigma, as published ones, only those at the sigma of the run are used.

    Args:
        path: a run or a file of certificates.
        others: the same, or directories of such.
        sigma: the noise level of files that do not record it.
        n: samples per certificate of files that do not record it.
        alpha: failure probability of each certificate of files that do not record it.

    Returns:
        The records, each with a name of its own, the run first; and notes on what was left out.

    Raises:
        RecordsError: `path` has several certificates, or as for `read_records` and `with_facts`.
        SettingsError: an impossible sigma, n or alpha.
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
    """Read the hard certificates of a run or a `.mat` file; if there are none, or several files, all of them."""
    found = read_files(path)
    if path.suffix.lower() == ".mat":
        return [records for _, records in found[:1]]  # hard comes first
    own = [CertificationRun(path).journal("hard"), Run(path).certification.journal("hard")]
    return [records for file, records in found if file in own][:1] or [records for _, records in found]
