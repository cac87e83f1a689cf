"""Certificates on disk are held against what made them: every edit is refused, and strangers can check the rest."""

import os
import re
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from journals import OPTIONS, rows
from rich.console import Console

import macer as package
from macer import data
from macer.certification import source
from macer.certification import verify as verifying
from macer.certification.checking import check_rows, read_own_journal
from macer.certification.journals import check_rounding
from macer.certification.settings import CertificationSettings, fingerprint
from macer.certification.source import Places
from macer.compute.engine import Engine
from macer.errors import CertificateError, MacerError, SettingsError
from macer.files.locking import locked
from macer.files.replacing import replacing
from macer.files.toml import read_toml, write_toml
from macer.runs import directory as runs_directory
from macer.runs.certificates import HEADER, Journal, Row, read_finished_journal, read_journal
from macer.runs.run import CertificationRun
from macer.runs.settings import from_table
from macer.smoothing import Certificate
from macer.smoothing.bounds import clopper_pearson_lower
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.kinds import Bound, Hard, HardRandomised, HardTwoClass, Soft, SoftBetting
from macer.smoothing.noise import uniform_of_bound
from macer.smoothing.radius import certified_radius

pytest_plugins = ["command", "certified"]

NAMES = HEADER.split()


def copy(whole: Path, to: Path) -> Path:
    return Path(shutil.copytree(whole, to))


def edit(file: Path, line: int, *, honest: bool = False, **cells: object) -> None:
    """Change cells of a line, counted from 1 as messages do; an honest edit is given its checksum again."""
    lines = file.read_text().splitlines()
    found = dict(zip(NAMES, lines[line - 1].split("\t"), strict=True))
    found |= {name: str(cell(found[name]) if callable(cell) else cell) for name, cell in cells.items()}
    if honest:
        text = "\t".join(list(found.values())[:-1])
        found["checksum"] = sha256(text.encode()).hexdigest()[:16]
    lines[line - 1] = "\t".join(found.values())
    file.write_text("\n".join(lines) + "\n")


def lines_of(file: Path, predict: bool) -> int:
    """The first line with a certificate, or with an abstention."""
    for number, line in enumerate(file.read_text().splitlines()[1:], start=2):
        if (line.split("\t")[2] != "-1") == predict:
            return number
    raise AssertionError("this network is to be sure and unsure")


def next_digit(cell: str) -> str:
    """A number with its third digit after the point changed."""
    digit = cell.index(".") + 3
    return cell[:digit] + str((int(cell[digit]) + 1) % 10) + cell[digit + 1 :]


EDITS = {
    "a digit of a radius": (True, {"radius": next_digit}, "radius"),
    "a digit of p_a_lower": (True, {"p_a_lower": next_digit}, "p_a_lower"),
    "p_a_lower = 2": (True, {"p_a_lower": 2.0}, "p_a_lower"),
    "more votes": (True, {"count": lambda cell: int(cell) - 1}, "p_a_lower"),
    "count above n": (True, {"count": 701}, "count"),
    "a fraction of a vote": (True, {"count": 650.5}, "count"),
    "n = 5": (True, {"n": 5}, "n|count"),
    "an abstention made a certificate": (False, {"predict": 3, "abstained": 0}, "radius"),
    "an abstention made a certificate with a radius": (
        *(False, {"predict": 3, "label": 3, "correct": 1, "abstained": 0, "radius": 0.1}, "radius"),
    ),
    "a certificate made an abstention": (True, {"predict": -1, "correct": 0, "abstained": 1, "radius": 0.0}, "radius"),
    "correct": (True, {"correct": lambda cell: 1 - int(cell)}, "correct"),
    "a radius of nan": (True, {"radius": "nan"}, "radius"),
    "no number": (True, {"count": "many"}, "count"),
    "votes of nan": (True, {"count": "nan"}, "count"),
    "endless votes": (True, {"count": "inf"}, "count"),
    "an index in other digits": (True, {"idx": lambda cell: f"0{cell}", "radius": 9.0}, "idx"),
    "an image that there is not": (True, {"idx": 500}, "idx"),
    "a class that there is not": (True, {"predict": 10, "correct": 0}, "predict"),
    "a label that there is not": (True, {"label": 10, "correct": 0}, "label"),
    "a sum that nothing follows from": (True, {"second": 3}, "second"),
    "no digest of the image": (True, {"image": ""}, "image"),
    "another run's": (True, {"settings": "0123456789abcdef"}, "settings"),
}
"""Edits that do not follow, and the column that says so: of a certificate (True) or an abstention."""


