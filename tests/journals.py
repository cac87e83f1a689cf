"""What tests of certification ask of journals."""

import csv
from pathlib import Path

import numpy as np
from scipy.io import loadmat

IMAGES = 24
OPTIONS = ("--device", "cpu", "--mode", "both", "--n", 700, "--skip", 20, "--num-img", IMAGES, "--seed", 0)


def rows(directory: Path, kind: str) -> list[list[str]]:
    """The lines of a journal, header first, without the time and the checksum, which covers it."""
    with (directory / f"{kind}.tsv").open(newline="") as stream:
        return [row[:5] + row[6:-1] for row in csv.reader(stream, delimiter="\t")]


def assert_same(directory: Path, whole: Path) -> None:
    """The same rows but for the time, the same radii in certificates.mat, and no part of a journal left."""
    for kind in ("hard", "soft"):
        assert rows(directory, kind) == rows(whole, kind)
        there, here = (loadmat(each / "certificates.mat")[kind] for each in (directory, whole))
        np.testing.assert_array_equal(there, here)
    assert not list(directory.rglob("*.part"))
