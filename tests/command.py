"""Fixtures: the `macer` command, run in this process; for signals in one of its own (`macer.start`)."""

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from macer.cli import main

DIGITS = ("--dataset", "digits", "--network", "convnet", "--device", "cpu")

_SERVER = """
import json, os, resource, secrets, signal, sys, traceback
import lightning_fabric, sklearn.datasets
import macer.cli.app, macer.results.plots, macer.runs.tensorboard, macer.training.loop

def work(order):
    os.chdir(order["cwd"])
    signal.alarm(120)
    for number, file in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    secrets.randbits = lambda bits: 0  # as in conftest.py
    exec(order["before"], globals())
    sys.argv = ["macer", *order["arguments"]]
    try:
        macer.cli.main()
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            code = work(order)
            sys.stdout.flush()
            os._exit(code)
    print(answer, flush=True)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


class Running:
    """A command at work: a process that signals reach."""

    def __init__(self, macer: "Macer", pid: int, out: Path, err: Path) -> None:
        self.macer, self.pid, self.out, self.err = macer, pid, out, err

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Result:
        code = self.macer.ask(wait=self.pid)
        return Result(code, self.out.read_text(), self.err.read_text())


class Macer:
    """Runs commands in this process, as it is: tests patch modules with monkeypatch.

    `start` forks a process for a command that is to be sent signals. `before` is Python code for such a process to run
    first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen[str] | None = None
        self.started = 0

    def __call__(self, *arguments: object, before: str = "") -> Result:
        """Run a command to its end."""
        if before:
            return self.start(*arguments, before=before).wait()
        threads = torch.get_num_threads()
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("COLUMNS", "200")
            patch.setattr(sys, "argv", ["macer", *map(str, arguments)])
            try:
                main()
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            except Exception:  # what --debug lets through
                traceback.print_exc()
                code = 1
        torch.set_num_threads(threads)
        assert isinstance(code, int)
        return Result(code, _text(out), _text(err))

    def refuses(self, *arguments: object, before: str = "") -> str:
        """The one line with which a command refuses, on stderr, with exit code 2."""
        result = self(*arguments, before=before)
        assert result.code == 2, result
        assert result.err.startswith("macer: "), result
        assert result.err.count("\n") == 1, result
        return result.err.strip()

    def start(self, *arguments: object, before: str = "") -> Running:
        """Start a command in a process of its own."""
        self.started += 1
        out, err = self.folder / f"{self.started}.out", self.folder / f"{self.started}.err"
        pid = self.ask(
            cwd=str(Path.cwd()), out=str(out), err=str(err), before=before, arguments=[str(each) for each in arguments]
        )
        return Running(self, pid, out, err)

    def ask(self, **order: object) -> int:
        """Send an order to the server that forks commands, and return its answer."""
        if self.server is None:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            environment = {**os.environ, **threads, "COLUMNS": "200"}
            command = [sys.executable, "-c", _SERVER]
            self.server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.communicate()


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def macer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Macer]:
    macer = Macer(tmp_path_factory.mktemp("commands"))
    yield macer
    macer.close()


@pytest.fixture(scope="session")
def trained(macer: Macer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has learned a little of the digits at sigma 0.25. Not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ("--epochs", 4, "--lr", 0.05, "--gauss-num", 2, "--method", "cohen", "--out", run)
    assert macer("train", *DIGITS, *options).code == 0
    return run


@pytest.fixture(scope="session")
def digits() -> SimpleNamespace:
    """What a tiny training on the digits is called with."""
    return SimpleNamespace(options=DIGITS)
