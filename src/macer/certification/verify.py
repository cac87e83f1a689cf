"""Check certificates on disk: all rows by arithmetic and by their images, some by evaluating the same noise again."""

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from macer.certification.carrying import read_carrying
from macer.certification.checking import certification_in, check_rows
from macer.certification.journals import check_image, check_rounding
from macer.certification.prepare import Plan
from macer.certification.run import outcomes
from macer.certification.settings import CertificationSettings, fingerprint
from macer.certification.source import Places, plan_of
from macer.compute.engine import Engine
from macer.compute.interruption import stop_on_signals
from macer.compute.progress import ProgressView
from macer.data import LabelledImages
from macer.errors import CertificateError, RecordsError
from macer.runs.certificates import Row, read_finished_journal
from macer.runs.remembered import read_remembered, votes_file
from macer.runs.run import CertificationRun
from macer.smoothing import ABSTAIN, Certificate
from macer.smoothing.carrying import unpacked

ROUNDING = 1e-4
"""Largest share of the samples by which votes may differ between machines: they round near-ties differently."""


@dataclass(frozen=True)
class Verification:
    """What was checked of a certification.

    Attributes:
        checked: what was checked and how it turned out, one sentence each.
        failed: the certificates that do not hold, one line each; empty where all hold.
    """

    checked: list[str]
    failed: list[str]


def verify(
    directory: Path, evaluate: int, places: Places, *, console: Console, engine: Engine | None = None
) -> Verification:
    """Check the certificates in a directory.

    All rows are held against their checksums, settings and arithmetic, and against the digests of their images. Then
    `evaluate` images, drawn at random from as many equal parts of the rows, are certified again with the recorded
    seed. A certificate holds if the class is the same and the votes, or the sum of scores, differ by at most
    ROUNDING times n: another machine may round a near-tie otherwise. How many recorded radii are larger than those
    found here, and by how much at most, is said: what rounding does has no preferred direction.

    Args:
        directory: of a run or a certification.
        evaluate: how many images to evaluate again; with 0, neither network nor images are needed.
        places: where network and images are.
        console: where progress is shown.
        engine: where images are evaluated. Default: in this process, on a GPU if there is one.

    Raises:
        SettingsError: there is no certification, the network or the images are not the recorded ones, or a network
            in bfloat16 or float16 was certified on another kind of device.
        Interrupted: a signal asked to stop.
        MacerError: network or images cannot be read.
    """
    run, table = certification_in(directory)
    settings = CertificationSettings.read(table, run.settings_file)
    checked, failed = [f"settings {fingerprint(table)}: {_told(table)}"], []
    journals: dict[str, list[Row]] = {}
    votes: dict[int, bytes] = {}
    for kind in (each.name for each in settings.kinds):
        try:
            journals[kind], notes = read_finished_journal(run.journal(kind))
            check_rows(run.journal(kind), kind, journals[kind], table)
            if settings.remember:
                votes = read_remembered(votes_file(run.journal(kind)), {row.idx: row for row in journals[kind]})
                notes = [*notes, f"votes: remembered for {len(votes):,} certified images, in agreement with the rows"]
        except CertificateError as error:
            failed.append(str(error))
            continue
        checked += [*notes, f"arithmetic: {len(journals[kind]):,} {kind} certificates follow from what they record"]
        chosen = settings.indices
        if missing := len(chosen) - sum(row.idx in chosen for row in journals[kind]):
            checked.append(f"missing: {missing:,} of the {len(chosen):,} images that the settings choose")
    if evaluate > 0 and journals and not failed:
        plan = plan_of(run, settings, places)
        checked.append(f"network {settings.network}: digest {settings.digest}")
        failed += _check_images(run, journals, plan.images, console)
        checked.append(f"images of {settings.dataset} {settings.split}: digest {_digest_of_all(journals)}")
        if not failed:
            found, again = _evaluate(run, plan, journals, votes, evaluate, console, engine)
            failed += found
            checked.append(again)
            if settings.carry is not None:
                checked.append(
                    f"carried over from {plan.settings.carry}, which was not evaluated again: verify it, too"
                )
    return Verification(checked, failed)


def _told(table: Mapping[str, Any]) -> str:
    names = (
        "dataset",
        "split",
        "network",
        "sigma",
        "alpha",
        "n0",
        "n",
        "mode",
        "seed",
        "sound",
        "precision",
        "bf16_form",
        "dtype",
    )
    return ", ".join(f"{name} {table[name]}" for name in names if name in table)


