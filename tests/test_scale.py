"""Certification at scale: the same rows from any number of workers and shards, whatever happens to them."""

import io
import json
import os
import pickle
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from data_sets import write_folders
from distributed import Client, Security
from journals import IMAGES, OPTIONS, assert_same, rows
from launching import children, listening, srun, torchrun
from rich.console import Console

import macer as package
from macer.certification import CertificationSettings
from macer.certification.evaluation import Outcome
from macer.certification.live import LiveView
from macer.compute import cluster, local_cluster, progress
from macer.compute.engine import Engine
from macer.compute.interruption import StopRequest
from macer.errors import MacerError, SettingsError
from macer.files.toml import read_toml, write_toml
from macer.results.metrics import wilson_interval
from macer.smoothing import Certificate

if TYPE_CHECKING:
    from command import Macer, Running

pytest_plugins = ["command", "certified"]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_ended(pids: list[int]) -> bool:
    """Whether none of these processes is left but as an entry that nobody has asked for."""
    states = []
    for pid in pids:
        with suppress(FileNotFoundError):
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"Z"}


def observed(directory: Path) -> dict[tuple[str, str], str]:
    """Each whole row on disk by kind and image; its time tells it from one made again."""
    return {
        (file.stem, line.split("\t")[0]): line
        for file in directory.glob("*.tsv")
        for line in file.read_text().split("\n")[1:-1]
    }


def test_several_workers_make_the_same_rows(macer, trained, whole, tmp_path):
    result = macer("certify", trained, *OPTIONS, "--batch-size", 1000, "--devices", 3, "--out", tmp_path / "c")
    assert (result.code, result.err) == (0, "")
    assert "24 of 500" in result.out
    assert_same(tmp_path / "c", whole)


