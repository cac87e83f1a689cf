"""Reading records: runs' directories, certificate files of ours and of others, `.mat` files and exported results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from macer.certification.checking import check_rows
from macer.certification.settings import CertificationSettings, chosen_images, parse_shard
from macer.errors import RecordsError, SettingsError
from macer.objectives import method_of
from macer.pretrained import zoo
from macer.results.exported import is_exported, read_exported
from macer.results.names import method_in, name_and_place, sigma_in
from macer.results.records import Records, note_on_answers
from macer.runs.certificates import KINDS, NoRowsYet, is_journal, read_finished_journal
from macer.runs.foreign import CertificateFile, read_certificates
from macer.runs.mat import read_mat
from macer.runs.run import CertificationRun, Run, certificate_files, epoch_of, kind_of, read_table
from macer.smoothing.bounds import check_alpha
from macer.smoothing.radius import check_sigma, largest_radius

TEST_SPLITS = (500, 10_000, 26_032, 50_000)
"""Images in the test splits of digits; of MNIST, CIFAR-10 and CIFAR-100; of SVHN; and of ImageNet."""

_CARRIED = {"carried", "n_z"}
"""The settings of certificates that were carried over."""


def read_records(path: Path) -> list[Records]:
    """Read all records at a path: one per file and kind of certificate.

    Args:
        path: a run's directory or any other (with all files in and below it that `certificate_files` finds), a file of
            certificates, a `.mat` file, exported results, or zoo:NAME, where NAME may be a pattern.

    Raises:
        RecordsError: there are none, a file cannot be read, or it contradicts the settings beside it.
        SettingsError: the zoo has no network of this name.
    """
    return [records for _, records in read_files(path)]


def read_files(path: Path) -> list[tuple[Path, Records]]:
    """Read all records at a path, each with its file; a `.mat` file holds up to two kinds, an exported one any number.

    Raises:
        RecordsError, SettingsError: as for `read_records`.
    """
    if zoo.is_of_zoo(path):
        files = {name: zoo.certificates_file(name) for name in zoo.matching(path)}
        return [(file, _from_text(file, "hard", {"run": name, "place": ()})) for name, file in files.items()]
    if path.is_dir():
        files = certificate_files(path)
        if not files:
            raise RecordsError(f"{path}: no certificates in it (no .tsv file and no other that holds some)")
        return _read_begun(files)
    if not path.exists():
        raise RecordsError(f"{path}: no such file or directory")
    return [(path, records) for records in _read_file(path)]


def _read_begun(files: Sequence[Path]) -> list[tuple[Path, Records]]:
    """Read the records of a directory's files; journals without rows are left out with a note, unless all are so."""
    found: list[tuple[Path, Records]] = []
    empty: list[NoRowsYet] = []
    for file in files:
        try:
            every = _read_file(file)
        except NoRowsYet as error:
            empty.append(error)
            continue
        found += [(file, records) for records in every]
    if not found:
        raise empty[0]
    file, last = found[-1]  # never one of those between epochs, where there are others
    found[-1] = file, replace(last, notes=(*last.notes, *(f"left out: {error}" for error in empty)))
    return found


def _read_file(file: Path) -> list[Records]:
    if file.suffix.lower() == ".mat":
        radii, idx = read_mat(file)
        return [_from_mat(file, kind, radii[kind], idx) for kind in radii]
    if is_exported(file):
        found = read_exported(file)
        for records in found:
            _check_recorded(file, {fact: getattr(records, fact) for fact in ("sigma", "n", "alpha", "total")})
            _check_radii(str(file), records)
        return found
    return [_from_text(file, kind_of(file), name_and_place(file))]


def read_trained(path: Path) -> tuple[list[Records], list[str]]:
    """Read the records of trained networks at a path, without those made between epochs of a run that has others.

    Returns:
        The records, and notes on what was left out.

    Raises:
        RecordsError, SettingsError: as for `read_records`.
    """
    found = read_files(path)
    trained = {file.parent for file, _ in found if epoch_of(file) is None}
    kept = [records for file, records in found if epoch_of(file) is None or file.parents[1] not in trained]
    left = len(found) - len(kept)
    note = f"left out: {left} files of {path} that were made between epochs; name their directories to see them"
    return kept, [note] if left else []


