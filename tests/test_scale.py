"""Certification at scale: the same rows from any number of processes and shards, whatever happens to them."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from journals import IMAGES, OPTIONS, assert_same, rows
from launching import lightning, only_the_first_speaks, srun, start_together, together, torchrun
from rich.console import Console
from torch import nn
from torch.distributed import TCPStore

import macer.compute.progress
from macer.certification import CertificationSettings
from macer.certification.live import LiveView
from macer.certification.processes import Processes
from macer.compute.interruption import StopRequest
from macer.errors import MacerError, RecordsError, SettingsError
from macer.files.toml import read_toml
from macer.results.metrics import wilson_interval
from macer.runs.certificates import Journal, gather, own_part, read_rows
from macer.smoothing import Certificate, SmoothedClassifier

if TYPE_CHECKING:
    from command import Macer

pytest_plugins = ["command", "certified"]


@pytest.mark.parametrize(("size", "more"), [(2, ("--batch-size", 1000)), (4, ())], ids=["2", "4"])
def test_several_processes_make_the_same_rows(macer, trained, whole, tmp_path, size, more):
    words = ("certify", trained, *OPTIONS, *more, "--devices", size, "--out", tmp_path / "c")
    first = only_the_first_speaks(together(macer, size, *words))
    assert (first.code, first.err) == (0, "")
    assert "24 of 500" in first.out
    assert first.out.count("certificates: ") == 1
    assert_same(tmp_path / "c", whole)


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_processes_of_torchrun_and_slurm_find_each_other(macer, trained, whole, tmp_path, launcher):
    words = ("certify", trained, *OPTIONS, "--out", tmp_path / "c")
    first = only_the_first_speaks(together(macer, 2, *words, launcher=launcher))
    assert (first.code, first.err) == (0, "")
    assert_same(tmp_path / "c", whole)


def test_the_installed_command_starts_its_processes(trained, whole, tmp_path):
    words = ("-m", "macer", "certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "c")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("certificates: ") == 1
    assert_same(tmp_path / "c", whole)


def test_a_number_of_processes_other_than_started_is_one_line(macer, trained, tmp_path):
    before = f"os.environ.update({torchrun(0, 2, 1)!r})"
    said = macer.refuses("certify", trained, *OPTIONS, "--devices", 3, "--out", tmp_path / "c", before=before)
    assert "3 devices on 1 machines take 3 processes, but torchrun or Slurm started 2" in said


def observed(directory: Path) -> dict[tuple[str, str], str]:
    """Each whole row on disk by kind and image; its time tells it from one made again."""
    found = {}
    for file in [*directory.glob("*.tsv"), *directory.rglob("*.part")]:
        for line in file.read_text().split("\n")[1:-1]:
            found.setdefault((file.stem.split("-")[0], line.split("\t")[0]), line)
    return found


SLOW = """
import time
from macer.runs.certificates import Journal
write = Journal.write
Journal.write = lambda *row: (time.sleep(0.15), write(*row))
"""
"""Network and images are so small that there would be no moment to interrupt."""

IMPATIENT = "import macer.certification.processes as p; p._PATIENCE = 2.0; p._SECONDS_BETWEEN_BEATS = 0.1\n"


def test_killed_processes_lose_and_repeat_nothing(macer, trained, whole, tmp_path):
    """kill -9, of the first process, of another one, of both, at random moments; what was on disk stays as it is."""
    directory = tmp_path / "certificates"
    words = ("certify", trained, *OPTIONS, "--devices", 2, "--out", directory)
    chance = random.Random(3)
    before: dict[tuple[str, str], str] = {}
    for victims in ([0], [0, 1], [1]):
        running = start_together(macer, 2, *words, before=IMPATIENT + SLOW)
        deadline = time.monotonic() + 60
        while len(observed(directory)) < len(before) + 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.05))
        for victim in victims:
            running[victim].signal(signal.SIGKILL)
        results = [each.wait() for each in running]
        assert [results[victim].code for victim in victims] == [-signal.SIGKILL] * len(victims)
        for rank in {0, 1} - set(victims):
            assert results[rank].code == 2
            says = "these are gone: 2" if rank == 0 else "the first of the processes that certify together is gone"
            (line,) = (line for line in results[rank].err.splitlines() if line.startswith("macer: "))
            assert says in line  # PyTorch's own log beside it is silent in processes that the command starts itself
        after = observed(directory)
        assert before.items() <= after.items()
        assert len(before) < len(after) < 2 * IMAGES
        before = after
    assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
    assert before.items() <= observed(directory).items()
    assert_same(directory, whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_asked_of_one_stops_all_with_one_line(macer, trained, whole, tmp_path, rank):
    directory = tmp_path / "certificates"
    words = ("certify", trained, *OPTIONS, "--devices", 2, "--out", directory)
    running = start_together(macer, 2, *words, before=SLOW)
    deadline = time.monotonic() + 60
    while len(observed(directory)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    running[rank].signal(signal.SIGTERM)
    first = only_the_first_speaks([each.wait() for each in running])
    done = len(rows(directory, "hard")) - 1
    assert 0 < done < IMAGES
    assert first.code == 128 + signal.SIGTERM
    assert first.err == (
        f"macer: certification stopped after {done} of {IMAGES} images; the same command goes on from {directory}\n"
    )
    table = macer("table", directory)
    assert table.out.count(f"{done} of {IMAGES} images; the certification is not finished") == 2
    assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
    assert_same(directory, whole)


def test_what_goes_wrong_in_any_process_is_said_once(macer, trained, whole, tmp_path):
    """The second process's disk is full."""
    full = "if rank == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))"
    words = ("certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "c")
    first = only_the_first_speaks(together(macer, 2, *words, before=full))
    assert first.code == 2
    assert first.err.count("\n") == 1
    assert "parts/" in first.err
    assert "File too large" in first.err
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path / "c").code == 0
    assert_same(tmp_path / "c", whole)