@pytest.mark.parametrize("name", EDITS)
def test_what_does_not_follow_is_refused_by_line_and_column(macer, trained, whole, tmp_path, name):
    sure, cells, column = EDITS[name]
    directory = copy(whole, tmp_path / "c")
    file = directory / "hard.tsv"
    line = lines_of(file, sure)
    before = file.read_text()
    for honest, said in ((False, "checksum"), (True, column)):
        file.write_text(before)
        edit(file, line, honest=honest, **cells)
        expected = re.escape(f"macer: {file}, line {line}, column ") + f"({said}): "
        assert re.match(expected, macer.refuses("table", directory))
        edited = file.read_text()
        assert re.match(expected, macer.refuses("certify", trained, *OPTIONS, "--out", directory))
        assert file.read_text() == edited


@pytest.mark.parametrize("cells", [{"label": 9}, {"predict": 9}, {"image": "0123456789abcdef"}, {"time": "0.001"}])
def test_what_arithmetic_cannot_see_the_checksum_does(macer, whole, tmp_path, cells):
    directory = copy(whole, tmp_path / "c")
    edit(directory / "soft.tsv", 4, **cells)
    assert "soft.tsv, line 4, column checksum" in macer.refuses("table", directory)


def test_every_reader_refuses(macer, trained, whole, tmp_path):
    directory = copy(whole, tmp_path / "c")
    file = directory / "hard.tsv"
    edit(file, lines_of(file, True), honest=True, radius=next_digit)
    for words in (
        ("table", directory),
        ("table", file),
        ("plot", directory, "--out", tmp_path / "x.png"),
        ("compare", whole, "--with", directory),
        ("export", directory, tmp_path / "x.csv"),
        ("report", directory, "--out", tmp_path / "x.html"),
        ("merge", directory, "--out", tmp_path / "merged"),
        ("certify", trained, *OPTIONS, "--out", directory),
    ):
        assert "column radius: " in macer.refuses(*words), words
    with pytest.raises(CertificateError, match="column radius"):
        package.load_results(directory)
    result = macer("verify", directory, "--images", 0)
    assert (result.code, result.out.splitlines()[-1]) == (1, "does not hold")
    assert "column radius" in result.out


def test_lines_twice_and_lines_of_another_run_are_refused(macer, trained, whole, tmp_path):
    twice = copy(whole, tmp_path / "twice")
    lines = (twice / "hard.tsv").read_text().splitlines(keepends=True)
    (twice / "hard.tsv").write_text("".join([*lines, lines[3]]))
    assert f"line {len(lines) + 1}, column idx: image 40 was there before" in macer.refuses("table", twice)
    other = ("--device", "cpu", "--n", 700, "--sigma", 0.5, "--skip", 250)
    assert macer("certify", trained, *other, "--out", tmp_path / "other").code == 0
    moved = copy(whole, tmp_path / "moved")
    lines[1] = (tmp_path / "other" / "hard.tsv").read_text().splitlines(keepends=True)[1]
    (moved / "hard.tsv").write_text("".join(lines))
    assert "hard.tsv, line 2, column settings: " in macer.refuses("table", moved)
    kind = copy(whole, tmp_path / "kind")
    shutil.copy(kind / "soft.tsv", kind / "hard.tsv")
    assert "hard.tsv, line 2, column" in macer.refuses("table", kind)


@pytest.mark.parametrize("change", [{"sigma": 0.5}, {"alpha": 0.01}, {"seed": 1}, {"digest": "0" * 64}, {"beta": 2.0}])
def test_settings_that_were_changed_are_refused(macer, whole, tmp_path, change):
    directory = copy(whole, tmp_path / "c")
    tables = read_toml(directory / "settings.toml")
    tables["certification"] |= change
    write_toml(directory / "settings.toml", tables)
    assert "hard.tsv, line 2, column settings: " in macer.refuses("table", directory)


def test_rows_without_their_settings_are_read_but_not_gone_on_with(macer, trained, whole, tmp_path):
    directory = copy(whole, tmp_path / "c")
    (directory / "settings.toml").unlink()
    assert macer("table", directory).code == 0
    said = f"macer: {directory / 'hard.tsv'} is there without {directory / 'settings.toml'}"
    assert macer.refuses("certify", trained, *OPTIONS, "--out", directory).startswith(said)
    assert "settings.toml: No such file" in macer.refuses("merge", directory, "--out", tmp_path / "m")
    assert macer.refuses("merge", whole, "--out", directory).startswith(said)


FACTS = {"sigma": 0.25, "n": 1000, "alpha": 0.001, "total": 10, "start_img": 0, "num_img": 1, "skip": 1}