def with_facts(
    records: Records, *, sigma: float | None = None, n: int | None = None, alpha: float | None = None
) -> Records:
    """Return the records with what is not known of them yet, as for published files.

    Args:
        records: the certificates.
        sigma: the noise level.
        n: samples per certificate.
        alpha: failure probability of each certificate.

    Raises:
        RecordsError: the certificates cannot have been made so.
        SettingsError: an impossible sigma, n or alpha.
    """
    facts = {"sigma": sigma, "n": n, "alpha": alpha}
    _check(facts)
    known = replace(records, **{key: value for key, value in facts.items() if getattr(records, key) is None})
    try:
        _check_radii(known.name, known)
    except RecordsError as error:
        raise RecordsError(f"{error}: its n or alpha was another: give that, for example alpha 0.01") from error
    return known


def _from_mat(
    file: Path, kind: str, radii: Float64[np.ndarray, " images"], idx: Int64[np.ndarray, " images"] | None
) -> Records:
    beside = settings_beside(file)
    settings = _certification(file, beside)
    chosen = _chosen(settings) if {"start_img", "skip"} <= settings.keys() else None
    if idx is None and chosen is not None and len(chosen) == len(radii):
        idx = np.array(chosen, dtype=np.int64)
    radius = np.maximum(radii, 0.0)
    records = Records(kind=kind, idx=idx, radius=radius, correct=radii >= 0, **name_and_place(file))
    notes = spending_notes(records.run, settings, 0) + _outdated(file, settings)
    return replace(_described(records, file, beside, settings), notes=tuple(notes))


def _chosen(settings: dict[str, Any]) -> range | None:
    """Return the images that a finished certification has, by its settings; None if these do not say how many."""
    if "num_img" not in settings:
        return None
    start, skip = settings.get("start_img", 0), settings.get("skip", 1)
    return chosen_images(start, settings["num_img"], skip, settings.get("shard"))


def _from_text(file: Path, kind: str, named: Mapping[str, Any]) -> Records:
    beside = settings_beside(file)
    settings = _certification(file, beside)
    if is_journal(file):
        found = CertificateFile(*read_finished_journal(file))
        if file.stem not in KINDS and any(row.count != round(row.count or 0) for row in found.rows):
            kind = "soft"  # by its sums, as votes are whole numbers: its name does not say
        check_rows(file, kind, found.rows, settings)
    elif file.stem in KINDS and "macer" in read_table(beside, "environment"):
        if file.stat().st_size == 0:  # killed before the header
            raise NoRowsYet(f"{file}: no certificates in it")
        raise RecordsError(f"{file}: not a journal, as macer wrote there by the settings beside it")
    else:
        found = read_certificates(file)
    rows, notes = found.rows, list(found.notes)
    samples = {row.n for row in rows}
    if len(samples) > 1 and "n" not in settings:
        notes.append(f"{file}: its certificates are of different n")
    told = {"n": samples.pop() if len(samples) == 1 else None, "sigma": found.sigma}
    told["shape"] = _shape(read_table(beside, "network").get("shape"))  # a card of the zoo says it
    records = Records.from_rows(kind=kind, rows=rows, uncertified=found.uncertified, **named)
    records = _described(records, file, beside, settings, told)
    if None not in (found.sigma, settings.get("sigma")) and found.sigma != settings["sigma"]:
        raise RecordsError(f"{file}: its column sigma says {found.sigma:g}, its settings {settings['sigma']:g}")
    notes += spending_notes(records.run, settings, [row.n for row in rows].count(0))
    notes += _unfinished(file, settings, [row.idx for row in rows]) + _outdated(file, settings)
    notes += note_on_answers(records.name, rows)
    return replace(records, notes=tuple(notes))


