"""Whether the rows of a journal follow from their settings: each bound from the votes, each radius from the bound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from macer.certification.settings import CertificationSettings, fingerprint
from macer.errors import CertificateError, RecordsError, SettingsError
from macer.runs.certificates import Row, line_of, read_journal
from macer.runs.run import CertificationRun, Run
from macer.runs.settings import require
from macer.smoothing.grid import discretisation_gap
from macer.smoothing.kinds import Bound, Kind
from macer.smoothing.noise import BLOCK
from macer.smoothing.radius import certified_radius
from macer.smoothing.spending import Fixed, Sequential, level

_ROUNDING = 1e-9
"""How far a number may be from the one that is computed again: libraries round differently."""
_GAP = 1e-6
"""How much larger a sound bound may be than the probability that is asked about (`Sequential`)."""
_LARGEST_IMAGE = 2**22
"""Numbers of the largest image allowed for: channels times pixels. Rows do not say how many theirs had."""


NEEDED = frozenset({"sigma", "n", "alpha"})
"""Settings without which no row can be checked."""


def certification_in(directory: Path) -> tuple[CertificationRun, dict[str, Any]]:
    """Return the certification of a run, or that in a directory of certificates, and its table [certification].

    Raises:
        SettingsError: there is none of ours.
    """
    run = CertificationRun(directory)
    if not run.settings_file.is_file() or "certification" not in run.settings():
        run = Run(directory).certification
    require(
        run.settings_file.is_file(),
        f"{directory}: no {run.settings_file.name} there: give the directory of a run or of macer's certificates "
        "(files of other programs do not say what made their rows)",
    )
    table: Any = run.settings().get("certification")
    require(isinstance(table, dict) and table.keys() >= NEEDED, f"{directory} holds no certification")
    return run, table


def read_own_journal(file: Path, kind: str, table: Mapping[str, Any]) -> dict[int, Row]:
    """Read the rows of a journal by image, to go on with them: all are bound to these settings and follow from them.

    Args:
        file: the journal; where there is none, there are no rows.
        kind: of the certificates, by name.
        table: the table [certification] of the settings beside it.

    Raises:
        RecordsError: the file is no journal, or holds a row that is not of these settings or does not follow from them.
    """
    rows = read_journal(file)
    if rows and not table.keys() >= NEEDED:
        raise RecordsError(f"the settings beside {file} lack {min(NEEDED - table.keys())}")
    check_rows(file, kind, list(rows.values()), table)
    return rows


def check_rows(file: Path, kind: str, rows: Sequence[Row], table: Mapping[str, Any]) -> None:
    """Refuse rows that do not follow from the settings beside them.

    Checked are the fingerprint of the settings, n, the bound that follows from the recorded sums, and the radius that
    follows from the bound. Betting bounds are held against the largest bound that the recorded sums allow.

    Args:
        file: where the rows are from, for messages.
        kind: of the certificates, by name.
        rows: as read.
        table: the table [certification] of the settings; without those in NEEDED nothing is checked.

    Raises:
        CertificateError: a row does not follow; the message names line and column.
    """
    if not rows or not table.keys() >= NEEDED:
        return
    expected = fingerprint(table)
    settings = _settings(table, file)
    for row, (column, holds) in _checks(settings, kind, rows, expected, file):
        if not holds:
            raise CertificateError(
                f"{line_of(file, row.idx)}, column {column}: {getattr(row, column)!r} does not follow from "
                + ("the settings" if column == "settings" else "the rest of the row and the settings")
                + " beside the file"
            )


def _checks(
    settings: CertificationSettings, kind: str, rows: Sequence[Row], expected: str, file: Path
) -> Iterator[tuple[Row, tuple[str, bool]]]:
    """Yield, for each row, the columns that are held against others, and whether they hold."""
    bounds = _bounds_again(settings, kind, rows, file)
    gap = discretisation_gap((_LARGEST_IMAGE,), settings.sigma) if settings.sound else 0.0
    asked = _GAP if settings.sound and settings.at_least is not None else _ROUNDING
    for row, bound in zip(rows, bounds, strict=True):
        assert row.p_a_lower is not None
        assert row.n is not None
        yield row, ("settings", row.settings == expected)
        yield row, ("n", _possible_n(settings, row))
        yield row, ("second", row.second == bound.second)
        yield row, ("idx", row.idx < settings.total)
        for column in ("label", "predict"):
            yield row, (column, settings.classes is None or getattr(row, column) < settings.classes)
        above, below = row.p_a_lower - bound.p_a_lower, bound.p_a_lower - row.p_a_lower
        # At a radius that is asked about, a sound bound is larger by the discretisation's error.
        yield row, ("p_a_lower", above <= asked)
        yield row, ("p_a_lower", below <= _ROUNDING or not bound.exact)
        proved = min(max(row.p_a_lower, 0.0), 1.0), settings.sigma, bound.p_b_upper
        rounding = _ROUNDING * settings.sigma
        yield row, ("radius", row.radius <= certified_radius(*proved) * (1 + _ROUNDING) + rounding)
        least = certified_radius(*proved, gap) * (1 - _ROUNDING) - rounding
        yield row, ("radius", row.radius >= least)


def _possible_n(settings: CertificationSettings, row: Row) -> bool:
    """Return whether an image can have had so many samples."""
    assert row.n is not None
    if isinstance(settings.spending, Sequential):
        return 0 < row.n <= settings.n and (row.n % BLOCK == 0 or row.n == settings.n)
    none = settings.spend == "for-table" or settings.carried is not None
    return row.n == settings.n or (none and row.n == 0 and row.predict == -1)


def _bounds_again(settings: CertificationSettings, kind: str, rows: Sequence[Row], file: Path) -> Iterator[Bound]:
    """Yield the bound of each row that follows from its sums."""
    spending, may_fail = settings.spending, level(settings.alpha, settings.n0)
    if isinstance(spending, Sequential):
        counts, trials = (np.array([getattr(row, name) for row in rows], float) for name in ("count", "n"))
        impossible = (counts < 0) | (counts > trials) | (counts != counts.round()) | (trials < 1)
        if impossible.any():
            raise CertificateError(
                f"{line_of(file, rows[int(impossible.argmax())].idx)}, column count: impossible votes"
            )
        found = spending.question.bounds_again(counts.astype(int), trials.astype(int), settings.sigma, may_fail)
        yield from (Bound(float(p), float(count)) for p, count in zip(found, counts, strict=True))
        return
    assert isinstance(spending, Fixed)
    wanted = next((each for each in spending.kinds if each.name == kind), None)
    if wanted is None:
        raise RecordsError(f"{file}: {kind} certificates, which the settings beside it do not make")

    @cache
    def bound(own: Kind, count: float, second: float | None, n: int) -> Bound:
        return own.bound_again(count, second, n, settings.classes, may_fail)

    for row in rows:
        assert row.count is not None
        assert row.n is not None
        if row.n == 0 and row.count == 0:  # nothing was estimated
            yield Bound(0.0, 0.0)
            continue
        try:
            yield bound(wanted.for_image(settings.seed or 0, row.idx), row.count, row.second, row.n)
        except SettingsError as error:
            raise CertificateError(f"{line_of(file, row.idx)}, column count: {error}") from error


def _settings(table: Mapping[str, Any], file: Path) -> CertificationSettings:
    """Return the settings in a table, which need not hold all of them."""
    names = {field.name for field in fields(CertificationSettings)}
    unknown = {"dataset": "", "checkpoint": "", "network": "", "digest": "", "total": 2**31 - 1}
    try:
        known = {key: value for key, value in table.items() if key in names}
        return CertificationSettings.read(unknown | known, file)
    except SettingsError as error:
        raise RecordsError(f"the settings beside {file}: {error}") from error
