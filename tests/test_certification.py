"""Certification: nothing lost, nothing twice, whatever stops it; the same certificates however they are computed."""

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from journals import IMAGES, OPTIONS, assert_same, rows
from scipy.io import loadmat

from macer.files.toml import read_toml
from macer.runs.certificates import HEADER, Journal, Row
from macer.smoothing import ABSTAIN, Certificate

pytest_plugins = ["command", "certified"]

FIELD = ("idx", "label", "predict", "radius", "correct", "time")
OURS = ("p_a_lower", "count", "n", "abstained", "second", "image", "settings", "checksum")


def test_the_journal_says_what_the_field_reads(whole):
    for kind in ("hard", "soft"):
        lines = (whole / f"{kind}.tsv").read_text().splitlines(keepends=True)
        assert lines[0] == HEADER == "\t".join([*FIELD, *OURS]) + "\n"
        table = [dict(zip(lines[0].split(), line.split("\t"), strict=True)) for line in lines[1:]]
        assert [int(row["idx"]) for row in table] == list(range(0, 480, 20))
        for row in table:
            assert int(row["n"]) == 700
            assert 0 <= float(row["count"]) <= 700
            assert int(row["correct"]) == (row["predict"] == row["label"])
            assert int(row["abstained"]) == (row["predict"] == "-1") == (float(row["p_a_lower"]) <= 0.5)
            assert (float(row["radius"]) > 0) == (row["predict"] != "-1")
            assert float(row["time"]) > 0
        kinds = {row["correct"] for row in table}
        assert kinds == {"0", "1"}, "this network is to be right and wrong"


def test_mat_has_the_originals_variables(whole):
    content = loadmat(whole / "certificates.mat")
    for kind in ("hard", "soft"):
        expected = [float(row[3]) if row[4] == "1" else -1.0 for row in rows(whole, kind)[1:]]
        assert content[kind].ravel().tolist() == expected
        assert -1.0 in expected
        assert max(expected) > 0