def _check_images(
    run: CertificationRun, journals: Mapping[str, Sequence[Row]], images: LabelledImages, console: Console
) -> list[str]:
    """Return which rows are of other images than these."""
    failed = []
    rows = [(run.journal(kind), row) for kind, rows in journals.items() for row in rows]
    with stop_on_signals() as stop, ProgressView("reading images", len(rows), unit="images", console=console) as view:
        for file, row in rows:
            stop.check("verification stopped while reading images; the same command starts again")
            try:
                check_image(file, row, images)
            except RecordsError as error:
                failed.append(str(error))
            view.advance(1, 1)
    return failed


def _digest_of_all(journals: Mapping[str, Sequence[Row]]) -> str:
    """Return one digest of the images of all rows, in their order."""
    digests = {row.idx: row.image for rows in journals.values() for row in rows}
    return hashlib.sha256("".join(f"{idx}:{digests[idx]}\n" for idx in sorted(digests)).encode()).hexdigest()


def _evaluate(
    run: CertificationRun,
    plan: Plan,
    journals: Mapping[str, Sequence[Row]],
    votes: Mapping[int, bytes],
    count: int,
    console: Console,
    engine: Engine | None,
) -> tuple[list[str], str]:
    """Evaluate some images again; return the certificates that do not hold, and what was found in a sentence."""
    kinds = {kind: {row.idx: row for row in rows} for kind, rows in journals.items()}
    certified = sorted(set().union(*kinds.values()))
    indices = _spread(certified, min(count, len(certified)))
    failed, differing, larger, done = [], 0, [], []
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        view = ProgressView("evaluating again", len(indices), unit="noisy images", console=console)
        stack.enter_context(view)
        carrying = None if plan.settings.carry is None else read_carrying(plan.settings, plan.images, indices)
        workers = stack.enter_context((engine or Engine()).open())
        stop.answer = partial(view.answer, "this image")
        again = outcomes(plan, indices, workers, stop, carrying)
        found = stack.enter_context(closing(again))
        for outcome in found:
            if plan.settings.in_16_bits:
                check_rounding(run, outcome.device)
            for kind, certificate in zip(kinds, outcome.certificates, strict=True):
                row = kinds[kind].get(outcome.index)
                if row is None:
                    continue
                betting = kind == "soft" and plan.settings.soft_bound == "betting"
                holds, text = _compared(row, certificate, votes.get(row.idx), betting=betting, n_z=plan.settings.n_z)
                differing += text != ""
                larger += [row.radius - certificate.radius] if row.radius > certificate.radius else []
                if not holds:
                    failed.append(f"{run.journal(kind)}: image {row.idx} does not hold: {text}")
            done.append(outcome.index)
            view.advance(1, outcome.samples)
        stop.check(f"verification stopped after {len(done)} of {len(indices)} images; the same command starts again")
    names = ", ".join(map(str, sorted(done)))
    same = "with the same sums"
    if differing:
        excess = f", by at most {max(larger):.2g}" if larger else ""
        same = f"{differing} with sums that differ; {len(larger)} radii are larger in the record{excess}"
    return failed, f"noise: {len(done)} of {len(certified):,} images evaluated again ({names}), {same}"


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """Return one index, drawn at random, from each of `count` equal parts."""
    edges = [len(indices) * part // count for part in range(count + 1)]
    return [indices[low + secrets.randbelow(high - low)] for low, high in itertools.pairwise(edges)]


def _compared(
    row: Row, certificate: Certificate, votes: bytes | None, *, betting: bool, n_z: int | None
) -> tuple[bool, str]:
    """Return whether a certificate holds that was made again, and what differs in it, "" for nothing.

    Bound and radius follow from the sums, which was checked. Only a bound by betting does not. Remembered votes are
    held against those here one by one: as many for the class, but of other samples, would hide what a changed network
    loses.
    """
    here = Row.of(row.idx, row.label, certificate, row.seconds, row.image, row.settings, row.file)
    turned = 0
    if votes is not None and certificate.votes is not None:
        turned = int((unpacked(votes, certificate.n) != unpacked(certificate.votes, certificate.n)).sum())
    if here == row and turned == 0:
        return True, ""
    proved = certificate.p_a_lower if betting else row.p_a_lower
    allowed, of_second = (max(1.0, ROUNDING * samples) for samples in (certificate.n, n_z or certificate.n))
    close = (
        row.n == here.n
        and turned <= allowed
        and _within(allowed, row.count, here.count)
        and _within(of_second, row.second, here.second)
        and _within(allowed / certificate.n if certificate.n else 0.0, row.p_a_lower, proved)
    )
    same = row.predict == here.predict or ABSTAIN in (row.predict, here.predict)
    text = "; ".join(
        f"{what} class {each.predict}, {each.count:g} of {each.n}, bound {each.p_a_lower:.6g}, radius {each.radius:.6g}"
        for what, each in (("there", row), ("here", here))
    )
    text += f"; {turned} of the remembered votes are others" if turned else ""
    return close and same, text


def _within(allowed: float, one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and abs(one - other) <= allowed)
