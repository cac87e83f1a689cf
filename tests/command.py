"""Fixtures: the `macer` command in processes of its own, forked from one that has done the slow imports."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

DIGITS = ("--dataset", "digits", "--network", "convnet", "--device", "cpu")

_SERVER = """
import json, os, resource, signal, sys, traceback
import lightning_fabric, sklearn.datasets, torch.utils.tensorboard.writer
import macer.cli, macer.results.plots, macer.training.loop

def work(order):
    os.chdir(order["cwd"])
    signal.alarm(120)
    for number, file in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
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
    """Starts commands. `before` is Python code to run in the process first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "COLUMNS": "200"},
        )
        self.started = 0

    def ask(self, **order: object) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *arguments: object, before: str = "") -> Running:
        self.started += 1
        out, err = self.folder / f"{self.started}.out", self.folder / f"{self.started}.err"
        pid = self.ask(
            cwd=str(Path.cwd()), out=str(out), err=str(err), before=before, arguments=[str(each) for each in arguments]
        )
        return Running(self, pid, out, err)

    def __call__(self, *arguments: object, before: str = "") -> Result:
        return self.start(*arguments, before=before).wait()

    def refuses(self, *arguments: object, before: str = "") -> str:
        """The one line with which a command refuses, on stderr, with exit code 2."""
        result = self(*arguments, before=before)
        assert result.code == 2, result
        assert result.err.startswith("macer: "), result
        assert result.err.count("\n") == 1, result
        return result.err.strip()


@pytest.fixture(scope="session")
def macer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Macer]:
    started = Macer(tmp_path_factory.mktemp("commands"))
    yield started
    assert started.server.stdin is not None
    started.server.stdin.close()
    started.server.wait()
    assert started.server.stdout is not None
    started.server.stdout.close()


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