def test_the_installed_command_starts_its_workers(trained, whole, tmp_path):
    words = ("-m", "macer", "certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "c")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("certificates: ") == 1
    assert_same(tmp_path / "c", whole)


def test_a_script_needs_no_guard_for_its_workers(tmp_path):
    """Workers do not run the script again, and get what it defines all the same."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, macer\n"
        "print('once')\n"
        "torch.manual_seed(0)\n"
        "class Network(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images.flatten(1))\n"
        "network, told = Network(64, 10), {'sigma': 0.25, 'seed': 0, 'n': 1000, 'skip': 100, 'progress': False}\n"
        "one, two = (macer.certify(network, 'digits', device='cpu', devices=each, **told).frame() for each in (1, 2))\n"
        "print((one.drop(columns='seconds') == two.drop(columns='seconds')).all().all())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("once\nTrue\n", "")


def test_one_device_needs_no_dask_and_several_say_so(macer, trained, whole, tmp_path, monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path / "c").code == 0
    assert_same(tmp_path / "c", whole)
    said = macer.refuses("certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "d")
    assert "the extra 'dask'" in said


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_processes_of_torchrun_and_slurm_are_told_what_to_do_instead(macer, trained, tmp_path, launcher, monkeypatch):
    for name, value in launcher(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    said = macer.refuses("certify", trained, *OPTIONS, "--out", tmp_path / "c")
    assert "--shard" in said
    assert "--scheduler" in said


SLOW = """
import time
from macer.runs.certificates import Journal
write = Journal.write
Journal.write = lambda *row: (time.sleep(0.15), write(*row))
"""
"""Network and images are so small that there would be no moment to interrupt."""


@contextmanager
def at_work(macer: "Macer", trained: Path, directory: Path) -> Iterator[tuple["Running", list[int]]]:
    """A command with two workers, which has certified some images, and the processes that it started."""
    running = macer.start("certify", trained, *OPTIONS, "--devices", 2, "--out", directory, before=SLOW)
    wait_until(lambda: len(observed(directory)) >= 4)
    yield running, children(running.pid)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL],
    ids=["INT", "TERM", "USR1", "KILL"],
)
def test_workers_end_with_their_command(macer, trained, whole, tmp_path, number):
    """A terminal sends Ctrl-C to the workers as well, and Slurm its warnings; they stay silent."""
    directory = tmp_path / "certificates"
    with at_work(macer, trained, directory) as (running, workers):
        assert len(workers) >= 2
        for pid in [running.pid, *(workers if number in (signal.SIGINT, signal.SIGUSR1) else [])]:
            os.kill(pid, number)
        started = time.monotonic()
        result = running.wait()
        wait_until(lambda: all_ended(workers), 20)
        assert time.monotonic() - started < 20
    before = observed(directory)
    done = len(rows(directory, "hard")) - 1
    assert 0 < done < IMAGES
    if number != signal.SIGKILL:
        assert result.code == 128 + number
        line = (
            f"macer: certification stopped after {done} of {IMAGES} images; the same command goes on from {directory}"
        )
        assert result.err == f"{line}\n"
        assert f"{done} of {IMAGES} images" in macer("table", directory).out
    assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
    assert before.items() <= observed(directory).items()
    assert_same(directory, whole)


def test_a_killed_worker_loses_and_repeats_nothing(macer, trained, whole, tmp_path):
    """benchmarks/kill_certify.py does so with workers, the command and all of them, at random moments, many times."""
    directory = tmp_path / "certificates"
    with at_work(macer, trained, directory) as (running, workers):
        before = observed(directory)
        worker = next(pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        assert running.wait().code == 0
    assert before.items() <= observed(directory).items()
    assert_same(directory, whole)


def test_a_full_disk_ends_the_workers_with_one_line(macer, trained, whole, tmp_path):
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))"
    said = macer.refuses("certify", trained, *OPTIONS, "--devices", 2, "--out", tmp_path / "c", before=full)
    assert "File too large" in said
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path / "c").code == 0
    assert_same(tmp_path / "c", whole)


def test_what_goes_wrong_on_a_worker_is_one_line(macer, trained, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    content["network"]["fc2.bias"][3] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    said = macer.refuses("certify", tmp_path / "nan.pt", *OPTIONS, "--devices", 2, "--out", tmp_path / "c")
    assert "not finite" in said


@contextmanager
def dask(folder: Path, workers: int) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A cluster as a person starts one: the scheduler's file, and the scheduler."""
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file))
    module = (sys.executable, "-m", "distributed.cli")
    scheduler = subprocess.Popen([*module[:2], f"{module[2]}.dask_scheduler", *common, "--port", "0"], **quiet)
    wait_until(file.exists)
    worker = [*module[:2], f"{module[2]}.dask_worker", *common, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    started = [scheduler, *(subprocess.Popen(worker, **quiet) for _ in range(workers))]
    try:
        yield file, scheduler
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_rows_and_a_lost_scheduler_is_one_line(macer, trained, whole, tmp_path):
    with dask(tmp_path, 2) as (file, scheduler):
        words = ("certify", trained, *OPTIONS, "--scheduler")
        result = macer(*words, file, "--out", tmp_path / "c")
        assert (result.code, result.err) == (0, "")
        assert_same(tmp_path / "c", whole)
        assert read_toml(tmp_path / "c" / "settings.toml")["environment"]["device"].startswith("cpu (")
        address = json.loads(file.read_text())["address"]
        running = macer.start(*words, address, "--out", tmp_path / "d", before=SLOW)
        wait_until(lambda: len(observed(tmp_path / "d")) >= 4)
        scheduler.kill()
        result = running.wait()
    assert result.code == 2
    assert "scheduler was lost" in result.err
    assert result.err.count("\n") == 1
    before = observed(tmp_path / "d")
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path / "d").code == 0
    assert before.items() <= observed(tmp_path / "d").items()
    assert_same(tmp_path / "d", whole)


