"""Certificates that are carried over to a changed network: from the run that made them to the settings and the work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from macer import data
from macer.certification.checking import certification_in, read_own_journal
from macer.certification.journals import check_image
from macer.certification.settings import CHOICE, CertificationSettings, fingerprint
from macer.data import LabelledImages
from macer.runs.certificates import Row
from macer.runs.remembered import read_remembered, votes_file
from macer.runs.run import CertificationRun
from macer.runs.settings import differences, require
from macer.smoothing.carrying import Carried, Remembered

_SAME = ("classes", "sigma", "n0", "n", "seed", "sound", "noise")
"""Settings without which the samples or the votes are others."""
_OF_IMAGES = ("dataset", "split", "root", *data.OPTIONS)


def with_carried(chosen: Mapping[str, Any], *, own_images: bool) -> dict[str, Any]:
    """Return a person's choices with those of the run that they carry over, where they say nothing.

    Args:
        chosen: values of fields of `CertificationSettings`, and perhaps `dataset`, by name; `carry` is among them.
        own_images: whether the images are given, and not to be found as those of the run were.

    Raises:
        SettingsError: `carry` leads to no certificates, or to some that remembered nothing.
    """
    run, table = certification_in(Path(str(chosen["carry"])))
    before = CertificationSettings.read(table, run.settings_file)
    require(
        before.remember is True, f"{run} remembered no votes, which carrying needs: certify it anew, and remember them"
    )
    names = {"sigma", "alpha", "n0", "n", "seed", "sound", *CHOICE, *(() if own_images else _OF_IMAGES)}
    known = {name: getattr(before, name) for name in names if getattr(before, name) is not None}
    known |= dict(chosen)
    if "num_img" not in chosen:  # of a sparser choice, those that the run has
        last = before.start_img + (before.num_img - 1) * before.skip
        known["num_img"] = len(range(known["start_img"], last + 1, max(1, known["skip"]))) or 1
    return known | {"carried": fingerprint(table)}


@dataclass(frozen=True)
class Carrying:
    """The certificates of a run that are to be carried over.

    Attributes:
        run: their directory.
        file: their journal.
        rows: its rows, by image.
        spending: the procedure that carries them.
    """

    run: CertificationRun
    file: Path
    rows: Mapping[int, Row]
    spending: Carried


def read_carrying(settings: CertificationSettings, images: LabelledImages, indices: Sequence[int]) -> Carrying:
    """Read what was certified, and the votes, to carry it over.

    Args:
        settings: of the certificates to make, with `carry`.
        images: the data set's split. The first image is looked at here, each other one when it is sent to be evaluated.
        indices: of the images that are carried over.

    Raises:
        SettingsError: there are other certificates than the settings say, of other samples, or not of all these images.
        RecordsError: rows or votes are damaged, do not follow from their settings, or are of other images.
    """
    assert settings.carry is not None
    run, table = certification_in(Path(settings.carry))
    require(
        fingerprint(table) == settings.carried,
        f"{run} holds other certificates ({fingerprint(table)}) than those that were carried over ({settings.carried})",
    )
    before = {name: table.get(name) for name in _SAME}
    found = differences(before, {name: getattr(settings, name) for name in _SAME})
    require(not found, f"{run} cannot be carried over to other samples or classes ({'; '.join(found)})")
    file = run.journal("hard")
    rows = read_own_journal(file, "hard", table)
    missing = next((index for index in indices if index not in rows), None)
    require(missing is None, f"{run} has no certificate of image {missing}: finish it, or choose among its images")
    rows = {index: rows[index] for index in indices}
    votes = read_remembered(votes_file(file), rows)
    spending, enough = settings.spending, -(-(settings.n_z or 0) // 8)
    assert isinstance(spending, Carried)
    remembered = {
        index: Remembered(row.predict, round(row.count or 0), votes.get(index, b"")[:enough])
        for index, row in rows.items()
    }
    check_image(file, rows[indices[0]], images)
    return Carrying(run, file, rows, replace(spending, remembered=remembered))
