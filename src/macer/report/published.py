"""Published certificates for the same data set, network and sigma as the runs on the page."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from macer.data import DATASETS
from macer.errors import MacerError, RecordsError, SettingsError
from macer.models import NETWORKS
from macer.report.looks import published_looks
from macer.report.sources import Gathered, Source, source_of, with_radii
from macer.results.compare import FACTS, comparable
from macer.results.reading import read_records
from macer.results.records import Records
from macer.runs.run import certificate_files


def gather_published(places: Sequence[Path], gathered: Gathered) -> tuple[list[Source], list[str]]:
    """Read published certificates to show behind the runs.

    Of a directory, these are the files whose path contains the words of a run's data set and network, and whose name
    contains its sigma. A file that is named itself is always shown. If certificates cover the images of the first run,
    they are reduced to these, because accuracies on different images are not comparable.

    Args:
        places: files of certificates, and directories, of which `certificate_files` count.
        gathered: the runs.

    Returns:
        The certificates, and warnings on what was left out or does not fit.

    Raises:
        MacerError: a place does not exist, or a file that was named itself cannot be read.
    """
    found: list[Source] = []
    warnings: list[str] = []
    for place in places:
        if place.is_dir():
            found += _fitting(place, gathered, warnings)
        elif place.is_file():
            found += [source_of(place, records, published=True) for records in read_records(place)]
        else:
            raise SettingsError(f"{place}: no such file or directory")
    found = with_radii(found, warnings)
    sigmas = {source.records.sigma for source in gathered.main}
    warnings += [note for source in found for note in source.records.notes]
    warnings += [
        f"{source.file}: its sigma is not recorded, or not that of any run here"
        for source in found
        if source.records.sigma not in sigmas
    ]
    found = [
        replace(source, records=_same_images(source.records, gathered.main[0].records), look=look)
        for source, look in zip(found, published_looks(found), strict=True)
    ]
    return found, warnings


def _fitting(directory: Path, gathered: Gathered, warnings: list[str]) -> list[Source]:
    files = certificate_files(directory)
    wanted = [subject for source in gathered.main if None not in (subject := _subject(source))]
    found: list[Source] = []
    for file in files:
        words = _words("/".join([directory.resolve().name, *file.relative_to(directory).parts]))
        about = _longest(words, DATASETS), _longest(words, NETWORKS)
        sigmas = [sigma for *subject, sigma in wanted if tuple(subject) == about]
        if not sigmas:
            continue
        try:
            every = read_records(file)
        except MacerError as error:
            warnings.append(f"left out: {error}")
            continue
        found += [source_of(file, records, published=True) for records in every if records.sigma in sigmas]
    if not found:
        warnings.append(
            f"{directory}: none of its {len(files)} files of certificates has the data set, network and sigma of a "
            "run here in its name; a file that is named itself is always shown"
        )
    return found


def _subject(source: Source) -> tuple[str | None, str | None, float | None]:
    """Return data set, network and sigma of a run's certificates."""
    network = source.certification.get("network")
    return source.records.dataset, network if isinstance(network, str) else None, source.records.sigma


def _words(text: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", text.lower())


def _longest(words: list[str], names: Sequence[str] | dict) -> str | None:
    """Return the longest of some names whose words occur together in a path: fashion-mnist rather than mnist."""
    found = [name for name in names if f" {' '.join(_words(name))} " in f" {' '.join(words)} "]
    return max(found, key=len, default=None)


def _same_images(published: Records, ours: Records) -> Records:
    """Return published records for exactly the images of ours, if they have all of them with the same labels."""
    try:
        _, kept = comparable([ours, published], despite=FACTS)
    except RecordsError:
        return published
    if len(kept) < len(ours):
        return published
    return kept if len(kept) == len(published) else replace(kept, run=f"{published.run} (same images)")