WAYS = {
    "two-class": ("--hard-bound", "two-class"),
    "auto": ("--hard-bound", "auto"),
    "randomised": ("--hard-bound", "randomised"),
    "no selection": ("--n0", 0),
    "no selection, at-least": ("--n0", 0, "--spend", "sequential", "--at-least", 0.2),
    "no selection, within": ("--n0", 0, "--spend", "sequential", "--within", 0.3),
    "betting": ("--mode", "soft", "--soft-bound", "betting"),
    "for-table": ("--spend", "for-table"),
    "at-least": ("--spend", "sequential", "--at-least", 0.2),
    "within": ("--spend", "sequential", "--within", 0.3),
    "sound": ("--sound",),
    "sound at-least": ("--sound", "--spend", "sequential", "--at-least", 0.2),
}


@pytest.mark.filterwarnings("ignore")  # what for-table and at-least mean
@pytest.mark.parametrize("way", WAYS)
def test_bounds_of_every_kind_follow_again_and_changed_ones_do_not(macer, trained, tmp_path, way):
    directory = tmp_path / "c"
    words = ("certify", trained, "--device", "cpu", "--n", 2000, "--skip", 50, *WAYS[way], "--out", directory)
    assert macer(*words).code == 0
    assert macer(*words).code == 0
    if way.startswith(("no selection", "randomised")):
        assert macer("verify", directory, "--images", 2, "--device", "cpu").code == 0
    (file,) = directory.glob("*.tsv")
    line = lines_of(file, True)
    column = "radius"
    edit(file, line, honest=True, radius=lambda cell: float(cell) * 1.01)
    if way == "betting":  # the histogram is not recorded: only what is impossible of this mean is refused
        edit(file, line, honest=True, p_a_lower=lambda cell: 0.5 * (float(cell) + 1))
        column = "p_a_lower"
    assert f"line {line}, column {column}: " in macer.refuses("table", directory)


def test_reading_and_checking_rows_takes_no_longer_than_a_few_times_making_them(tmp_path):
    """Both are measured in processor time, side by side, so that a slow machine slows both."""
    table = {**FACTS, "n": 100_000, "total": 10_000}
    made_by = fingerprint(table)
    lines = [HEADER]
    started = time.process_time()
    for idx in range(2000):
        p = clopper_pearson_lower(100_000 - idx, 100_000, 0.001)
        certificate = Certificate(3, certified_radius(p, 0.25), p, 100_000.0 - idx, 100_000)
        lines.append(Row.of(idx, 3, certificate, 1.0, "d1ce", made_by).line(named=False))
    file = tmp_path / "hard.tsv"
    file.write_text("".join(lines))
    made = time.process_time()
    found, _ = read_finished_journal(file)
    check_rows(file, "hard", found, table)
    assert time.process_time() - made < 10 * (made - started)
    assert len(found) == 2000


