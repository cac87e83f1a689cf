"""Results for notebooks and scripts: data frames, table, plot and files of any certificates."""

import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from macer.errors import RecordsError, needs
from macer.files.printable import printable
from macer.results.compare import Comparison, compare
from macer.results.metrics import Estimate, average_certified_radius, certified_accuracy_interval
from macer.results.reading import read_trained, with_facts
from macer.results.records import Records, distinct
from macer.results.tables import Table, checked_radii, results_table, shown_radii, to_html

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from macer.results.plots import Picture


class Results:
    """The certificates of one or more networks. A notebook shows them as their table.

    Args:
        all_records: the records; where two have the same name, the later one gets a number behind it.

    >>> import macer
    >>> results = macer.load_results("zoo:mnist-macer-0.25", "zoo:mnist-cohen-0.25")
    >>> results.names
    ['mnist-macer-0.25', 'mnist-cohen-0.25']
    >>> acr = results.metrics([0.5]).query("metric == 'ACR'")
    >>> difference = results.compare(*results.names).difference
    """

    def __init__(self, all_records: Iterable[Records]) -> None:
        self.records = tuple(distinct(all_records))

    @property
    def names(self) -> list[str]:
        """The names by which `compare` and `results[name]` know the records."""
        return [records.name for records in self.records]

    def __iter__(self) -> Iterator[Records]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> Records:
        for records in self.records:
            if records.name == name:
                return records
        raise RecordsError(f"no records are named {name!r}; there are {', '.join(self.names)}")

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return to_html(self.table())

    def frame(self) -> "pd.DataFrame":
        """Return one row per image and network, with the columns that `to_frame` describes."""
        from macer.results.frame import to_frame  # pandas is slow to import

        return to_frame(self.records)

    def metrics(self, radii: Sequence[float] | None = None) -> "pd.DataFrame":
        """Return certified accuracy and average certified radius (ACR) with their 95% intervals.

        The interval of certified accuracy is Wilson's, that of ACR the bootstrap's, both over the choice of images. ACR
        depends on n: never compare it across n.

        Args:
            radii: L2 radii in units of [0, 1] pixels; by default 0.00, 0.25, ... up to the largest that is reached.
                Images that were certified at one radius or not at all have a row at that radius only, and no ACR.

        Returns:
            One row per network for its ACR, then one per radius. The columns are run, kind, metric ("ACR" or "certified
            accuracy"), radius (missing for ACR), value, low, high, sigma, n, alpha, data, and images (which ones, in
            words).
        """
        with needs("report"):
            import pandas as pd  # slow to import

        radii = shown_radii(self.records) if radii is None else checked_radii(radii)
        rows = [
            (
                *(records.run, records.kind, metric, radius, estimate.value, estimate.low, estimate.high),
                *(records.sigma, records.n, records.alpha, records.data, records.images),
            )
            for records in self.records
            for metric, radius, estimate in _estimates(records, radii)
        ]
        columns = ["run", "kind", "metric", "radius", "value", "low", "high", "sigma", "n", "alpha", "data", "images"]
        kinds = {"radius": "float64", "sigma": "float64", "n": "Int64", "alpha": "float64"}
        return pd.DataFrame(rows, columns=columns).astype(kinds)

    def compare(self, a: str, b: str, *, despite: Collection[str] = ()) -> Comparison:
        """Compare two networks image by image, and return the difference of their ACR with its interval.

        Args:
            a: the name of one.
            b: the name of the other.
            despite: which of "images", "sigma", "n" and "alpha" may differ or be unknown. With "images", the images
                that both have are compared.

        Raises:
            RecordsError: no records have such a name, or the two must not be compared; the message says why.
            SettingsError: `despite` names something else.
        """
        return compare(self[a], self[b], despite=despite)

    def table(self, radii: Sequence[float] | None = None) -> Table:
        """Return the table of results: certified accuracy at some radii, ACR, abstentions and time per network.

        Args:
            radii: as for `metrics`.
        """
        return results_table(self.records, radii)

    def plot(
        self,
        *,
        title: str | None = None,
        labels: Sequence[str] | None = None,
        width: float | None = None,
        short_legend: bool = False,
    ) -> "Picture":
        """Draw certified accuracy against radius, one panel per sigma, with 95% bands.

        Args:
            title: title above the panels.
            labels: a name for the legend per record; by default their names.
            width: width of the picture in inches.
            short_legend: name each look once, without ACR and images.

        Returns:
            A matplotlib figure; `figure.savefig("curves.pdf")` writes it.
        """
        from macer.results.plots import radius_accuracy_figure  # matplotlib is slow to import

        return radius_accuracy_figure(self.records, title, labels=labels, width=width, short_legend=short_legend)

    def write(self, file: str | os.PathLike[str]) -> None:
        """Write the certificates as .parquet, .csv, .json or .mat, or the table of results as .tex or .md.

        Raises:
            SettingsError: the name ends in something else.
            RecordsError: a `.mat` file holds one run, and these are more.
            OSError: the file cannot be written.
        """
        from macer.results.writing import write_results  # pandas and SciPy are slow to import

        write_results(self.records, Path(file))


def load_results(
    *paths: str | os.PathLike[str], sigma: float | None = None, n: int | None = None, alpha: float | None = None
) -> Results:
    """Load the certificates of runs, of published files, or of both. Notes on the files become Python warnings.

    Certificates that were made between epochs are left out where a run has others; give their directory to load them.

    Args:
        paths: runs' directories, `.tsv` and `.mat` files, or zoo:NAME for networks of the zoo.
        sigma: the noise level of files that do not record theirs.
        n: samples per certificate of files that do not record it, as published ones.
        alpha: failure probability of each certificate of files that do not record it.

    Raises:
        RecordsError: there are none, a file cannot be read, or it contradicts sigma, n and alpha.
        SettingsError: an impossible sigma, n or alpha.
    """
    found: list[Records] = []
    notes: list[str] = []
    for path in paths:
        trained, left_out = read_trained(Path(path))
        found += [with_facts(records, sigma=sigma, n=n, alpha=alpha) for records in trained]
        notes += left_out
    if not found:
        raise RecordsError("give the runs or files to load")
    for note in (*notes, *(note for records in found for note in records.notes)):
        warnings.warn(printable(note), stacklevel=2)
    return Results(found)


def _estimates(records: Records, radii: Iterable[float]) -> Iterator[tuple[str, float | None, Estimate]]:
    if records.at_least is None:
        yield "ACR", None, average_certified_radius(records)
    for radius in (each for each in radii if records.at_least in (None, each)):
        yield "certified accuracy", float(radius), certified_accuracy_interval(records, radius)
