"""Benchmarks of training print what they say, with a stand-in for the original that takes a known time."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from macer import models
from macer.compute.device import open_fabric
from macer.errors import SettingsError
from macer.files.toml import read_toml
from macer.objectives import OBJECTIVES, Macer
from macer.recipes import recipe_names
from macer.results.records import METHODS
from macer.training import TrainingSettings, load_checkpoint

STAND_IN = """
from rs.certify import certify

calls = []

def macer_train(sigma, lbd, gauss_num, beta, gamma, num_classes, model, trainloader, optimizer, device):
    print("Classification Loss: 0.1")
    calls.append(dict(locals()))
    passed(len(trainloader))
"""


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[SimpleNamespace]:
    """The programs, as modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        names = ("train", "time_to_acr", "methods")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
        for name in (*names, "rs", "rs.certify"):
            sys.modules.pop(name, None)


class Clock:
    """A clock that only goes on when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(benchmarks, monkeypatch) -> Clock:
    """The clock of everything that is not our training loop."""
    fake = Clock()
    monkeypatch.setattr(benchmarks.train, "perf_counter", fake)
    return fake


@pytest.fixture
def reference(tmp_path) -> Path:
    """A directory laid out as the original's."""
    directory = tmp_path / "reference"
    (directory / "rs").mkdir(parents=True)
    (directory / "rs" / "certify.py").write_text("def certify(): ...\n")
    (directory / "macer.py").write_text(STAND_IN)
    return directory


def load(benchmark: ModuleType, reference: Path, passed: Callable[[int], None]) -> Callable[..., None]:
    """The stand-in's function; `passed` is called with each call's number of steps."""
    macer_train = benchmark.load_original(reference)
    macer_train.__globals__["passed"] = passed
    return macer_train


def test_rates_are_noisy_images_by_seconds_of_the_same_work(benchmarks, clock, reference, tmp_path, capsys):
    case = benchmarks.train.Case("mnist", (1, 28, 28), False, batch_size=8, gauss_num=2, steps=3)
    images = benchmarks.train.random_images(case)
    objective = Macer(sigma=0.5, lbd=3.0, gauss_num=2, beta=4.0, gamma=5.0)
    settings = TrainingSettings(
        objective=objective, dataset="mnist", network="lenet", epochs=3, batch_size=8, lr=1e-12, device="cpu"
    )
    network = models.build("lenet", 10, (1, 28, 28))
    batches = benchmarks.train.ready_batches(images, 8, 3)
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels)
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), images.images.float().div(255))

    takes = iter([8.0, 2.0, 4.0])  # the first is not counted
    macer_train = load(benchmarks.train, reference, lambda steps: setattr(clock, "now", clock.now + next(takes)))
    work = benchmarks.train.original(macer_train, network, settings, batches, 10, torch.device("cpu"))
    rounds = benchmarks.train.measure(settings, images, tmp_path / "run", network, {"original": work})

    samples = 3 * 8 * 2
    header, *lines = (tmp_path / "run" / "metrics.tsv").read_text().splitlines()
    rows = [dict(zip(header.split("\t"), map(float, line.split("\t")), strict=True)) for line in lines]
    assert [row["noisy_images"] for row in rows] == [samples] * 3
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").network  # at this rate as it began
    assert all(torch.allclose(value, trained[name]) for name, value in network.state_dict().items())
    assert [each["ours"] for each in rounds] == [samples / row["seconds"] for row in rows[1:]]
    assert [each["original"] for each in rounds] == [samples / 2.0, samples / 4.0]
    assert capsys.readouterr().out == ""

    calls = macer_train.__globals__["calls"]
    assert len(calls) == 3
    numbers = ("sigma", "lbd", "gauss_num", "beta", "gamma", "num_classes")
    assert [calls[0][name] for name in numbers] == [0.5, 3.0, 2, 4.0, 5.0, 10]
    assert [len(labels) for _, labels in calls[0]["trainloader"]] == [8, 8, 8]
    assert calls[0]["optimizer"].param_groups[0]["params"] == list(calls[0]["model"].parameters())
    given = calls[0]["model"].state_dict()
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())
    assert all(value.is_contiguous() for value in given.values())


def test_the_report_has_medians_and_ratios_within_rounds(benchmarks):
    rounds = [
        {"ours": 200.0, "original": 100.0, "floor": 400.0},
        {"ours": 3000.0, "original": 1000.0, "floor": 4000.0},
        {"ours": 500.0, "original": 500.0, "floor": 500.0},
    ]
    assert [" ".join(line.split()) for line in benchmarks.train.report(rounds)] == [
        "ours 500 noisy images/s",
        "original 500 noisy images/s",
        "floor 500 noisy images/s",
        "ours / original: 2.00 (1.00 to 3.00)",
        "ours / floor: 0.75 (0.50 to 1.00)",
    ]