def test_the_run_says_how_it_was_made(whole, trained):
    tables = read_toml(whole / "settings.toml")
    told = tables["certification"]
    assert (told["sigma"], told["n0"], told["n"], told["alpha"], told["seed"]) == (0.25, 100, 700, 0.001, 0)
    assert (told["dataset"], told["start_img"], told["skip"], told["num_img"], told["total"]) == (
        *("digits", 0, 20, IMAGES, 500),
    )
    assert told["checkpoint"] == str(trained / "checkpoints" / "last.pt")
    assert len(told["digest"]) == 64
    environment = tables["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["device"].startswith("cpu")
    assert environment["command"].startswith("macer certify ")
    assert (Path(__file__).parents[1] / ".git").exists() == ("git_commit" in environment)


def test_killed_at_random_moments_it_ends_with_the_same_file(macer, trained, whole, tmp_path):
    """kill -9 ten times, each time after at least one more certificate, at a random moment of the next ones."""
    directory = tmp_path / "certificates"
    soft = directory / "soft.tsv"
    chance = random.Random(2)
    kills = 0
    for _ in range(10):
        before = soft.stat().st_size if soft.exists() else len(HEADER)
        process = macer.start("certify", trained, *OPTIONS, "--out", directory)
        deadline = time.monotonic() + 60
        while (soft.stat().st_size if soft.exists() else 0) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.signal(signal.SIGKILL)
        kills += process.wait().code == -signal.SIGKILL
        for kind in ("hard", "soft"):
            done = rows(directory, kind)
            assert done == rows(whole, kind)[: len(done)]
    assert kills >= 5
    result = macer("certify", trained, *OPTIONS, "--out", directory)
    assert result.code == 0
    assert_same(directory, whole)


def test_a_journal_cut_anywhere_in_a_row_is_made_whole(macer, trained, whole, tmp_path):
    """The two journals cut at different places, as when one row of the two was written."""
    directory = tmp_path / "certificates"
    directory.mkdir()
    for name in ("settings.toml", "certificates.mat"):
        (directory / name).write_bytes((whole / name).read_bytes())
    for hard_cut, soft_cut in ((-1, 0), (-30, -3), (0, -40), (-200, -90), (-10_000, 0)):
        for kind, cut in (("hard", hard_cut), ("soft", soft_cut)):
            content = (whole / f"{kind}.tsv").read_bytes()
            (directory / f"{kind}.tsv").write_bytes(content[: len(content) + cut] if cut else content)
        assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
        assert_same_as_sets(directory, whole)


def assert_same_as_sets(directory: Path, whole: Path) -> None:
    assert_same(directory, whole)
    for kind in ("hard", "soft"):
        indices = [row[0] for row in rows(directory, kind)]
        assert len(set(indices)) == len(indices)


def certificate(idx: int) -> Certificate:
    return Certificate(idx % 3, 0.1 * idx + 0.1, 0.5 + 0.01 * idx, 600.0 + idx, 700)


def test_every_position_at_which_a_row_can_be_torn(tmp_path):
    file = tmp_path / "hard.tsv"
    with Journal(file) as journal:
        for idx in (0, 7, 14):
            journal.write(Row.of(idx, 1, certificate(idx), 0.25, "d1ce", "f00d"))
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    for length in range(len(content) + 1):
        file.write_bytes(content[:length])
        ends = [sum(map(len, lines[: count + 1])) for count in range(len(lines))]
        whole_rows = [idx for idx, end in zip((0, 7, 14), ends[1:], strict=True) if end <= length]
        with Journal(file) as journal:
            assert set(journal.done) == set(whole_rows)
            for idx in (0, 7, 14):
                if idx not in journal.done:
                    journal.write(Row.of(idx, 1, certificate(idx), 0.25, "d1ce", "f00d"))
        assert file.read_bytes() == content


def test_a_row_has_left_the_process_when_write_returns(tmp_path):
    file = tmp_path / "hard.tsv"
    with Journal(file) as journal:
        journal.write(Row.of(3, 1, Certificate(ABSTAIN, 0.0, 0.4, 300.5, 700, 200.25), 1.23456, "d1ce", "f00d"))
        row = "3\t1\t-1\t0.0\t0\t1.235\t0.4\t300.5\t700\t1\t200.25\td1ce\tf00d"
        assert file.read_text() == f"{HEADER}{row}\t{sha256(row.encode()).hexdigest()[:16]}\n"


@pytest.mark.parametrize("batch_size", [1000, 2000, 5000])
def test_the_batch_size_changes_nothing(macer, trained, whole, tmp_path, batch_size):
    assert macer("certify", trained, *OPTIONS, "--batch-size", batch_size, "--out", tmp_path / "c").code == 0
    assert_same(tmp_path / "c", whole)


def test_order_and_choice_of_images_change_no_certificate(macer, trained, whole, tmp_path):
    """Two images, one after the other from a later start, give the rows that they have among all."""
    expected = {row[0]: row[:-1] for row in rows(whole, "soft")}  # without the settings, which make both kinds
    for start, skip in ((440, 20), (60, 80), (0, 460)):
        directory = tmp_path / str(start)
        words = ("--device", "cpu", "--mode", "soft", "--n", 700, "--num-img", 2, "--start-img", start, "--skip", skip)
        assert macer("certify", trained, *words, "--out", directory).code == 0
        found = [row[:-1] for row in rows(directory, "soft")[1:]]
        assert found == [expected[str(start)], expected[str(start + skip)]]


def test_another_seed_gives_other_certificates(macer, trained, whole, tmp_path):
    assert macer("certify", trained, *OPTIONS, "--seed", 1, "--out", tmp_path / "c").code == 0
    assert rows(tmp_path / "c", "soft") != rows(whole, "soft")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_finishes_the_row_and_says_how_to_go_on(macer, trained, whole, tmp_path, number):
    """SIGINT to the installed command, SIGTERM to a forked one: a start of the former takes seconds."""
    directory = tmp_path / "certificates"
    words = ("certify", trained, *OPTIONS, "--out", directory)
    hard = directory / "hard.tsv"
    if number == signal.SIGTERM:
        process = macer.start(*words)
        wait_for_rows(hard)
        process.signal(number)
        result = process.wait()
        code, error = result.code, result.err
    else:
        command = [str(word) for word in (Path(sys.executable).with_name("macer"), *words)]
        started = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        wait_for_rows(hard)
        started.send_signal(number)
        error = started.communicate(timeout=60)[1]
        code = started.returncode
    assert code == 128 + number
    done = len(rows(directory, "hard")) - 1
    assert 0 < done < IMAGES
    assert hard.read_bytes().endswith(b"\n")
    assert len(rows(directory, "soft")) - 1 == done
    answer = "macer: finishing this image; again to stop now\n"  # where nobody knows yet how long an image takes
    assert error.removeprefix(answer) == (
        f"macer: certification stopped after {done} of {IMAGES} images; the same command goes on from {directory}\n"
    )
    assert macer(*words).code == 0
    assert_same(directory, whole)


def wait_for_rows(file: Path) -> None:
    deadline = time.monotonic() + 60
    while (file.stat().st_size if file.exists() else 0) <= len(HEADER) and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("limit", [300, 1500, 2500])
def test_a_full_disk_is_one_line_and_nothing_is_lost(macer, trained, whole, tmp_path, limit):
    """A limit on the size of files cuts a write midway, as a full disk does."""
    directory = tmp_path / "certificates"
    full = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))"
    # The output of the command itself is not to be cut.
    said = macer.refuses("certify", trained, *OPTIONS, "--out", directory, before=full)
    assert str(directory) in said
    assert "File too large" in said
    if limit == 2500:
        assert 0 < len(rows(directory, "hard")) - 2 < IMAGES
        assert (directory / "soft.tsv").stat().st_size == limit
        assert not (directory / "soft.tsv").read_bytes().endswith(b"\n")
    assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
    assert_same(directory, whole)


