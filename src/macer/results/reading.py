"""From a path to records: run directories, TSV and .mat files, ours or published."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from macer.errors import RecordsError, SettingsError
from macer.pretrained import zoo
from macer.results.mat import read_mat
from macer.results.records import METHODS, Records
from macer.runs.run import KINDS, CertificationRun, Run, certificate_files, kind_of, read_table
from macer.runs.tsv import read_tsv
from macer.smoothing.bounds import check_alpha
from macer.smoothing.radius import check_sigma, largest_radius

TEST_SPLITS = (500, 10_000, 26_032, 50_000)
"""Images in the test splits of digits; of MNIST, CIFAR-10 and CIFAR-100; of SVHN; and of ImageNet."""


def read_records(path: Path) -> list[Records]:
    """All records that `path` holds: one a kind of certificate.

    Args:
        path: a run's directory (whatever certificates lie in it), a `.tsv` file, a `.mat` file, or zoo:NAME, where NAME
            may be a pattern.

    Raises:
        RecordsError: there are none, a file cannot be read, or it contradicts the settings beside it.
        SettingsError: nothing of this name is in the zoo.
    """
    return [records for _, records in read_files(path)]


def read_files(path: Path) -> list[tuple[Path, Records]]:
    """The same, each with the file that it is from; a `.mat` file holds up to two kinds.

    Raises:
        RecordsError, SettingsError: as for `read_records`.
    """
    if zoo.is_of_zoo(path):
        files = {name: zoo.certificates_file(name) for name in zoo.matching(path)}
        return [(file, _from_tsv(file, name, "hard")) for name, file in files.items()]
    if path.is_dir():
        files = certificate_files(path)
        if not files:
            raise RecordsError(f"{path}: no certificates in it (no .tsv file); macer certify makes them")
        return [(file, _from_tsv(file, _run_name(file, path), kind_of(file))) for file in files]
    if not path.is_file():
        raise RecordsError(f"{path}: no such file or directory")
    if path.suffix.lower() == ".mat":
        radii, idx = read_mat(path)
        return [(path, _from_mat(path, kind, radii[kind], idx)) for kind in radii]
    return [(path, _from_tsv(path, _file_name(path), kind_of(path)))]


def with_facts(
    records: Records, *, sigma: float | None = None, n: int | None = None, alpha: float | None = None
) -> Records:
    """The records with what they do not say themselves, as those of published files.

    Args:
        records: the certificates.
        sigma: the noise level.
        n: samples a certificate.
        alpha: failure probability of each certificate.

    Raises:
        RecordsError: certificates that cannot have been made so.
        SettingsError: a sigma, n or alpha that is impossible.
    """
    facts = {"sigma": sigma, "n": n, "alpha": alpha}
    _check(facts)
    known = replace(records, **{key: value for key, value in facts.items() if getattr(records, key) is None})
    _check_radii(known.name, known.radius, known.sigma, known.n, known.alpha)
    return known


def _from_mat(
    file: Path, kind: str, radii: Float64[np.ndarray, " images"], idx: Int64[np.ndarray, " images"] | None
) -> Records:
    settings = _certification(file)
    radius = np.maximum(radii, 0.0)
    run = _file_name(file)
    chosen = _chosen(settings) if {"start_img", "skip"} <= settings.keys() else None
    if idx is None and chosen is not None and len(chosen) == len(radii):
        idx = np.array(chosen, dtype=np.int64)
    facts = _facts(file, settings, run, idx, radius)
    return Records(run=run, kind=kind, idx=idx, radius=radius, correct=radii >= 0, **facts)


def _chosen(settings: dict[str, Any]) -> range | None:
    """The images that a certification has in the end, by its settings; None where they do not say how many."""
    if "num_img" not in settings:
        return None
    part, parts = map(int, settings.get("shard", "1/1").split("/"))
    start, step = settings.get("start_img", 0), settings.get("skip", 1)
    return range(start, start + settings["num_img"] * step, step)[part - 1 :: parts]


def _from_tsv(file: Path, run: str, kind: str) -> Records:
    settings = _certification(file)
    rows, notes = read_tsv(file)
    idx = np.array([row.idx for row in rows], dtype=np.int64)
    radius = np.array([row.radius for row in rows], dtype=np.float64)
    samples = {row.n for row in rows}
    if len(samples) > 1 and "n" not in settings:
        notes.append(f"{file}: its certificates are of different n")
    return Records(
        run=run,
        kind=kind,
        idx=idx,
        radius=radius,
        correct=np.array([row.correct for row in rows], dtype=bool),
        label=np.array([row.label for row in rows], dtype=np.int64),
        predict=np.array([row.predict for row in rows], dtype=np.int64),
        seconds=np.array([row.seconds for row in rows], dtype=np.float64),
        notes=tuple(notes + _spending(run, settings, [row.n for row in rows]) + _unfinished(file, settings, idx)),
        **_facts(file, settings, run, idx, radius, samples.pop() if len(samples) == 1 else None),
    )


def _spending(name: str, settings: dict[str, Any], samples: list[int | None]) -> list[str]:
    """What certificates do not say whose samples were not all spent."""
    if settings.get("spend") == "for-table":
        left = samples.count(0)
        return [
            f"{name}: {left} images whose selected class is wrong were not estimated, and count among the abstained"
        ]
    if "at_least" in settings:
        asked = settings["at_least"]
        return [f"{name}: certified at radius {asked:g} or not at all; ACR and other radii say nothing of it"]
    return []


def _unfinished(file: Path, settings: dict[str, Any], idx: Int64[np.ndarray, " images"]) -> list[str]:
    """A note where images are missing: by the settings beside the file or, without any, by the images themselves.

    Published files hold every k-th image of a whole split. Where images at the end or between others are missing from
    such a sequence, the process that wrote the file was probably cut off.
    """
    rows = len(idx)
    if settings:
        expected = len(_chosen(settings) or idx)
        return [f"{file}: {rows} of {expected} images; the certification is not finished"] if rows < expected else []
    first, last = int(idx[0]), int(idx[-1])
    step = int(np.diff(idx).min(initial=last + 1))
    total = next((size for size in TEST_SPLITS if size > last), last + 1)
    whole, so_far = range(first, total, step), range(first, last + 1, step)
    regular = bool(np.all((idx - first) % step == 0))
    if rows == 1 or first >= step or not regular or rows == len(whole) or 2 * rows < len(so_far):
        return []  # a choice, or all
    return [
        f"{file}: {rows} of the {len(whole):,} images {first}, {first + step}, ..., {whole[-1]} that a split of "
        f"{total:,} has: the file seems to be incomplete"
    ]


def _certification(file: Path) -> dict[str, Any]:
    """What stands beside a certificate file about how it was made; nothing for published files.

    Raises:
        RecordsError: it is impossible.
    """
    number = (float, int)
    kinds = {"sigma": number, "alpha": float, "dataset": str, "checkpoint": str, "shard": str, "method": str}
    kinds |= {"spend": str, "at_least": number}
    kinds |= dict.fromkeys(("n", "total", "num_img", "start_img", "skip"), int)
    settings = settings_beside(file)
    found = read_table(settings, "certification", kinds)
    try:
        _check(found)
    except SettingsError as error:
        raise RecordsError(f"{settings}: {error}") from error
    return found


def settings_beside(file: Path) -> Path:
    """Where it stands how certificates were made: the card of a network of the zoo, else the directory's settings."""
    card = file.with_suffix(".toml")
    return card if file.parent == zoo.FOLDER and card.is_file() else CertificationRun(file.parent).settings_file


