"""What the path of a file of certificates says: the records' name and, as published files have it, sigma and method."""

import re
from pathlib import Path
from typing import Any

from macer.results.records import METHODS
from macer.runs.certificates import KINDS
from macer.runs.foreign import SUFFIXES
from macer.runs.run import Run


def sigma_in(name: str) -> float | None:
    """Return the noise level in a file's name as the field gives them, such as `noise_0.25` and `sigma_0.25`."""
    found = re.fullmatch(r"(?:.*/)?(?:noise|sigma)_(\d+\.\d+)", name, re.ASCII)
    return (float(found[1]) or None) if found else None


def method_in(name: str) -> str | None:
    """Return the one training method that is a word of a name, as in `cifar10-cohen-resnet110/noise_0.25`."""
    words = "-" + re.sub(r"[^a-z0-9]+", "-", name.lower()) + "-"
    found = [method for method in METHODS if f"-{method}-" in words or f"-{method.replace('-', '')}-" in words]
    return found[0] if len(found) == 1 else None


def name_and_place(file: Path) -> dict[str, Any]:
    """Return the name of a file's records and the path that longer names come from.

    A run's own files have the name of its directory. Of a shard or an epoch, and of other files, the folder is part of
    the name, because `noise_0.25` alone says little.
    """
    stem = file.stem if file.suffix.lower() in SUFFIXES else file.name
    *folders, own = file.resolve().with_name(stem).parts[1:]
    place = tuple(part for part in folders if part != Run("").certification.path.name)
    several = re.fullmatch(r"(shard|epoch)-.*", place[-1]) if place else None
    place, parts = (place, 2 if several else 1) if own in KINDS and place else ((*place, own), 2)
    return {"run": "/".join(place[-parts:]), "place": place}