def test_where_no_scheduler_is(macer, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_TO_CONNECT", 1)
    words = ("certify", trained, *OPTIONS, "--out", tmp_path / "c", "--scheduler", "tcp://127.0.0.1:1")
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in macer.refuses(*words)
    for address in ("tcp://10.0.0.1:8786", "node17:8786", "tcp://[fe80::1]:8786", "ws://10.0.0.1:1"):
        assert "start it with TLS" in macer.refuses(*words[:-1], address)
    assert "no.json: no scheduler file there, and no address" in macer.refuses(*words[:-1], "no.json")
    (tmp_path / "scheduler.json").write_text('{"address": "tcp://192.168.0.7:8786"}')
    assert "the scheduler at tcp://192.168.0.7:8786" in macer.refuses(*words[:-1], tmp_path / "scheduler.json")
    assert "either --devices or --scheduler" in macer.refuses(*words, "--devices", 2)


class Twice:
    """Work for the engine: doubles a number; some numbers are special."""

    def start(self, device: torch.device) -> Callable[[int], tuple[int, int]]:
        from distributed import get_worker

        name = get_worker().name

        def double(number: int) -> tuple[int, int]:
            time.sleep(0.3 if name == 0 else 0.01)
            if number == 1000:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 1001:
                raise OSError(28, "No space left on device", "somewhere")
            return 2 * number, name

        return double


def test_the_engine_on_this_machine(monkeypatch):
    """Nobody waits for the slowest; what an item does to its worker; who can listen and connect."""
    monkeypatch.setitem(cluster._CONFIGURATION, "distributed.scheduler.allowed-failures", 1)
    with Engine("cpu", 2).open() as found:
        assert found.count == 2
        results = list(found.map(Twice(), range(100), StopRequest()))
        assert sorted(result for result, _ in results) == list(range(0, 200, 2))
        assert 0 < sum(name == 0 for _, name in results) < 45  # half, if they took turns
        with pytest.raises(OSError, match="No space left") as raised:
            list(found.map(Twice(), [1001], StopRequest()))
        assert (raised.value.errno, raised.value.filename) == (28, "somewhere")
        pids = [os.getpid(), *children(os.getpid())]
        assert {address for pid in pids for address in listening(pid)} == {"127.0.0.1"}
        address = found._client.scheduler.address  # type: ignore[attr-defined]
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises((OSError, ssl.SSLError)):
            Client(address, security=Security.temporary(), timeout=2)
        with pytest.raises(MacerError, match="2 workers died while they had the same task"):
            list(found.map(Twice(), [1000], StopRequest()))


def test_a_worker_of_another_installation_is_one_line():
    with pytest.raises(MacerError, match=r"a worker has macer .* and PyTorch .*, the command macer 0\.0"):
        cluster._OnWorker(pickle.dumps(Twice()), "cpu", "macer 0.0 and PyTorch 1.2")(1)
    content = pickle.dumps(Twice()).replace(b"test_scale", b"test_scaly")  # a module of as long a name
    with pytest.raises(MacerError, match="a worker lacks what the command has: No module named 'test_scaly'"):
        cluster._OnWorker(content, "cpu", cluster._versions())(1)


def test_a_worker_finds_a_network_of_ones_own_in_the_current_directory(tmp_path, monkeypatch):
    """As the command does, which has searched there when it built the network."""
    (tmp_path / "test_scalx.py").write_text(
        "class Twice:\n    def start(self, device): return lambda number: 2 * number\n"
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Twice()).replace(b"test_scale", b"test_scalx")
    assert cluster._OnWorker(content, "cpu", cluster._versions())(21) == 42
    sys.modules.pop("test_scalx")


def test_each_worker_has_a_gpu_of_those_that_are_visible(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local_cluster._environment(gpu, 1, 4) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5ac,6")
    assert local_cluster._environment(gpu, 1, 3) == {"CUDA_VISIBLE_DEVICES": "GPU-5ac"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(SettingsError, match="4 processes need a GPU each, and PyTorch finds 3"):
        Engine("auto", 4)


def test_a_scheduler_has_the_device_which_this_machine_need_not_have(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reached: list[str] = []
    monkeypatch.setattr(cluster, "connected", lambda address: nullcontext(reached.append(address)))
    with Engine("cuda", scheduler="tcp://127.0.0.1:1").open() as workers:
        assert isinstance(workers, cluster.Cluster)
    assert reached == ["tcp://127.0.0.1:1"]


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
    assert macer("merge", thirds[0].parent, "--out", tmp_path / "all").code == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "all").glob("*.tsv")} == before
    assert macer("merge", thirds[1], thirds[0], whole, thirds[0], "--out", out).code == 0
    assert {file.name: file.read_bytes() for file in out.glob("*.tsv")} == before
    assert macer("certify", trained, *OPTIONS, "--out", out).code == 0
    assert {file.name: file.read_bytes() for file in out.glob("*.tsv")} == before


def test_what_merging_lacks_is_said_and_done_by_the_same_command(macer, trained, whole, thirds, tmp_path):
    out = tmp_path / "merged"
    result = macer("merge", thirds[0], thirds[2], "--out", out)
    assert (result.code, result.err) == (1, "")
    assert f"merged into {out}: 16 of 24 images; 8 missing, the first is image 20\n" in result.out
    assert not (out / "certificates.mat").exists()
    merged = observed(out)
    assert macer("certify", trained, *OPTIONS, "--out", out).code == 0
    assert merged.items() <= observed(out).items()
    assert_same(out, whole)


def test_other_settings_are_not_merged(macer, trained, thirds, tmp_path):
    other = tmp_path / "other"
    words = ("certify", trained, *OPTIONS, "--seed", 1, "--shard", "2/3", "--out", other)
    assert macer(*words).code == 0
    said = macer.refuses("merge", thirds[0], other / "shard-2-of-3", "--out", tmp_path / "merged")
    assert "seed: 1 there, 0 here" in said
    assert not (tmp_path / "merged").exists()
    assert "seed: 1 there, 0 here" in macer.refuses("merge", thirds[0], "--out", other / "shard-2-of-3")
    assert "settings.toml" in macer.refuses("merge", tmp_path, "--out", tmp_path / "merged")


def without_digest(directory: Path, **changes: str) -> None:
    """Make the settings of a certification those of a version that wrote no digest of the images."""
    tables = read_toml(directory / "settings.toml")
    tables["certification"].pop("images_digest", None)
    write_toml(directory / "settings.toml", {**tables, "certification": tables["certification"] | changes})


def test_shards_of_pictures_are_merged_by_what_the_pictures_are_and_not_by_their_place(macer, tmp_path, monkeypatch):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    words = {"images": "folder", "root": "data", "sigma": 0.25, "n": 100, "seed": 1, "progress": False}
    for place in ("here", "there", "others"):
        write_folders(tmp_path / place / "data", [(8, 8)] * 4)
    pictures = tmp_path / "others" / "data" / "test" / "ant"
    (pictures / "2.png").write_bytes((pictures / "3.png").read_bytes())
    for place, shard in (("here", "1/2"), ("there", "2/2"), ("others", "2/2")):
        monkeypatch.chdir(tmp_path / place)
        package.certify(network, **words, shard=shard, out=tmp_path / place / "c")
    first, second, wrong = (tmp_path / place / "c" for place in ("here", "there", "others"))
    assert macer("merge", first, second, "--out", tmp_path / "merged").code == 0
    said = macer.refuses("merge", first, wrong, "--out", tmp_path / "wrong")
    assert f"{wrong} was made with other settings than {first} (images_digest: the images or their labels are" in said
    package.certify(network, **{**words, "root": tmp_path / "there" / "data"}, out=tmp_path / "merged")
    without_digest(first)
    said = macer.refuses("merge", first, second, wrong, "--out", tmp_path / "wrong")
    assert f"{wrong} was made with other settings than {second} (images_digest: the images or their labels are" in said
    without_digest(second, root="elsewhere")
    assert "(root: elsewhere there, data here)" in macer.refuses("merge", first, second, "--out", tmp_path / "wrong")
    without_digest(second, root="data")
    assert macer("merge", first, second, "--out", tmp_path / "old").code == 0
    monkeypatch.chdir(tmp_path / "others")
    with pytest.raises(SettingsError, match=r"was made with other settings \(images_digest: the images or their"):
        package.certify(network, **words, out=tmp_path / "merged")


def test_a_shard_is_gone_on_with_as_the_same_shard_only(macer, trained, thirds):
    words = ("certify", trained, *OPTIONS, "--out", thirds[0].parent)
    result = macer(*words, "--shard", "1/3")
    assert result.code == 0
    assert "not finished" not in macer("table", thirds[0]).out


def test_images_of_shards_are_not_certified_again(macer, trained, thirds):
    """Neither divided otherwise, as by a job array that counts only the tasks which are submitted again, nor whole."""
    out = thirds[0].parent
    before = sorted(out.rglob("*"))
    words = ("certify", trained, *OPTIONS, "--out", out)
    said = macer.refuses(*words, "--shard", "2/2")
    assert f"{thirds[0]} is there, and shard 2/2 divides the images otherwise: give --shard I/3, or choose" in said
    said = macer.refuses(*words)
    assert f"{out} holds shards: merge them (macer merge {out}/shard-* --out OTHER), give --shard, or choose" in said
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--n", 800, "n: 700 there, 800 here"), ("--alpha", 0.01, "alpha"), ("--skip", 10, "skip: 20 there, 10 here")],
)
def test_a_shard_that_could_not_be_merged_does_not_start(macer, trained, tmp_path, option, value, says):
    (first,) = shards(macer, trained, tmp_path, 2, range(1, 2))
    said = macer.refuses("certify", trained, *OPTIONS, option, value, "--shard", "2/2", "--out", tmp_path)
    assert f"{first} has other settings ({says}" in said
    assert not (tmp_path / "shard-2-of-2").exists()


def test_shards_go_on_to_more_images_one_after_the_other(macer, trained, tmp_path):
    shards(macer, trained, tmp_path, 2, range(1, 3))
    words = ("certify", trained, *OPTIONS, "--skip", 10, "--out", tmp_path)
    assert macer(*words, "--shard", "1/2").code == 0
    assert macer(*words, "--shard", "2/2").code == 0


def test_merged_into_the_directory_of_the_shards_a_certification_goes_on(macer, trained, whole, tmp_path):
    parts = shards(macer, trained, tmp_path, 2, range(1, 2))
    assert macer("merge", *parts, "--out", tmp_path).code == 1  # the other half is missing
    assert macer("certify", trained, *OPTIONS, "--out", tmp_path).code == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("0/3", "shard is i/n with i from 1 to n, such as 1/8, not '0/3'"),
        ("4/3", "shard is i/n"),
        ("2", "shard is i/n"),
        ("1/-3", "shard is i/n"),
        ("1/1000000000", "shard is i/n"),  # which no record may have
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


def test_the_live_view_says_all_that_it_is_for(monkeypatch):
    """After 100 seconds: 8 of 40 images were there before, 12 are new; the network alone would do 500 a second."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    with LiveView("certifying", 40, 8, 6, Console(file=stream, width=300)) as view:
        for number in range(12):
            clock[0] = 100.0 if number == 11 else number
            certificate = Certificate(int(number < 9), 0.1, 0.6, 500.0, 700)
            rate = None if number < 5 else 250.0
            outcome = Outcome(
                index=number,
                label=1,
                image="",
                certificates=[certificate],
                seconds=1.0,
                samples=1000,
                device="cpu",
                network_rate=rate,
            )
            view.count(outcome, 2)
    low, high = wilson_interval(np.array([0.75]), 20)
    text = "120 noisy images/s (24% of the network's limit)"
    accuracy = f"certified accuracy 0.750 [{low[0]:.3f}, {high[0]:.3f}]"
    assert stream.getvalue().splitlines() == [
        f"certifying: 20 of 40, 100 s, 0:02:47 left  {text}  {accuracy}",
        f"certifying: 20 of 40, 100 s, {text}  {accuracy}",
    ]