def test_rows_that_are_still_in_parts_are_no_records_of_their_own(macer, trained, whole, tmp_path):
    """As after kill -9 of all: the table says how many images the journal has, and certifying gathers the others."""
    for name in ("hard", "soft"):
        header, *lines = (whole / f"{name}.tsv").read_text().splitlines(keepends=True)
        journal = tmp_path / f"{name}.tsv"
        journal.write_text(header + "".join(lines[:5]))
        for process, own in (("0-a", lines[4:9]), ("1-a", [*lines[9:12], lines[12][:-9]])):
            own_part(journal, process).write_text(header + "".join(own))
    (tmp_path / "settings.toml").write_bytes((whole / "settings.toml").read_bytes())
    said = macer("table", tmp_path).out
    assert said.count("5 of 24 images; the certification is not finished") == 2
    before = observed(tmp_path)
    assert len(before) == 24
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path).code == 0
    assert before.items() <= observed(tmp_path).items()
    assert_same(tmp_path, whole)


def store(port: int = 0) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=port == 0, wait_for_workers=False)


def test_nobody_waits_for_the_slowest():
    """Three processes' worth of threads: each image goes to one of them, and the slow one gets few."""
    first = store()
    stores = [first, store(first.port), store(first.port)]
    taken: list[list[int]] = [[], [], []]

    def work(rank: int) -> None:
        with Processes(stores[rank], rank, 3, range(0, 600, 2), "a", StopRequest()) as processes:
            for index in processes:
                taken[rank].append(index)
                processes.count(correct=index % 4 == 0, samples=10)
                time.sleep(0.1 if rank == 1 else 0.001)
        if rank == 0:
            totals = processes.totals
            assert (totals.images, totals.correct, totals.samples) == (300, 150, 3000)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(chain(*taken)) == list(range(0, 600, 2))
    assert len(taken[1]) < 60 < min(len(taken[0]), len(taken[2]))


def test_the_first_raises_the_very_error_of_another():
    first = store()
    other = Processes(store(first.port), 1, 2, range(9), "a", StopRequest())
    with other:
        raise OSError(28, "No space left on device", "hard.tsv")
    with pytest.raises(OSError, match="No space left") as raised, Processes(first, 0, 2, range(9), "a", StopRequest()):
        pass
    assert (raised.value.errno, raised.value.filename) == (28, "hard.tsv")


def test_without_the_first_the_others_end():
    first = store()
    other = Processes(store(first.port), 1, 2, range(9), "a", StopRequest())
    del first
    with pytest.raises(MacerError, match="the first of the processes that certify together is gone"), other:
        next(iter(other))