def test_a_read_only_disk_is_one_line(macer, trained, tmp_path):
    broken = (
        "import pathlib, errno\n"
        "def mkdir(self, *_, **__): raise OSError(errno.EROFS, 'Read-only file system', str(self))\n"
        "pathlib.Path.mkdir = mkdir"
    )
    said = macer.refuses("certify", trained, *OPTIONS, "--out", tmp_path / "c", before=broken)
    assert said == f"macer: {tmp_path / 'c'}: Read-only file system"


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--n", 800, "n: 700 there, 800 here"),
        ("--alpha", 0.01, "alpha: 0.001 there, 0.01 here"),
        ("--seed", 3, "seed: 0 there, 3 here"),
        ("--sigma", 0.5, "sigma: 0.25 there, 0.5 here"),
        ("--mode", "hard", "mode: both there, hard here"),
    ],
)
def test_a_directory_with_other_settings_is_refused_by_name(macer, trained, whole, option, value, says):
    before = {file: file.read_bytes() for file in whole.iterdir()}
    assert says in macer.refuses("certify", trained, *OPTIONS, option, value, "--out", whole)
    assert {file: file.read_bytes() for file in whole.iterdir()} == before


def test_other_weights_are_refused_and_the_same_ones_elsewhere_are_not(macer, trained, whole, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    torch.save(content, tmp_path / "moved.pt")
    before = (whole / "hard.tsv").read_bytes()
    assert macer("certify", tmp_path / "moved.pt", *OPTIONS, "--out", whole).code == 0
    assert (whole / "hard.tsv").read_bytes() == before
    content["network"]["fc2.bias"] += 1e-3
    torch.save(content, tmp_path / "other.pt")
    assert "digest: " in macer.refuses("certify", tmp_path / "other.pt", *OPTIONS, "--out", whole)


def test_another_sigma_than_trained_is_a_warning_that_says_what_it_means(macer, trained, tmp_path):
    words = ("--device", "cpu", "--n", 200, "--num-img", 1)
    result = macer("certify", trained, *words, "--sigma", 0.5, "--out", tmp_path / "1")
    assert result.code == 0
    assert "warning: " in result.out
    assert "trained with noise of sigma 0.25 and is certified with 0.5: the certificates are valid" in result.out
    assert "warning" not in macer("certify", trained, *words, "--sigma", 0.25, "--out", tmp_path / "2").out


def test_soft_certificates_take_beta_from_training_unless_it_is_given(macer, trained, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    content["settings"]["objective"] = {"name": "macer", "sigma": 0.25, "beta": 4.0}
    torch.save(content, tmp_path / "macer.pt")
    words = ("certify", tmp_path / "macer.pt", "--device", "cpu", "--n", 200, "--num-img", 1, "--out")

    def beta(name: str) -> float:
        return read_toml(tmp_path / name / "settings.toml")["certification"]["beta"]

    said = macer(*words, tmp_path / "soft", "--mode", "soft").out
    assert "soft certificates with beta 4, that of training\n" in said
    assert beta("soft") == 4.0
    assert "beta" not in macer(*words, tmp_path / "given", "--mode", "both", "--beta", 2).out
    assert beta("given") == 2.0
    assert "beta" not in macer(*words, tmp_path / "hard").out


def test_a_network_that_returns_nan_is_one_line(macer, trained, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    content["network"]["fc2.bias"][3] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    assert "not finite" in macer.refuses("certify", tmp_path / "nan.pt", *OPTIONS, "--out", tmp_path / "c")


def test_at_the_end_it_shows_the_table_and_says_where_the_files_are(macer, trained, whole):
    """Done before, it computes nothing and shows the same."""
    before = (whole / "hard.tsv").stat().st_mtime_ns
    result = macer("certify", trained, *OPTIONS, "--out", whole)
    assert result.code == 0
    assert "24 of 500" in result.out
    assert f"certificates: {whole}" in result.out
    assert (whole / "hard.tsv").read_text().count("\n") == 1 + IMAGES
    assert (whole / "hard.tsv").stat().st_mtime_ns >= before
