"""The gallery: every image's certificate, and pictures and votes of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from macer import data
from macer.data import LabelledImages
from macer.errors import DataError, MacerError
from macer.files.printable import printable
from macer.report.classes import proved_bounds
from macer.report.pictures import choose_images, data_uri
from macer.report.recount import recount
from macer.report.sources import Source
from macer.results.records import Records

PICTURES = 240
"""The largest number of pictures per data set ..."""
PICTURE_BYTES = 2_000_000
"""... and the largest size of all pictures together."""


@dataclass
class Gallery:
    """The content of the page's gallery, ready for JSON.

    Attributes:
        runs: the numbers of each run, image by image.
        pictures: for each data set its shape, and pictures by index, the most interesting first.
        clean: accuracy without noise by the name of the records, where it was measured.
        warnings: what could not be shown, and why.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    clean: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def number_of_pictures(self) -> int:
        """The number of pictures of all data sets."""
        return sum(len(each["pictures"]) for each in self.pictures)

    def drop_pictures(self, size: int) -> None:
        """Remove at least so many bytes of pictures: the least interesting ones, of the data set with the most."""
        while size > 0 and self.number_of_pictures:
            fullest = max((each["pictures"] for each in self.pictures), key=len)
            _, picture = fullest.popitem()
            size -= len(picture)
        if not self.number_of_pictures:
            self.warnings.append("pictures are left out: the page would be too large with them")


def build_gallery(
    sources: Sequence[Source], *, root: Path | None, votes: int, device: str, console: Console
) -> Gallery:
    """Return the gallery of some certificates.

    Pictures need the data; votes and accuracy without noise need the checkpoint as well. If these are missing, the
    gallery does without them and has a warning.

    Args:
        sources: certificates with indices, labels and predictions.
        root: the directory of the data set; None: where it was when they were made.
        votes: noisy copies per image to count votes on; 0: none, and no accuracy without noise.
        device: what computes the votes.
        console: where progress is shown.
    """
    gallery = Gallery()
    sets: dict[tuple[str, ...], list[Source]] = {}
    for source in sources:
        data_set = tuple(str(source.certification.get(name)) for name in ("dataset", "split", "root"))
        sets.setdefault(data_set, []).append(source)
    shown: dict[int, tuple[int, LabelledImages | None, list[int]]] = {}
    for number, of_set in enumerate(sets.values()):
        images, chosen = _add_pictures(gallery, of_set, root, PICTURE_BYTES // len(sets))
        shown |= {id(source): (number, images, chosen) for source in of_set}
    for source in sources:
        number, images, chosen = shown[id(source)]
        _add_run(gallery, source, number, images, chosen, votes=votes, device=device, console=console)
    return gallery


def _add_pictures(
    gallery: Gallery, sources: Sequence[Source], root: Path | None, budget: int
) -> tuple[LabelledImages | None, list[int]]:
    """Load the data of certificates that are of one data set, and add as many pictures as there is room for."""
    pictures: dict[int, str] = {}
    images = None
    try:
        images = _load(sources[0], root)
        labels = _labels(sources)
        for index in choose_images([source.records for source in sources], PICTURES):
            picture = _picture(images, index, labels[index])
            if picture is None or budget < len(picture):
                break
            pictures[index] = picture
            budget -= len(picture)
    except (MacerError, OSError) as error:
        gallery.warnings.append(f"pictures are left out: {printable(str(error))}")
        images, pictures = None, {}
    gallery.pictures.append({"shape": None if images is None else images.shape, "pictures": pictures})
    return images, list(pictures)


def _load(source: Source, root: Path | None) -> LabelledImages:
    table = source.certification
    dataset = table.get("dataset")
    if not isinstance(dataset, str):
        raise DataError(f"{source.file}: its data set is not recorded")
    recorded = table.get("root")
    place = root or (None if recorded is None else str(recorded))
    options = {name: table.get(name) for name in data.OPTIONS}
    return data.load(dataset, place, str(table.get("split", "test")), **options)


def _labels(sources: Sequence[Source]) -> dict[int, int]:
    """Return the labels in the certificates, by image."""
    found: dict[int, int] = {}
    for records in (source.records for source in sources):
        if records.idx is not None and records.label is not None:
            found |= dict(zip(records.idx.tolist(), records.label.tolist(), strict=True))
    return found


def _picture(images: LabelledImages, index: int, label: int) -> str | None:
    if index >= len(images) or images[index][1] != label:
        raise DataError(f"image {index} of {images.name} is not the one that was certified: its label is not {label}")
    return data_uri(images[index][0])


def _add_run(
    gallery: Gallery,
    source: Source,
    number: int,
    images: LabelledImages | None,
    chosen: list[int],
    *,
    votes: int,
    device: str,
    console: Console,
) -> None:
    counted: dict[int, list[int]] = {}
    if votes > 0 and images is not None:
        here = set() if source.records.idx is None else set(source.records.idx.tolist())
        try:
            found = recount(
                source, images, [index for index in chosen if index in here], votes, device=device, console=console
            )
            counted, gallery.clean[source.records.name] = found.votes, found.clean
        except MacerError as error:
            gallery.warnings.append(
                f"votes of {source.records.name} and its accuracy without noise are left out: {printable(str(error))}"
            )
    gallery.runs.append(
        {
            "name": source.records.name,
            "set": number,
            "kind": source.records.kind,
            "sound": source.sound,
            "sigma": source.records.sigma,
            "alpha": source.records.alpha,
            "n": source.records.n,
            "classes": [] if images is None else images.class_names,
            **_columns(source.records),
            "samples": votes,
            "votes": {
                index: [[label, count] for label, count in enumerate(counts) if count]
                for index, counts in counted.items()
            },
        }
    )


def _rounded_down(values: Float64[np.ndarray, " images"]) -> Float64[np.ndarray, " images"]:
    """Round to four digits without claiming more than was proved."""
    return np.floor(values * 1e4) / 1e4


def _columns(records: Records) -> dict[str, Any]:
    """Return the numbers of every image, as columns."""
    bounds = proved_bounds(records)
    columns = {
        "idx": records.idx,
        "label": records.label,
        "predict": records.predict,
        "radius": _rounded_down(records.radius),
        "bound": None if bounds is None else _rounded_down(bounds),
    }
    return {name: None if column is None else column.tolist() for name, column in columns.items()}