def test_a_process_whose_starter_died_before_they_met_does_not_wait_for_it(macer, trained, tmp_path):
    """It has the number of a parent that is not its own, as an orphan has."""
    orphan = f"os.environ.update({lightning(1, 2, 1)!r}, MACER_STARTED_BY='999999999')"
    started = time.monotonic()
    said = macer.refuses("certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "c", before=orphan)
    assert said == "macer: the process that started this one is gone, and so this one ends"
    assert time.monotonic() - started < 60
    assert not (tmp_path / "c").exists()


def shards(macer: "Macer", trained: Path, out: Path, parts: int, which: range) -> list[Path]:
    for part in which:
        assert macer("certify", trained, *OPTIONS, "--shard", f"{part}/{parts}", "--out", out).code == 0
    return [out / f"shard-{part}-of-{parts}" for part in which]


@pytest.fixture(scope="module")
def thirds(macer, trained, tmp_path_factory) -> list[Path]:
    """Three shards. Not to be changed."""
    return shards(macer, trained, tmp_path_factory.mktemp("thirds"), 3, range(1, 4))


def test_a_shard_has_its_images_and_says_so(whole, thirds):
    for number, directory in enumerate(thirds):
        assert rows(directory, "hard")[1:] == rows(whole, "hard")[1:][number::3]
        assert read_toml(directory / "settings.toml")["certification"]["shard"] == f"{number + 1}/3"


def test_merged_shards_are_the_whole(macer, trained, whole, thirds, tmp_path):
    out = tmp_path / "merged"
    result = macer("merge", *thirds, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert f"merged into {out}: 24 of 24 images\n" in result.out
    assert_same(out, whole)
    told, expected = (read_toml(each / "settings.toml")["certification"] for each in (out, whole))
    assert told == expected
    before = {file.name: file.read_bytes() for file in out.glob("*.tsv")}
    assert macer("merge", thirds[1], thirds[0], whole, thirds[0], "--out", out).code == 0
    assert {file.name: file.read_bytes() for file in out.glob("*.tsv")} == before
    assert macer("certify", trained, *OPTIONS, "--out", out).code == 0
    assert {file.name: file.read_bytes() for file in out.glob("*.tsv")} == before


def test_what_merging_lacks_is_said_and_done_by_the_same_command(macer, trained, whole, thirds, tmp_path):
    out = tmp_path / "merged"
    result = macer("merge", thirds[0], thirds[2], "--out", out)
    assert result.code == 0
    assert f"merged into {out}: 16 of 24 images; 8 missing, the first is image 20\n" in result.out
    assert not (out / "certificates.mat").exists()
    merged = observed(out)
    assert macer("certify", trained, *OPTIONS, "--out", out).code == 0
    assert merged.items() <= observed(out).items()
    assert_same(out, whole)


def test_merging_takes_what_killed_processes_left_in_parts(macer, whole, thirds, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "settings.toml").write_bytes((thirds[1] / "settings.toml").read_bytes())
    for name in ("hard", "soft"):
        own_part(broken / f"{name}.tsv", "1-a").write_bytes((thirds[1] / f"{name}.tsv").read_bytes())
    assert macer("merge", thirds[0], broken, thirds[2], "--out", tmp_path / "merged").code == 0
    assert_same(tmp_path / "merged", whole)
    assert len(list(broken.rglob("*.part"))) == 2, "sources stay as they are"


def test_other_settings_are_not_merged(macer, trained, thirds, tmp_path):
    other = tmp_path / "other"
    words = ("certify", trained, *OPTIONS, "--seed", 1, "--shard", "2/3", "--out", other)
    assert macer(*words).code == 0
    said = macer.refuses("merge", thirds[0], other / "shard-2-of-3", "--out", tmp_path / "merged")
    assert "seed: 1 there, 0 here" in said
    assert not (tmp_path / "merged").exists()
    assert "seed: 1 there, 0 here" in macer.refuses("merge", thirds[0], "--out", other / "shard-2-of-3")
    assert "settings.toml" in macer.refuses("merge", tmp_path, "--out", tmp_path / "merged")


def test_a_shard_is_gone_on_with_as_the_same_shard_only(macer, trained, thirds):
    words = ("certify", trained, *OPTIONS, "--out", thirds[0].parent)
    result = macer(*words, "--shard", "1/3")
    assert result.code == 0
    assert "not finished" not in macer("table", thirds[0]).out


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("0/3", "shard is i/n with i from 1 to n, such as 1/8, not '0/3'"),
        ("4/3", "shard is i/n"),
        ("2", "shard is i/n"),
        ("1/-3", "shard is i/n"),
        ("9/9", "shard 9/9 has none of the 8 images"),
    ],
)
def test_impossible_shards_are_refused(shard, says):
    settings = {"dataset": "digits", "checkpoint": "", "network": "convnet", "digest": "", "total": 500, "num_img": 8}
    with pytest.raises(SettingsError, match=says):
        CertificationSettings(**settings, shard=shard)


@pytest.mark.parametrize(("images", "skip", "parts"), [(24, 20, 5), (7, 1, 7), (50, 3, 4), (5, 100, 1)])
def test_shards_divide_the_images(images, skip, parts):
    told = {"dataset": "digits", "checkpoint": "", "network": "convnet", "digest": "", "total": 500}
    whole = CertificationSettings(**told, num_img=images, skip=skip, start_img=3)
    divided = [
        CertificationSettings(**told, num_img=images, skip=skip, start_img=3, shard=f"{part}/{parts}").indices
        for part in range(1, parts + 1)
    ]
    assert sorted(chain(*divided)) == list(whole.indices)
    assert max(map(len, divided)) - min(map(len, divided)) <= 1


