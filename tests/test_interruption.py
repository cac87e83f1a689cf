"""Signals: answered at once, without a traceback, from the first moment on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import rows
from rich.console import Console

from macer.compute import interruption, progress
from macer.compute.interruption import Stopped, stop_on_signals, stopped_by_signals
from macer.compute.progress import ProgressView

pytest_plugins = ["command"]

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def no_nohup() -> Iterator[None]:
    """Signals do here what they do in a terminal, though these tests may run under nohup, where SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def importing(tmp_path: Path, *, ignored: bool = False) -> subprocess.Popen:
    """The command in its first seconds: this torch takes a minute to import, and says when it begins."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "macer", "train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_imports_is_one_line(tmp_path, number):
    process = importing(tmp_path)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (128 + number, "macer: stopped\n")


def test_nohup_is_respected(tmp_path):
    process = importing(tmp_path, ignored=True)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGUSR1


def test_one_of_several_processes_speaks(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    process = importing(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_work_without_a_safe_point_in_one_line(macer, tmp_path, number):
    """Files that are being written are removed on the way out."""
    before = (
        "import pathlib, time\nfrom macer.files.replacing import replacing\n"
        "def work(**_):\n"
        f"    with replacing(pathlib.Path({str(tmp_path / 'file')!r})) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        time.sleep(60)\n"
        "macer.cli.app.app = work"
    )
    running = macer.start("report", before=before)
    deadline = time.monotonic() + 30
    while not (tmp_path / "file.tmp").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.signal(number)
    result = running.wait()
    assert (result.code, result.err) == (128 + number, "macer: stopped\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_a_request_to_stop(number):
    before = signal.getsignal(number)
    answers = []
    with stop_on_signals() as stop:
        stop.answer = lambda: answers.append(stop.signal_number)
        signal.raise_signal(number)
        signal.raise_signal(number)  # what a terminal and a launcher both send is one request
        assert (stop.signal_number, answers) == (number, [number])
    assert signal.getsignal(number) == before


def test_the_next_signal_stops_all_nested_work_at_once(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: clock[0])
    with stopped_by_signals(), stop_on_signals() as outer, stop_on_signals() as inner:
        signal.raise_signal(signal.SIGTERM)
        clock[0] = 2.0
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signal.SIGINT)
        assert (inner.signal_number, outer.signal_number) == (signal.SIGTERM, None)
        assert stopped.value.signal_number == signal.SIGINT


def test_a_program_keeps_its_own_handlers_but_of_ctrl_c_and_term():
    found = []
    mine = {number: signal.signal(number, lambda number, _: found.append(number)) for number in SIGNALS}
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGUSR2)
            assert (found, stop.signal_number) == ([signal.SIGUSR2], None)
            signal.raise_signal(signal.SIGTERM)
            assert (found, stop.signal_number) == ([signal.SIGUSR2], signal.SIGTERM)
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("seconds", "done", "now", "says"),
    [
        (1200.0, 3, 0.0, "macer: finishing this image (about 20 min); again to stop now\n"),
        (1200.0, 3, 600.0, "macer: finishing this image (about 10 min); again to stop now\n"),
        (40.0, 3, 10.0, "macer: finishing this image (about 30 s); again to stop now\n"),
        (40.0, 3, 50.0, "macer: finishing this image; again to stop now\n"),
        (40.0, 0, 10.0, "macer: finishing this image; again to stop now\n"),
        (0.5, 3, 0.1, ""),
    ],
)
def test_a_request_to_stop_is_answered_with_how_long_it_takes(monkeypatch, capfd, seconds, done, now, says):
    """`done` units took so many seconds each, and the one at hand was begun `now` seconds ago."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    view = ProgressView("certifying", 10, unit="images", console=Console(stderr=True))
    for _ in range(done):
        clock[0] += seconds
        view.advance(1, 1000)
    clock[0] += now
    capfd.readouterr()  # lines of progress
    view.answer("this image")
    assert capfd.readouterr().err == says
    quiet = ProgressView("certifying", 10, unit="images", console=Console(stderr=True, quiet=True))
    quiet.answer("this image")
    assert capfd.readouterr().err == ""


DIES = """
import os
replace, left = os.replace, {number}
def dies(*paths):
    global left
    left -= 1
    if left == 0:
        os._exit(9)
    replace(*paths)
os.replace = dies
"""
FEW = ("--n0", 10, "--n", 100, "--skip", 250, "--seed", 0, "--batch-size", 1000)


@pytest.mark.parametrize("command", ["train", "certify", "merge"])
def test_a_start_that_is_killed_before_any_file_is_in_place_is_repeated(macer, digits, trained, tmp_path, command):
    """The process dies before its first file gets its name, before its second, and so on; no rest is in the way."""
    for part in (1, 2) if command == "merge" else ():
        assert macer("certify", trained, *FEW, "--shard", f"{part}/2", "--out", tmp_path / "parts").code == 0
    words = {
        "train": ("train", *digits.options, "--num-images", 40, "--batch-size", 20, "--epochs", 1, "--gauss-num", 1),
        "certify": ("certify", trained, *FEW),
        "merge": ("merge", *sorted((tmp_path / "parts").glob("shard-*"))),
    }[command]
    assert macer(*words, "--out", tmp_path / "whole").code == 0
    killed = 0
    while macer(*words, "--out", tmp_path / str(killed), before=DIES.format(number=killed + 1)).code == 9:
        assert macer(*words, "--out", tmp_path / str(killed)).code == 0
        found, whole = (sorted(each.rglob("*.*")) for each in (tmp_path / str(killed), tmp_path / "whole"))
        assert len(found) >= len(whole)  # an event file more for TensorBoard
        assert not [file for file in found if file.suffix == ".tmp"]
        assert command == "train" or rows(tmp_path / str(killed), "hard") == rows(tmp_path / "whole", "hard")
        killed += 1
    assert killed >= 2