def _check(facts: dict[str, Any]) -> None:
    """Refuse numbers that no certification has.

    Raises:
        SettingsError: one is impossible.
    """
    if facts.get("sigma") is not None:
        check_sigma(facts["sigma"])
    if facts.get("alpha") is not None:
        check_alpha(facts["alpha"])
    if not re.fullmatch(r"[1-9]\d{0,8}/[1-9]\d{0,8}", facts.get("shard", "1/1"), re.ASCII):
        raise SettingsError(f"shard is i/n, such as 1/8, not {facts['shard']!r}")
    for key, least in {"n": 1, "total": 1, "num_img": 1, "start_img": 0, "skip": 1}.items():
        value = facts.get(key)
        if value is not None and not least <= value < 2**31:
            raise SettingsError(f"{key} must be a whole number from {least} to {2**31 - 1:,}, not {value}")


def _method(file: Path, settings: dict[str, Any]) -> str | None:
    """Return the method of training that the certification records, or else the settings of the run.

    The run is the one in whose folder of certificates the file lies, or else the one of the certified checkpoint. The
    path of the checkpoint is recorded as it was given, often relative to where the command ran, so it is tried from
    every directory above the certificates.
    """
    if "method" in settings:
        return settings["method"]
    runs = [Run.around(file)]
    checkpoint = Path(settings.get("checkpoint", ""))
    found = (parent / checkpoint for parent in file.resolve().parents)
    runs += [Run.of_checkpoint(each) for each in found if each.is_file()]
    named = (read_table(run.settings_file, "objective", {"name": str}).get("name") for run in runs if run is not None)
    return next(filter(None, named), None)