def test_verify_says_what_it_checked(macer, trained, whole):
    """The command's default is five images, drawn at random; all 24 are the same again."""
    digest = read_toml(whole / "settings.toml")["certification"]["digest"]
    result = macer("verify", whole, "--images", 24, "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert "arithmetic: 24 hard certificates" in result.out
    assert "arithmetic: 24 soft certificates" in result.out
    assert f"digest {digest}" in result.out
    assert re.search(r"images of digits test: digest [0-9a-f]{64}\n", result.out)
    assert "noise: 24 of 24 images evaluated again (0, 20, " in result.out
    assert "with the same sums" in result.out
    assert result.out.endswith("\nholds\n")
    assert "noise: 5 of 24 images" in macer("verify", whole, "--device", "cpu").out


def test_a_forged_class_or_label_with_its_checksum_is_found_by_verifying(macer, whole, tmp_path):
    for cells, says in (({"predict": 9, "correct": 0, "label": 9}, "column label"), ({"predict": 9}, "does not hold")):
        directory = copy(whole, tmp_path / says.split()[-1])
        file = directory / "hard.tsv"
        line = lines_of(file, True)
        cells = cells | ({"correct": 1} if "label" in cells else {"correct": 0})
        edit(file, line, honest=True, **cells)
        assert macer("table", directory).code == 0
        result = macer("verify", directory, "--images", 24, "--device", "cpu")
        assert result.code == 1
        assert says in result.out


def test_radii_that_are_larger_by_what_rounding_may_do_are_told(macer, trained, tmp_path):
    """One vote more for each row is within what another machine may round otherwise; all in one direction are not."""
    directory = tmp_path / "c"
    assert macer("certify", trained, "--device", "cpu", "--n", 500, "--skip", 100, "--out", directory).code == 0
    file, excess = directory / "hard.tsv", []
    for line, row in enumerate(read_journal(file).values(), start=2):
        if row.predict != -1 and row.count < 500:
            bound = clopper_pearson_lower(int(row.count) + 1, 500, 0.001)
            excess.append(certified_radius(bound, 0.25) - row.radius)
            edit(file, line, honest=True, count=f"{row.count + 1:g}", p_a_lower=bound, radius=row.radius + excess[-1])
    assert len(excess) > 1
    result = macer("verify", directory, "--images", 5, "--device", "cpu")
    assert result.code == 0
    told = f"{len(excess)} with sums that differ; {len(excess)} radii are larger in the record, by at most "
    assert float(result.out.split(told)[1].split()[0]) == pytest.approx(max(excess), rel=0.05)


def proved_by(bound: Bound) -> dict[str, object]:
    """The cells of a row with such a bound at sigma = 0.25."""
    radius = certified_radius(bound.p_a_lower, 0.25, bound.p_b_upper)
    return {"p_a_lower": bound.p_a_lower, "radius": radius, "second": "" if bound.second is None else bound.second}


FORGED = {
    "two-class": (HardTwoClass(), lambda count: -((count - 2000) // 9)),
    "bernstein": (Soft(), lambda count: count * count / 2000),
    "betting": (SoftBetting(), lambda count: None),
}
"""The largest bound that a row's count allows: the votes of the runner-up, or the squares, that give it."""


@pytest.mark.parametrize("way", FORGED)
def test_a_forged_bound_is_found_where_the_same_noise_is_evaluated_again(macer, trained, tmp_path, way):
    """Votes and arithmetic are right. What else the bound follows from is not what was counted."""
    kind, best = FORGED[way]
    options = {"two-class": ("--hard-bound", way)}.get(way, ("--mode", "soft", "--soft-bound", way))
    directory = tmp_path / "c"
    words = ("--device", "cpu", "--n", 2000, "--skip", 100, *options, "--out", directory)
    assert macer("certify", trained, *words).code == 0
    (file,) = directory.glob("*.tsv")
    for line, row in enumerate(read_journal(file).values(), start=2):
        if row.predict != -1:
            bound = kind.bound_again(row.count, best(row.count), 2000, 10, 0.001)
            cells = proved_by(bound)
            assert cells["radius"] >= row.radius
            edit(file, line, honest=True, **cells)
    assert macer("table", directory).code == 0
    result = macer("verify", directory, "--images", 5, "--device", "cpu")
    assert (result.code, result.out.splitlines()[-1]) == (1, "does not hold")
    if way != "betting":
        line = lines_of(file, True)
        edit(file, line, honest=True, second="")
        assert re.search(rf"line {line}, column count: .* needs the (runner-up|sum)", macer.refuses("table", directory))


def test_the_random_number_of_a_bound_follows_from_seed_and_image(macer, trained, tmp_path):
    """A smaller one, with the larger bound that follows from it, is refused; so are ways that are no proof."""
    directory = tmp_path / "c"
    words = ("certify", trained, "--device", "cpu", "--n", 2000, "--skip", 100, "--hard-bound", "randomised")
    assert macer(*words, "--out", directory).code == 0
    file = directory / "hard.tsv"
    rows = list(read_journal(file).values())
    seed = read_toml(directory / "settings.toml")["certification"]["seed"]
    assert [row.second for row in rows] == [uniform_of_bound(seed, row.idx) for row in rows]
    line, row = next((at, row) for at, row in enumerate(rows, start=2) if row.predict != -1 and row.count < 2000)
    forged = HardRandomised(row.second / 2).bound_again(row.count, None, 2000, 10, 0.001)
    assert forged.p_a_lower > row.p_a_lower
    edit(file, line, honest=True, **proved_by(forged))
    assert f"line {line}, column second: " in macer.refuses("table", directory)
    assert "n0 = 0 is for hard certificates with the one-class bound" in macer.refuses(*words, "--n0", 0)
    sequential = ("--spend", "sequential", "--at-least", 0.2)
    assert "for hard certificates with the one-class bound" in macer.refuses(*words, *sequential)


def test_images_that_one_kind_lacks_are_evaluated_and_missing_ones_are_told(macer, whole, tmp_path):
    directory = copy(whole, tmp_path / "c")
    lines = {kind: (directory / f"{kind}.tsv").read_text().splitlines(keepends=True) for kind in ("hard", "soft")}
    (directory / "hard.tsv").write_text("".join(lines["hard"][:13]))
    (directory / "soft.tsv").write_text("".join([*lines["soft"][:1], *lines["soft"][13:]]))
    result = macer("verify", directory, "--images", 24, "--device", "cpu")
    assert result.code == 0
    assert result.out.count("missing: 12 of the 24 images that the settings choose") == 2
    assert "noise: 24 of 24 images evaluated again" in result.out
    edit(directory / "soft.tsv", lines_of(directory / "soft.tsv", True), honest=True, predict=9, correct=0)
    result = macer("verify", directory, "--images", 24, "--device", "cpu")
    assert (result.code, result.out.splitlines()[-1]) == (1, "does not hold")


def test_a_bound_that_was_chosen_after_the_votes_is_found(macer, trained, tmp_path):
    """Every row is rewritten as the other bound would have it, with the votes that were counted or might have been."""
    directory = tmp_path / "c"
    words = ("--device", "cpu", "--n", 2000, "--skip", 100, "--hard-bound", "auto", "--out", directory)
    assert macer("certify", trained, *words).code == 0
    for line, row in enumerate(read_journal(directory / "hard.tsv").values(), start=2):
        if row.predict != -1:
            other, second = (HardTwoClass(), -((row.count - 2000) // 9)) if row.second is None else (Hard(), None)
            bound = other.bound_again(row.count, second, 2000, 10, 0.001)
            cells = proved_by(bound)
            edit(directory / "hard.tsv", line, honest=True, **(cells if cells["radius"] > 0 else {}))
    assert macer("table", directory).code == 0
    result = macer("verify", directory, "--images", 5, "--device", "cpu")
    assert (result.code, result.out.splitlines()[-1]) == (1, "does not hold")


def test_rows_and_settings_that_lack_what_binds_them_are_refused(macer, trained, whole, tmp_path):
    unbound = copy(whole, tmp_path / "unbound")
    lines = [line.split("\t")[:10] for line in (unbound / "hard.tsv").read_text().splitlines()]
    (unbound / "hard.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    assert "hard.tsv: not a journal of certificates as macer writes them" in macer.refuses("table", unbound)
    for name in ("alpha", "sigma"):
        lacking = copy(whole, tmp_path / name)
        tables = read_toml(lacking / "settings.toml")
        del tables["certification"][name]
        write_toml(lacking / "settings.toml", tables)
        assert "holds no certification" in macer.refuses("verify", lacking, "--images", 0)
        assert f"lack {name}" in macer.refuses("certify", trained, *OPTIONS, "--out", lacking)


STRANGE = {
    "certification": ({"certification": 5}, "holds no certification"),
    "a setting": ({"certification": {"probes": ["a"]}}, "probes must be of type float"),
    "no setting": ({"certification": {"dataset": None}}, "lacks the setting 'dataset'"),
    "no seed": ({"certification": {"seed": None}}, "does not say the seed"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_strange_settings_are_one_line_when_verifying(macer, whole, tmp_path, what):
    changes, says = STRANGE[what]
    directory = copy(whole, tmp_path / "c")
    tables = read_toml(directory / "settings.toml")
    for name, change in changes.items():
        table = {**tables[name], **change} if isinstance(change, dict) else change
        tables[name] = {k: v for k, v in table.items() if v is not None} if isinstance(table, dict) else table
    write_toml(directory / "settings.toml", tables)
    if isinstance(tables["certification"], dict):
        bind(directory, fingerprint(tables["certification"]))
    assert says in macer.refuses("verify", directory, "--device", "cpu")


@pytest.mark.parametrize(
    ("here", "there", "says"),
    [
        ("cpu (x86_64)", "cpu (arm)", None),
        ("cuda (A)", ["cuda (A)", "cuda (A)"], None),
        ("cpu (x86_64)", "cuda (A)", r"made in 16 bits on cuda \(A\), and cpu rounds otherwise: verify it there"),
        ("cuda (A)", "cuda (B)", r"made in 16 bits on cuda \(B\), and cuda \(A\) rounds otherwise: verify it there"),
        ("cuda (A)", ["cpu (arm)", "cuda (A)"], r"on cpu and cuda \(A\), .* with no images to evaluate"),
    ],
)
def test_16_bits_are_evaluated_again_on_the_kind_of_device_that_rounds_so(tmp_path, here, there, says):
    run = CertificationRun(tmp_path)
    write_toml(run.settings_file, {"environment": {"device": there}})
    with nullcontext() if says is None else pytest.raises(SettingsError, match=says):
        check_rounding(run, here)


@pytest.mark.parametrize(
    ("environment", "says"),
    [(5, "environment must be a table"), ({"device": 5}, "device cannot be 5"), ({"device": ""}, "rounds otherwise")],
)
def test_strange_environments_of_16_bits_are_refused(tmp_path, environment, says):
    run = CertificationRun(tmp_path)
    write_toml(run.settings_file, {"environment": environment})
    with pytest.raises(MacerError, match=says):
        check_rounding(run, "cpu (x86_64)")


@pytest.mark.parametrize(
    ("arithmetic", "refused"),
    [({}, False), ({"dtype": "float64"}, False), ({"dtype": "bfloat16, float32"}, True), ({"dtype": "float16"}, True)],
)
def test_only_networks_in_16_bits_are_bound_to_a_kind_of_device(whole, monkeypatch, arithmetic, refused):
    """What a GPU certified in float32 holds on a CPU, and the other way round."""
    monkeypatch.setattr("macer.certification.evaluation.describe_device", lambda _device: "cuda (A)")
    monkeypatch.setattr(verifying, "plan_of", lambda *given: replaced(source.plan_of(*given)))

    def replaced(plan):
        return replace(plan, settings=replace(plan.settings, **arithmetic))

    with nullcontext() if not refused else pytest.raises(SettingsError, match=r"cuda \(A\) rounds otherwise"):
        found = verifying.verify(whole, 1, Places(), console=Console(quiet=True), engine=Engine("cpu"))
        assert not found.failed
        assert "with the same sums" in found.checked[-1]


def test_strange_environments_are_merged_as_text_and_strange_settings_are_refused(macer, whole, tmp_path):
    directory = copy(whole, tmp_path / "c")
    tables = read_toml(directory / "settings.toml")
    environment = tables["environment"]
    write_toml(directory / "settings.toml", tables | {"environment": environment | {"device": {"a": 1}, "started": []}})
    assert macer("merge", directory, "--out", tmp_path / "merged").code == 0
    assert read_toml(tmp_path / "merged" / "settings.toml")["environment"]["device"] == "{'a': 1}"
    write_toml(directory / "settings.toml", tables | {"environment": 5})
    assert "environment must be a table" in macer.refuses("merge", directory, "--out", tmp_path / "other")
    tables["certification"]["network"] = date(2020, 1, 1)
    write_toml(directory / "settings.toml", tables)
    assert "network must be of type str" in macer.refuses("table", directory)


def test_settings_command_no_terminal(macer, whole, tmp_path):
    directory = copy(whole, tmp_path / "c")
    tables = read_toml(directory / "settings.toml")
    tables["certification"]["dataset"] = "digits\x1b]0;title\x07"
    write_toml(directory / "settings.toml", tables)
    bind(directory, fingerprint(tables["certification"]))
    result = macer("verify", directory, "--images", 0)
    assert result.code == 0
    assert "dataset digits\N{REPLACEMENT CHARACTER}]0;title" in result.out
    assert "\x1b" not in result.out


def test_sound_radii_of_many_samples_on_large_images_are_those_of_their_bounds(tmp_path):
    """Where p_a_lower is next to 1, the discretisation's error takes more of a radius."""
    table = {**FACTS, "sigma": 1.0, "n": 10**9, "sound": True, "noise": 2}
    p = clopper_pearson_lower(10**9, 10**9, 0.001)
    radius = GridNoiseSource(1.0, 0).radius(p, None, (3, 224, 224))
    assert certified_radius(p, 1.0) - radius > 5e-4
    file = tmp_path / "hard.tsv"
    for claimed, holds in ((radius, True), (radius + 0.001, False), (radius - 0.2, False)):
        row = Row(0, 3, 3, claimed, 1.0, p, 1e9, 10**9, None, "d1ce", fingerprint(table))
        file.write_text(HEADER + row.line(named=False))
        if holds:
            check_rows(file, "hard", [row], table)
        else:
            with pytest.raises(CertificateError, match="column radius"):
                check_rows(file, "hard", [row], table)


def bind(directory: Path, made_by: str) -> None:
    """Give all rows the fingerprint of other settings."""
    for kind in ("hard", "soft"):
        for line in range(2, 26):
            edit(directory / f"{kind}.tsv", line, honest=True, settings=made_by)


def test_another_network_other_data_or_nothing_there_is_one_line(macer, trained, whole, tmp_path):
    assert "(1, 28, 28)" in macer.refuses("verify", whole, "--checkpoint", "zoo:mnist-macer-0.25")
    for place in (tmp_path / "none", whole / "hard.tsv"):
        assert f"{place}: no settings.toml there: give the directory" in macer.refuses("verify", place)
    other = tmp_path / "other"
    words = ("--dataset", "digits", "--network", "convnet", "--device", "cpu", "--epochs", 1, "--method", "cohen")
    assert macer("train", *words, "--gauss-num", 1, "--out", other).code == 0
    assert "(digest: " in macer.refuses("verify", whole, "--checkpoint", other)
    code = copy(whole, tmp_path / "code")
    tables = read_toml(code / "settings.toml")
    tables["certification"] |= {"network": "os:system", "checkpoint": "os:system"}
    write_toml(code / "settings.toml", tables)
    bind(code, fingerprint(tables["certification"]))
    assert "its network is code, 'os:system'" in macer.refuses("verify", code)


def test_verifying_runs_no_code_because_settings_say_so(macer, whole, tmp_path, monkeypatch):
    """The recorded path leads to a program."""
    directory = copy(whole, tmp_path / "c")
    with pytest.warns(DeprecationWarning, match="jit.script"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    tables = read_toml(directory / "settings.toml")
    tables["certification"]["checkpoint"] = str(tmp_path / "program.pt")
    write_toml(directory / "settings.toml", tables)
    opened = []
    monkeypatch.setattr("torch.jit.load", lambda *arguments, **options: opened.append(arguments))
    for words in ((), ("--network", "convnet"), ("--network", "test_verify:nothing")):
        assert str(tmp_path / "program.pt") in macer.refuses("verify", directory, *words)
    assert opened == []


def test_code_that_returns_other_weights_at_each_call_is_warned_about(macer, tmp_path, monkeypatch):
    (tmp_path / "macer_test_drawn.py").write_text(
        "import torch\nfrom torch import nn\n"
        "\n\ndef drawn():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "\n\ndef same():\n    torch.manual_seed(0)\n    return drawn()\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("--dataset", "digits", "--sigma", 0.5, "--n", 100, "--num-img", 1, "--device", "cpu")
    warned = macer("certify", "macer_test_drawn:drawn", *words, "--out", "drawn")
    assert (
        "warning: macer_test_drawn:drawn returns other weights each time it is called: the certificates" in warned.out
    )
    assert "other weights" not in macer("certify", "macer_test_drawn:same", *words, "--out", "same").out


def test_code_is_not_verified_without_the_weights_that_it_was_certified_with(macer, tmp_path, monkeypatch):
    (tmp_path / "macer_test_flat.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save({"1.weight": torch.ones(10, 64), "1.bias": torch.arange(10.0)}, "weights.pt")
    code = ("--network", "macer_test_flat:build")
    words = ("--dataset", "digits", "--sigma", 0.5, "--n", 100, "--num-img", 2, "--device", "cpu", "--out", "c")
    assert macer("certify", "weights.pt", *code, *words).code == 0
    assert macer("verify", "c", *code).code == 0
    Path("weights.pt").rename("moved.pt")
    assert "c: its weights were in weights.pt, which is not here: give their file" in macer.refuses(
        "verify", "c", *code
    )
    assert macer("verify", "c", *code, "--checkpoint", "moved.pt").code == 0


def test_the_recorded_layer_in_front_is_found_by_its_name(whole, monkeypatch):
    asked, find = [], source.find_network

    def found(*arguments):
        asked.append(arguments)
        return find(arguments[0])

    monkeypatch.setattr(source, "find_network", found)
    table = read_toml(whole / "settings.toml")["certification"] | {"normalisation": "CIFAR-10 centring"}
    settings = from_table(CertificationSettings, table, "")
    source._network(CertificationRun(whole), settings, source.Places())
    ((file, *others),) = asked
    assert str(file) == table["checkpoint"]
    assert others == ["convnet", "cifar10-center", None]


def test_swapped_images_are_refused_when_going_on_and_found_by_verifying(macer, trained, tmp_path, monkeypatch):
    words = ("certify", trained, "--device", "cpu", "--n", 700, "--skip", 100, "--out", tmp_path / "c")
    assert macer(*words).code == 0
    images = type(data.load("digits", None, "test"))
    get = images.__getitem__
    monkeypatch.setattr(images, "__getitem__", lambda self, index: get(self, len(self) - 1 - index))
    said = macer.refuses(*words[:-4], "--skip", 50, "--out", tmp_path / "c")
    assert "/c was made with other settings (images_digest: the images or their labels are others than there" in said
    result = macer("verify", tmp_path / "c")
    assert result.code == 1
    assert result.out.count(", column image: ") == 5
    swapped = {100: 200, 200: 100}  # two that the digest does not look at
    monkeypatch.setattr(images, "__getitem__", lambda self, index: get(self, swapped.get(index, index)))
    said = macer.refuses(*words[:-4], "--skip", 50, "--out", tmp_path / "c")
    assert re.search(r"hard\.tsv, line 3, column image: [0-9a-f]{16} was certified, but image 100 of digits test", said)


def test_more_images_join_finished_certificates(macer, trained, tmp_path):
    common = ("certify", trained, "--device", "cpu", "--n", 700)
    few, grown, other = (tmp_path / name for name in ("few", "grown", "other"))
    assert macer(*common, "--skip", 100, "--out", few).code == 0
    copy(few, grown)
    before = (grown / "hard.tsv").read_text().splitlines()[1:]
    assert macer(*common, "--skip", 50, "--out", grown).code == 0
    after = (grown / "hard.tsv").read_text().splitlines()[1:]
    assert len(after) == 10
    assert after[::2] == before  # not made again: even the seconds are the same
    assert "not finished" not in macer("table", grown).out
    assert macer(*common, "--start-img", 50, "--skip", 100, "--out", other).code == 0
    merged = macer("merge", few, other, "--out", tmp_path / "merged")
    assert "10 of 10 images" in merged.out
    assert rows(tmp_path / "merged", "hard") == rows(grown, "hard")
    choice = {"start_img": 0, "num_img": 10, "skip": 50}
    for directory in (grown, tmp_path / "merged"):
        assert choice.items() <= read_toml(directory / "settings.toml")["certification"].items()
    assert macer(*common, "--skip", 50, "--num-img", 4, "--out", grown).code == 0  # fewer: all rows stay
    assert len(read_journal(grown / "hard.tsv")) == 10


def test_certificates_of_an_earlier_epoch_are_not_gone_on_with(macer, trained, tmp_path):
    words = ("certify", trained, "--device", "cpu", "--n", 700, "--skip", 250, "--out", tmp_path)
    assert macer(*words).code == 0
    tables = read_toml(tmp_path / "settings.toml")
    tables["certification"] |= {"digest": "0" * 64, "epoch": 0}
    write_toml(tmp_path / "settings.toml", tables)
    assert "holds certificates of the network after epoch 0, and it was trained on to epoch" in macer.refuses(*words)


def test_parts_far_apart_leave_images_missing_between_them(macer, trained, tmp_path):
    common = ("certify", trained, "--device", "cpu", "--n", 700, "--num-img", 2)
    for start in (0, 6):
        assert macer(*common, "--start-img", start, "--out", tmp_path / str(start)).code == 0
    merged = macer("merge", tmp_path / "0", tmp_path / "6", "--out", tmp_path / "merged")
    assert "4 of 8 images; 4 missing, the first is image 2" in merged.out


@pytest.mark.parametrize("order", ["at work", "just before"])
@pytest.mark.parametrize("command", ["certify", "merge"])
def test_of_two_commands_in_one_new_directory_one_is_refused(macer, trained, tmp_path, monkeypatch, order, command):
    """Sigma 0.12 and 0.5: the directory has the settings and the rows of one of them, whoever comes first."""
    common = ("certify", trained, "--device", "cpu", "--n", 700, "--skip", 250)
    directory = tmp_path / "both"
    first = (*common, "--sigma", 0.12, "--out", directory)
    second = (*common, "--sigma", 0.5, "--out", directory)
    if command == "merge":
        for sigma in (0.12, 0.5):
            assert macer(*common, "--sigma", sigma, "--out", tmp_path / str(sigma)).code == 0
        first, second = (("merge", tmp_path / str(sigma), "--out", directory) for sigma in (0.12, 0.5))
    if order == "at work":
        directory.mkdir()
        with locked(directory):
            assert "another process is at work there" in macer.refuses(*second)
            assert list(directory.iterdir()) == []
        assert macer(*first).code == 0
    else:  # the other one ran between the moment at which this one saw nothing there and its lock
        lock = locked

        def late(path, *flags):
            monkeypatch.setattr(runs_directory, "locked", lock)
            assert macer(*first).code == 0
            return lock(path, *flags)

        monkeypatch.setattr(runs_directory, "locked", late)
        assert "sigma: 0.12 there, 0.5 here" in macer.refuses(*second)
    assert read_toml(directory / "settings.toml")["certification"]["sigma"] == 0.12
    assert len(
        read_own_journal(directory / "hard.tsv", "hard", read_toml(directory / "settings.toml")["certification"])
    )


def test_two_exports_to_one_file_do_not_mix(macer, whole, tmp_path):
    file = tmp_path / "x.csv"
    with replacing(file) as temporary:
        temporary.write_text("half of ")
        assert "another process is at work there" in macer.refuses("export", whole / "hard.tsv", file)
        temporary.write_text("all")
    assert file.read_text() == "all"
    assert macer("export", whole / "hard.tsv", file).code == 0
    assert [each.name for each in tmp_path.iterdir()] == ["x.csv"]


def test_what_replaces_a_file_is_on_the_disk_before_and_its_name_after(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda *paths: (synced.append("replaced"), replace(*paths)))
    write_toml(tmp_path / "settings.toml", {"a": 1})
    assert synced == [tmp_path / "settings.toml.tmp", "replaced", tmp_path]
    synced.clear()
    with Journal(tmp_path / "hard.tsv"):
        assert synced == [tmp_path / "hard.tsv", tmp_path]