class Counting(nn.Module):
    """A network that counts the images it gets, with the clock: its passes are quickest a sample in batches of 64."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)
        self.clock, self.batches, self.backward = clock, [], []

    def __deepcopy__(self, memo: dict) -> "Counting":
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        self.clock.now += {16: 16.0, 64: 1.0, 256: 8.0}[len(x)]
        logits = self.layer(x).flatten(1)
        logits.register_hook(lambda gradient: self.backward.append(len(gradient)))
        return logits


def test_the_floor_is_the_fastest_of_the_bare_passes(benchmarks, clock):
    network = Counting(clock)
    case = benchmarks.train.Case("mnist", (1, 6, 6), False, batch_size=20, gauss_num=16, steps=1)
    how, work = benchmarks.train.fastest_passes(network, case, open_fabric("cpu"), compile=False)
    assert how.endswith(", batch 64")
    assert set(network.batches) == {16, 64, 256}  # not more than the 320 of a step
    network.batches.clear()
    network.backward.clear()
    assert benchmarks.train.rate(work, torch.device("cpu")) == 320 / 5.0
    assert network.batches == network.backward == [64] * 5


def test_training_is_measured_from_the_command_line(benchmarks, reference, monkeypatch, capsys):
    macer_train = load(benchmarks.train, reference, lambda steps: None)
    monkeypatch.setattr(benchmarks.train, "load_original", lambda directory: macer_train)
    sizes = ("--batch-size", "4", "--gauss-num", "2", "--steps", "2", "--rounds", "1", "--device", "cpu")
    sizes += ("--precision", "32-true", "bf16-mixed")
    benchmarks.train.main(["--reference", str(reference), "--networks", "lenet", *sizes])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "lenet: random images of mnist's shape, batch 4, k = 2, 2 steps a round"
    in_float32, in_bfloat16 = lines[2:8], lines[8:]
    assert in_float32[0].startswith("32-true: floor: ")
    assert in_bfloat16[0].startswith("bf16-mixed: floor: ")
    for part, others in ((in_float32, ["original", "floor"]), (in_bfloat16, ["original", "32-true floor", "floor"])):
        rates = [line.removesuffix(" noisy images/s").rsplit(maxsplit=1) for line in part if "images/s" in line]
        ours, *rest = ((name.strip(), float(rate.replace(",", ""))) for name, rate in rates)
        printed = {line.split(":")[0]: float(line.split(":")[1].split()[0]) for line in part if " / " in line}
        assert [name for name, _ in rest] == others
        for name, rate in rest:  # one round: its ratio is that of the rates, which are rounded to whole numbers
            assert rate > 0
            assert printed[f"ours / {name}"] == pytest.approx(ours[1] / rate, abs=0.02)


TINY = {
    "tiny": {
        "training": {"dataset": "digits", "network": "convnet", "num_images": 50, "epochs": 2, "batch_size": 20},
        "objective": {"name": "macer", "gauss_num": 2},
    },
    "theirs": {
        "training": {"dataset": "digits", "network": "convnet", "num_images": 100, "epochs": 5, "batch_size": 25},
        "objective": {"name": "macer", "gauss_num": 3},
    },
}


def test_time_to_acr_prints_what_the_runs_hold(benchmarks, clock, reference, tmp_path, monkeypatch, capsys):
    benchmark, calls = benchmarks.time_to_acr, iter(range(1, 100))
    macer_train = load(benchmark, reference, lambda steps: setattr(clock, "now", clock.now + next(calls) / 16))
    monkeypatch.setattr(benchmark, "load_original", lambda directory: macer_train)
    monkeypatch.setattr(benchmark, "read_recipe", lambda name: TINY[name])
    out = tmp_path / "runs"
    arguments = ["--recipe", "tiny", "--seeds", "0", "3", "--skip", "100", "--n", "200", "--out", str(out)]
    arguments += ["--device", "cpu", "--reference", str(reference), "--original-recipe", "theirs", "--steps", "2"]

    def table() -> list[dict[str, str]]:
        benchmark.main(arguments)
        header, *rows = capsys.readouterr().out.splitlines()[-3:]
        return [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]

    first = table()
    # Step number i takes i/16 s. The first warms up, then there are two before and two after each training.
    for row, seed, step in zip(first, (0, 3), (3.5 / 16, 7.5 / 16), strict=True):
        run = out / f"tiny-seed-{seed}"
        assert read_toml(run / "settings.toml")["training"]["seed"] == seed
        names, *lines = (run / "metrics.tsv").read_text().splitlines()
        seconds = sum(float(line.split("\t")[names.split("\t").index("seconds")]) for line in lines)
        certified = np.genfromtxt(run / "certificates" / "hard.tsv", names=True, delimiter="\t", dtype=None)
        assert list(certified["idx"]) == [0, 100, 200, 300, 400]
        acr = (certified["radius"] * (certified["predict"] == certified["label"])).mean()
        assert (row["recipe"], row["seed"], row["epochs"], row["n"]) == ("tiny", str(seed), "2", "200")
        assert row["noisy_images"] == str(2 * 50 * 2)
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.051)
        assert float(row["acr"]) == pytest.approx(acr, abs=5.1e-5)
        assert float(row["acr_low"]) <= float(row["acr"]) <= float(row["acr_high"])
        whole = step * 100 / 25 * 5
        assert float(row["original_seconds_a_step"]) == pytest.approx(step, abs=5.1e-5)
        assert float(row["original_seconds"]) == pytest.approx(whole, abs=0.051)
        assert float(row["original_to_ours"]) == pytest.approx(whole / seconds, abs=0.051)

    steps = macer_train.__globals__["calls"]
    assert len(steps) == 9
    assert [len(labels) for _, labels in steps[-1]["trainloader"]] == [25]
    assert steps[-1]["gauss_num"] == 3

    again = table()  # the same command: nothing is trained or certified anew
    ours = [name for name in first[0] if "original" not in name]
    assert [[row[name] for name in ours] for row in again] == [[row[name] for name in ours] for row in first]


def test_time_to_acr_wants_training_from_scratch_and_the_same_data(benchmarks, reference, tmp_path, monkeypatch):
    tables = {
        **TINY,
        "continued": {"training": {**TINY["tiny"]["training"], "init": "some.pt"}},
        "cohen": {"training": TINY["tiny"]["training"], "objective": {"name": "cohen"}},
        "other": {"training": {"dataset": "mnist"}},
    }
    monkeypatch.setattr(benchmarks.time_to_acr, "read_recipe", lambda name: tables[name])

    def refusal(*arguments: str) -> str:
        with pytest.raises(SettingsError) as caught:
            benchmarks.time_to_acr.main([*arguments, "--out", str(tmp_path / "runs"), "--device", "cpu"])
        return str(caught.value)

    assert "trained weights" in refusal("--recipe", "continued")
    theirs = ("--recipe", "tiny", "--reference", str(reference), "--original-recipe")
    assert "trains MACER" in refusal(*theirs, "cohen")
    assert "mnist and digits" in refusal(*theirs, "other")
    assert not (tmp_path / "runs").exists()


def test_the_table_of_costs_has_every_method(benchmarks, capsys):
    benchmarks.methods.main(["--images", "4", "--rounds", "1", "--device", "cpu"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    names, passes, seconds, ratios = zip(*rows[2:], strict=True)
    assert names == tuple(METHODS[name] for name, method in OBJECTIVES.items() if not method.denoises)
    # As published: MACER 16; SmoothAdv 4 (10 + 1); Consistency 2; Stability 2; SmoothMix 4 (2 + 2); CAT-RS 4 (4 + 2).
    assert passes == ("1", "16", "44", "2", "2", "16", "24", "16")
    assert all(float(value) > 0 for value in seconds)
    assert ratios[0] == "1.0 (1.0 to 1.0)"


def test_what_a_gpu_is_for_runs_once_and_goes_on_after_a_failure(tmp_path):
    """With stand-ins for the programs: they note how they were called, and one of them fails as long as it should."""
    programs, out, calls = tmp_path / "programs", tmp_path / "out", tmp_path / "calls"
    programs.mkdir()
    fails = f'case "$*" in *methods*) exec test -e "{tmp_path}/works";; esac'
    for name in ("macer", "pytest", "python"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{calls}"\n{fails}\n')
        (programs / name).chmod(0o755)
    environment, root = {**os.environ, "BIN": str(programs)}, Path(__file__).parents[1]

    def run(*words: object) -> tuple[int, str, list[str]]:
        calls.write_text("")
        command = [root / "benchmarks/on_gpu.sh", *map(str, words)]
        ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr, calls.read_text().splitlines()

    code, error, called = run("a root", out, "a reference")
    assert (code, error) == (1, "failed: cost-of-methods\n")
    assert "python benchmarks/train.py --reference a reference" in called
    trained = [line.split()[3] for line in called if line.startswith("macer train ")]
    assert set(trained) <= set(recipe_names())
    assert len(trained) == 10 == sum(line.startswith("macer certify ") for line in called)
    tests = {str(Path("tests", each.name)) for each in Path(__file__).parent.glob("test_gpu_*.py")}
    assert tests <= set(called[0].split())
    (tmp_path / "works").touch()
    assert run("a root", out) == (0, "", ["python benchmarks/methods.py"])
    assert run("a root", out) == (0, "", [])
    assert run("a root")[0] == 2