def spending_notes(run: str, settings: Mapping[str, Any], not_estimated: int) -> list[str]:
    """Return a note on certificates for which not all samples were spent, or not by this network.

    Args:
        run: the name of the records.
        settings: of the certification, as a table.
        not_estimated: how many certificates have no samples.
    """
    if settings.get("spend") == "for-table" and not_estimated:
        return [
            f"{run}: {not_estimated} images whose selected class is wrong were not estimated, and count among "
            "the abstained"
        ]
    if "at_least" in settings:
        return [f"{run}: certified at radius {settings['at_least']:g} or not at all; other radii and ACR mean nothing"]
    if "within" in settings:
        return [
            f"{run}: sampling stopped when a radius was known to within {settings['within']:.3g} of it; radii are not "
            "comparable with those of all n copies"
        ]
    if settings.keys() >= _CARRIED:
        return [
            f"{run}: carried over from another network's certificates; this network was evaluated on "
            f"{settings['n_z']:,} of the n copies"
        ]
    return []


def _outdated(file: Path, settings: dict[str, Any]) -> list[str]:
    """Return a note if the network in whose run a file lies was trained on after it was certified."""
    run, epoch = Run.around(file), settings.get("epoch")
    if run is None or epoch_of(file) is not None or not run.went_on_after(epoch):
        return []
    return [f"{file}: of the network after epoch {epoch}, which was trained on since then"]


def _unfinished(file: Path, settings: dict[str, Any], idx: Sequence[int]) -> list[str]:
    """Return a note if images are missing: by the settings beside the file or else by the images themselves.

    Published files hold every k-th image of a whole split. If such a sequence ends early or has gaps, the process that
    wrote the file was probably interrupted.
    """
    rows = len(idx)
    if settings:
        chosen = _chosen(settings) or idx
        done = len(set(chosen) & set(idx)) if "skip" in settings else rows
        left = f"{file}: {done} of {len(chosen)} images; the certification is not finished"
        return [left] if done < len(chosen) else []
    first, last = idx[0], idx[-1]
    step = int(np.diff(idx).min(initial=last + 1))
    total = next((size for size in TEST_SPLITS if size > last), last + 1)
    whole, so_far = range(first, total, step), range(first, last + 1, step)
    regular = all(index in so_far for index in idx)
    if rows == 1 or first >= step or not regular or rows == len(whole) or 2 * rows < len(so_far):
        return []  # a choice of images, or all
    return [
        f"{file}: {rows} of the {len(whole):,} images {first}, {first + step}, ..., {whole[-1]} that a split of "
        f"{total:,} has: the file seems to be incomplete"
    ]


def _certification(file: Path, beside: Path | None) -> dict[str, Any]:
    """Return the settings of a certification in what lies beside its file; empty for files of other programs.

    Raises:
        RecordsError: they are impossible.
    """
    number = (float, int)
    kinds = {"sigma": number, "alpha": float, "dataset": str, "checkpoint": str, "shard": str, "method": str}
    kinds |= {"spend": str, "at_least": number, "within": number, "carried": str, "split": str}
    kinds |= {"hard_bound": str, "soft_bound": str, "beta": number, "precision": str, "sound": bool}
    kinds |= dict.fromkeys(("n", "n_z", "total", "num_img", "start_img", "skip", "epoch", "n0"), int)
    found = read_table(beside, "certification", kinds)
    _check_recorded(beside or file, found)
    return found


def _check_recorded(file: Path, facts: dict[str, Any]) -> None:
    try:
        _check(facts)
    except SettingsError as error:
        raise RecordsError(f"{file}: {error}") from error


def settings_beside(file: Path) -> Path | None:
    """Return the file that says how certificates were made: the card of a zoo network, or the directory's settings.

    These are of the files that macer writes there, by name or columns: None for another program's file among them.
    """
    card, run = file.with_suffix(".toml"), CertificationRun(file.parent)
    if file.parent == zoo.FOLDER and card.is_file():
        return card
    own = file in (run.mat_file, *map(run.journal, KINDS)) or (file.suffix.lower() != ".mat" and is_journal(file))
    return run.settings_file if own else None


def _check(facts: dict[str, Any]) -> None:
    """Refuse settings that no certification has.

    Raises:
        SettingsError: one is impossible.
    """
    if facts.get("sigma") is not None:
        check_sigma(facts["sigma"])
    if facts.get("alpha") is not None:
        check_alpha(facts["alpha"])
    parse_shard(facts.get("shard", "1/1"))
    for key, least in {"n": 1, "total": 1, "num_img": 1, "start_img": 0, "skip": 1}.items():
        value = facts.get(key)
        if value is not None and not least <= value < 2**31:
            raise SettingsError(f"{key} must be a whole number from {least} to {2**31 - 1:,}, not {value}")