def write(file: Path, *images: tuple[int, float, float]) -> Path:
    """A journal of images, each with its number, votes and seconds."""
    file.unlink(missing_ok=True)
    with Journal(file) as journal:
        for index, count, seconds in images:
            journal.write(index, 1, Certificate(1, count / 1000, count / 700, float(count), 700), seconds)
    return file


def test_rows_may_differ_in_time_and_rounding_and_in_nothing_else(tmp_path):
    one = write(tmp_path / "one.tsv", (4, 600, 1.0), (0, 500, 1.0))
    again = write(tmp_path / "again.tsv", (0, 500, 2.0), (8, 500, 2.0))
    assert [cells[5] for _, cells in sorted(read_rows([one, again]).cells.items())] == ["1.000", "1.000", "2.000"]
    another = write(tmp_path / "another.tsv", (0, 501, 1.0))
    with pytest.raises(RecordsError, match=r"another\.tsv: image 0 was certified before with another result.*count"):
        read_rows([one, another])
    soft, rounded, other = (
        write(tmp_path / f"{name}.tsv", (0, count, 1.0))
        for name, count in (("soft", 500.123456), ("rounded", 500.123457), ("other", 500.9))
    )
    assert read_rows([soft, rounded]).text() == soft.read_text()
    with pytest.raises(RecordsError, match=r"radius: 0\.500123456 there, 0\.5009 here"):
        read_rows([soft, other])


@pytest.mark.parametrize("text", ["idx\tlabel\n1\t2\n", "not a journal\n", "idx\n1\n2\t3\n", "idx\nseven\n"])
def test_what_is_no_journal_is_not_merged(tmp_path, text):
    good = write(tmp_path / "good.tsv", (0, 500, 1.0))
    bad = tmp_path / "bad.tsv"
    bad.write_text(text)
    with pytest.raises(RecordsError, match=r"bad\.tsv: not a journal of certificates"):
        read_rows([good, bad])


def test_gathering_may_stop_anywhere_and_be_done_again(tmp_path, monkeypatch):
    """A process that dies before any one of the files is replaced or removed."""

    def fill(directory: Path) -> Path:
        journal = directory / "hard.tsv"
        directory.mkdir()
        write(journal, (12, 600, 1.0))
        write(own_part(journal, "0-a"), (0, 500, 1.0), (8, 500, 1.0))
        write(own_part(journal, "1-a"), (4, 500, 1.0))
        return journal

    class Killed(BaseException):
        pass

    def gather_with(allowed: int, journal: Path) -> bool:
        """Gather, killed after so many changes to the disk; whether it came to its end."""
        left = [allowed]

        def counted(function):
            def call(*arguments, **options):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr(Path, "rmdir", counted(Path.rmdir))
            try:
                gather(journal)
            except Killed:
                return False
        return True

    expected = gather(fill(tmp_path / "whole"))
    assert list(expected.cells) == [12, 0, 8, 4]
    for allowed in range(10):
        journal = fill(tmp_path / str(allowed))
        finished = gather_with(allowed, journal)
        gather(journal)
        assert journal.read_text() == expected.text()
        assert not list(journal.parent.rglob("*.part"))
        if finished:
            break
    assert allowed == 4, "one replacement, two parts, their folder"


def test_the_live_view_says_all_that_it_is_for(monkeypatch):
    """After 100 seconds: 8 of 40 images were there before, 12 are new; the network alone would do 500 a second."""
    clock = [0.0]
    classifier, image = SmoothedClassifier(nn.Flatten(), 0.25, 4), torch.zeros(1, 2, 2)
    monkeypatch.setattr(macer.compute.progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("macer.certification.live.network_rate", lambda *_: 250.0)
    stream = io.StringIO()
    first = store()
    processes = Processes(first, 0, 2, range(32), "a", StopRequest())
    with LiveView("certifying", 40, 8, 6, processes, Console(file=stream, width=300)) as view:
        for number in range(12):
            processes.count(correct=number < 9, samples=1000)
        clock[0] = 5.0
        view.measure(classifier, image)
        view.update()
        clock[0] = 40.0
        view.measure(classifier, image)
        clock[0] = 100.0
        view.update()
    low, high = wilson_interval(np.array([0.75]), 20)
    text = "120 noisy images/s (24% of the network's limit)"
    accuracy = f"certified accuracy 0.750 [{low[0]:.3f}, {high[0]:.3f}]"
    assert stream.getvalue().splitlines() == [
        f"certifying: 20 of 40, 100 s, 0:02:47 left  {text}  {accuracy}",
        f"certifying: 20 of 40, 100 s, {text}  {accuracy}",
    ]