def _facts(
    file: Path,
    settings: dict[str, Any],
    name: str,
    idx: Int64[np.ndarray, " images"] | None,
    radius: Float64[np.ndarray, " images"],
    n: int | None = None,
) -> dict[str, Any]:
    """How the certificates were made, for Records. Refuses certificates that cannot have been made so.

    What the settings beside the file say goes before its column n, and before its name.
    """
    facts: dict[str, Any] = {key: settings.get(key) for key in ("sigma", "n", "alpha", "total", "dataset")}
    facts["method"] = _method(file, settings)
    facts["n"] = n if facts["n"] is None else facts["n"]
    named = {"sigma": _sigma_in(_stem(file)), "method": _method_in(name)}
    named = {key: value for key, value in named.items() if facts[key] is None and value is not None}
    facts |= named
    last = len(radius) - 1 if idx is None else int(idx[-1])
    if facts["total"] is not None and last >= facts["total"]:
        raise RecordsError(f"{file}: has image {last}, but settings.toml speaks of {facts['total']:,} images")
    _check_radii(str(file), radius, facts["sigma"], facts["n"], facts["alpha"])
    return {**facts, "from_name": frozenset(named)}


def _check_radii(
    where: str, radius: Float64[np.ndarray, " images"], sigma: float | None, n: int | None, alpha: float | None
) -> None:
    """Refuse radii beyond what all of n votes give, where it is known how they were made."""
    if sigma is None or n is None or alpha is None:
        return
    limit, largest = largest_radius(sigma, n, alpha), float(radius.max())
    if largest > limit * 1.005:  # published radii are rounded to 3 digits
        raise RecordsError(
            f"{where}: a radius of {largest:g} is impossible with the sigma {sigma:g}, n {n:,} and alpha {alpha:g} "
            f"that it is said to be made with; they allow {limit:.4g}"
        )


def _sigma_in(stem: str) -> float | None:
    """The noise level in the field's names of certificate files, `noise_0.25` and `sigma_0.25`."""
    found = re.fullmatch(r"(?:noise|sigma)_(\d+\.\d+)", stem, re.ASCII)
    return (float(found[1]) or None) if found else None


def _method_in(name: str) -> str | None:
    """The one method of the paper that is a word of a name, as in `cifar10-cohen-resnet110/noise_0.25`."""
    found = [method for method in METHODS if method in re.split(r"[^a-z0-9]+", name.lower())]
    return found[0] if len(found) == 1 else None


def _run_name(file: Path, directory: Path) -> str:
    """Return the name of the run in a directory, followed by what distinguishes this file from others in it."""
    parts = [*file.relative_to(directory).parent.parts, file.stem]
    folder = Run("").certification.path.name
    owner = CertificationRun(directory).owner
    return " ".join([owner, *(part for part in parts if part not in (folder, *KINDS))])


def _file_name(file: Path) -> str:
    """Return folder and name of a file, because `noise_0.25` alone says little; of a run's own files the folder."""
    name = CertificationRun(file.resolve().parent).owner
    return name if file.stem in KINDS else f"{name}/{_stem(file)}"


def _stem(file: Path) -> str:
    """A file's name without its suffix; `sigma_0.25` has none."""
    return file.name if file.suffix[1:].isdigit() else file.stem