def _method(file: Path, beside: Path | None, settings: dict[str, Any]) -> str | None:
    """Return the method of training that the certification records, or else the settings of the run.

    The run is the one in whose folder of certificates the file lies, or else the one of the certified checkpoint. The
    path of the checkpoint is recorded as it was given, often relative to where the command ran, so it is tried from
    every directory above the certificates.
    """
    if "method" in settings:
        return settings["method"]
    runs = [Run.around(file)] if beside else []
    checkpoint = Path(settings.get("checkpoint", ""))
    found = (parent / checkpoint for parent in file.resolve().parents)
    runs += [Run.of_checkpoint(each) for each in found if each.is_file()]
    methods = (method_of(run.recorded("objective", {"name": str})) for run in runs if run is not None)
    return next(filter(None, methods), None)


def _described(
    records: Records,
    file: Path,
    beside: Path | None,
    settings: dict[str, Any],
    told: Mapping[str, Any] | None = None,
) -> Records:
    """Return the records of a file with how they were made: by the settings beside it, its columns, or its name.

    Raises:
        RecordsError: they cannot have been made so.
    """
    facts = facts_of(settings, records.kind)
    facts |= {fact: value for fact, value in (told or {}).items() if facts[fact] is None}
    facts["method"] = _method(file, beside, settings)
    by_name = {"sigma": sigma_in(records.run), "method": method_in(records.run)}
    by_name = {key: value for key, value in by_name.items() if facts[key] is None and value is not None}
    last = len(records) - 1 if records.idx is None else int(records.idx[-1])
    if facts["total"] is not None and last >= facts["total"]:
        raise RecordsError(f"{file}: has image {last}, but its settings say that there are {facts['total']:,} images")
    described = replace(records, **facts | by_name, from_name=frozenset(by_name))
    _check_radii(str(file), described)
    return described


def facts_of(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what the settings of a certification, as a table, say of its records of one kind."""
    names = ("sigma", "n", "alpha", "total", "dataset", "split", "method", "at_least", "within")
    facts: dict[str, Any] = {name: settings.get(name) for name in names}
    classes = settings.get("class_names")
    facts["class_names"] = tuple(map(str, classes)) if isinstance(classes, list) else None
    facts["shape"] = _shape(settings.get("shape"))
    facts["seed"] = seed if isinstance(seed := settings.get("seed"), int) else None
    usual = CertificationSettings.defaults()["certification"][f"{kind}_bound"]
    bound = "carried over" if settings.keys() >= _CARRIED else settings.get(f"{kind}_bound", usual)
    every_class = "n0 = 0" if settings.get("n0") == 0 else None
    rounding = None if settings.get("sound", not settings) else "rounding not covered"
    words = [None if bound == usual else bound, every_class, rounding]
    facts["bound"] = ", ".join(filter(None, words)) or None
    facts["beta"] = float(settings["beta"]) if kind == "soft" and "beta" in settings else None
    facts["precision"] = None if (precision := settings.get("precision")) == "32-true" else precision
    return facts


def _shape(recorded: Any) -> tuple[int, int, int] | None:
    """Return the shape of an image that settings record; None where it is none."""
    match recorded:
        case [int(channels), int(height), int(width)] if all(0 < each < 2**31 for each in recorded):
            return channels, height, width
    return None


def _check_radii(where: str, records: Records) -> None:
    """Refuse radii larger than n of n votes allow, if sigma, n and alpha are known."""
    sigma, n, alpha = records.sigma, records.n, records.alpha
    if sigma is None or n is None or alpha is None:
        return
    limit, largest = largest_radius(sigma, n, alpha), float(records.radius.max())
    if largest > limit * 1.005:  # published radii are rounded to 3 digits
        raise RecordsError(
            f"{where}: a radius of {largest:g} is impossible with sigma {sigma:g}, n {n:,} and alpha {alpha:g}, which "
            f"allow at most {limit:.4g}"
        )
