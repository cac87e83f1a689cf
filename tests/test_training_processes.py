"""Training in several processes: the same training, whatever their number and whatever happens to them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from launching import (
    free_port,
    lightning,
    listening,
    only_the_first_speaks,
    srun,
    start_together,
    together,
    torchrun,
)
from torch import nn

import macer as macer_package
from macer import data
from macer.data.images import digest_of_some, own_share
from macer.runs.teacher import TeacherVotes, write_teacher_votes
from macer.training import load_checkpoint
from macer.training.processes import Processes

pytest_plugins = ["command"]

# 101 images in batches of 20: the last batch has one image, and so nothing for a second process.
SMALL = ("--num-images", 101, "--batch-size", 20, "--lr", 0.05, "--epochs", 3, "--noise-per", "image")
METHODS = {
    "macer": ("--method", "macer", "--gauss-num", 4, "--lbd", 1, "--micro-batch", 7, "--clip", 1, "--average", 0.9),
    "smoothadv": ("--method", "smoothadv", "--gauss-num", 2, "--steps", 2, "--warmup", 1, "--micro-batch", 7),
    "cat-rs": ("--method", "cat-rs", "--gauss-num", 2, "--steps", 1, "--teacher", "teacher.safetensors"),
    "hard-data": (
        *("--method", "hard-data", "--gauss-num", 2, "--steps", 1),
        *("--hard-from", 1, "--reweigh-every", 1, "--drop-below", 0.15),
    ),
}


def curve(run: Path) -> np.ndarray:
    """The epochs' rows, without the seconds, which differ."""
    header, *lines = (run / "metrics.tsv").read_text().splitlines()
    kept = [name != "seconds" for name in header.split("\t")]
    return np.array([[float(cell) for cell in line.split("\t")] for line in lines])[:, kept]


def assert_same_weights(run: Path, other: Path) -> None:
    a, b = (load_checkpoint(each / "checkpoints" / "last.pt") for each in (run, other))
    assert (a.epoch, a.step) == (b.epoch, b.step)
    for name, value in a.weights.items():
        torch.testing.assert_close(value, b.weights[name], rtol=1e-3, atol=1e-5)
    if a.image_weights is None or b.image_weights is None:
        assert a.image_weights is b.image_weights
    else:
        assert torch.equal(a.image_weights, b.image_weights)
        assert 0 < int((a.image_weights == 0).sum()) < len(a.image_weights)


@pytest.fixture(scope="module")
def alone(macer, digits, tmp_path_factory):
    """One process's run of each method."""
    runs = {}
    file = tmp_path_factory.mktemp("votes") / "teacher.safetensors"
    counts = (100 * torch.rand(1297, 10, generator=torch.Generator().manual_seed(0)).softmax(1)).int()
    counts[:, 0] += 100 - counts.sum(1)
    made = {"dataset": "digits", "split": "train", "sigma": 0.25, "n": 100, "seed": 0, "network": "none"}
    made["images"] = digest_of_some(data.load("digits", None, "train"))
    write_teacher_votes(TeacherVotes(counts=counts, **made), file)
    for name, method in METHODS.items():
        method = [file if word == file.name else word for word in method]
        words = ("train", *digits.options, *SMALL, *method)
        runs[name] = SimpleNamespace(words=words, run=tmp_path_factory.mktemp("alone") / name)
        assert macer(*words, "--out", runs[name].run).code == 0
    return runs


@pytest.mark.parametrize(
    ("method", "size"), [("macer", 2), ("macer", 3), ("smoothadv", 2), ("hard-data", 2), ("cat-rs", 2)]
)
def test_several_processes_take_the_same_steps_as_one(macer, alone, tmp_path, method, size):
    words = (*alone[method].words, "--devices", size, "--out", tmp_path / "run")
    first = only_the_first_speaks(together(macer, size, *words))
    assert (first.code, first.err) == (0, "")
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone[method].run), rtol=1e-4)
    assert_same_weights(tmp_path / "run", alone[method].run)


def test_noise_of_a_step_differs_between_processes_and_from_one_process(macer, alone, tmp_path):
    """Without noise_per "image" each process draws a stream of its own: another training, as good."""
    words = (*alone["macer"].words, "--noise-per", "step", "--devices", 2, "--out", tmp_path / "run")
    assert only_the_first_speaks(together(macer, 2, *words)).code == 0
    ours, theirs = curve(tmp_path / "run"), curve(alone["macer"].run)
    assert np.abs(ours[:, 2] - theirs[:, 2]).min() > 1e-4
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=0.2)


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_training_joins_the_processes_of_torchrun_and_slurm(macer, alone, tmp_path, launcher):
    words = (*alone["macer"].words, "--out", tmp_path / "run")
    assert only_the_first_speaks(together(macer, 2, *words, launcher=launcher)).code == 0
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["macer"].run), rtol=1e-4)


def test_the_installed_command_starts_the_processes_of_training(alone, tmp_path):
    words = ("-m", "macer", *alone["macer"].words, "--devices", 2, "--out", tmp_path / "run")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("trained: ") == 1
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["macer"].run), rtol=1e-4)


SLOW = """
import time
from macer.training.loop import _Loop
step = _Loop.train_step
_Loop.train_step = lambda *words: (time.sleep(0.05), step(*words))[1]
"""
"""Network and images are so small that there would be no moment to interrupt."""


def wait_for_text(file: Path, text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not (file.exists() and text in file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(file: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_training_goes_on_with_another_number_of_processes(macer, alone, tmp_path, rank):
    words = (*alone["macer"].words, "--checkpoint-every", 1e-9, "--out", tmp_path / "run")
    running = start_together(macer, 2, *words, "--devices", 2, before=SLOW)
    wait_for(tmp_path / "run" / "checkpoints" / "last.pt")
    running[rank].signal(signal.SIGINT)
    first = only_the_first_speaks([each.wait() for each in running])
    assert first.code == 128 + signal.SIGINT
    assert first.err.startswith("macer: training stopped in epoch ")
    stopped = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert stopped.epoch < 3
    assert macer(*words).code == 0
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["macer"].run), rtol=1e-4)
    assert_same_weights(tmp_path / "run", alone["macer"].run)


NO_PICKLES = """
import torch.distributed
def refuse(*_, **__):
    raise AssertionError("pickles from the network")
for name in ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "recv_object_list"):
    setattr(torch.distributed, name, refuse)
"""


def test_nothing_in_the_package_unpickles_what_comes_from_the_network():
    """PyTorch's collectives of objects pickle; Dask's workers, who do so too, are closed to others (test_scale.py)."""
    code = {file: file.read_text() for file in Path(macer_package.__file__).parent.rglob("*.py")}
    assert [file.name for file, text in code.items() if re.search(r"_object(_list)?\(", text)] == []
    assert {file.name for file, text in code.items() if re.search(r"\bpickle\.loads?\(", text)} == {"cluster.py"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_loses_little(macer, alone, tmp_path, rank):
    words = (*alone["macer"].words, "--checkpoint-every", 1e-9, "--devices", 2, "--out", tmp_path / "run")
    running = start_together(macer, 2, *words, before=SLOW + NO_PICKLES)
    wait_for(tmp_path / "run" / "checkpoints" / "last.pt")
    assert [listening(each.pid) for each in running] == [{"127.0.0.1"}] * 2
    running[rank].signal(signal.SIGKILL)
    ended = [each.wait() for each in running]
    assert ended[rank].code == -signal.SIGKILL
    left = ended[1 - rank]
    assert "pickles" not in left.err
    assert left.code == 2
    assert left.err == "macer: another of the 2 processes that train together is gone, and so this one ends\n"
    assert only_the_first_speaks(together(macer, 2, *words, before=NO_PICKLES)).code == 0
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["macer"].run), rtol=1e-4)
    assert_same_weights(tmp_path / "run", alone["macer"].run)


AWAITS = """
import macer.compute.rendezvous
macer.compute.rendezvous._SECONDS_UNTIL_SAID = 0.2
"""


@pytest.mark.parametrize("launcher", [torchrun, srun])
@pytest.mark.parametrize(
    ("rank", "says"),
    [(0, "macer: waiting for the processes 1, 2 of 3"), (1, "macer: waiting for process 0 of 3 at 127.0.0.1, port 1")],
)
def test_who_waits_says_for_whom_and_signals_end_it(macer, alone, tmp_path, launcher, rank, says):
    variables = launcher(rank, 3, 1 if rank else free_port())
    before = f"os.environ.update({variables!r})\n{AWAITS}"
    running = macer.start(*alone["macer"].words, "--out", tmp_path / "run", before=before)
    wait_for_text(running.err, says)
    running.signal(signal.SIGTERM)
    result = running.wait()
    assert result.code == 128 + signal.SIGTERM
    assert result.err.splitlines() == [says, *(["macer: stopped"] if rank == 0 else [])]


IN_THE_SECOND = """
from dataclasses import replace
from macer.objectives import Macer
loss = Macer.__call__
def spoilt(self, *words, progress, **more):
    found = loss(self, *words, progress=progress, **more)
    return replace(found, total=found.total / 0) if rank == 1 and progress.epoch > 2 / 6 - 1e-6 else found
Macer.__call__ = spoilt
"""


@pytest.mark.parametrize("clip", [0, 1])
def test_divergence_in_any_process_is_one_line_that_names_the_step(macer, digits, tmp_path, clip):
    """The second process's loss is infinite in the third step; the first sees undefined weights in the fourth."""
    words = ("train", *digits.options, *SMALL, "--gauss-num", 1, "--clip", clip, "--devices", 2, "--out", tmp_path)
    first = only_the_first_speaks(together(macer, 2, *words, before=IN_THE_SECOND))
    assert first.code == 2
    assert first.err.startswith("macer: the loss is no longer finite in step 3 of epoch 1 (loss inf, classification ")
    assert first.err.count("\n") == 1


AT_THE_END_OF_AN_EPOCH = """
import os, signal
from macer.training.loop import _Loop
step = _Loop.train_step
def last(self, *words):
    if rank == 0 and self.state.epoch == 1 and self.state.step == self.state.steps - 1:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, *words)
_Loop.train_step = last
"""


def test_stopped_in_an_epochs_last_step_it_goes_on(macer, alone, tmp_path):
    words = (*alone["macer"].words, "--devices", 2, "--out", tmp_path / "run")
    stopped = only_the_first_speaks(together(macer, 2, *words, before=AT_THE_END_OF_AN_EPOCH))
    assert stopped.code == 128 + signal.SIGINT
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert (checkpoint.epoch, checkpoint.step) == (1, 6)
    first = only_the_first_speaks(together(macer, 2, *words))
    assert (first.code, first.err) == (0, "")
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["macer"].run), rtol=1e-4)


SLOW_BETWEEN_EPOCHS = """
import time
from datetime import timedelta
import macer.compute.rendezvous
from macer.certification import CertificationDuringTraining
macer.compute.rendezvous.TIMEOUT = timedelta(seconds=4)
CertificationDuringTraining.certify = lambda self, epoch, *words, **more: time.sleep(6 if epoch == 1 else 0)
"""


def test_the_others_wait_while_the_first_certifies_between_epochs(macer, alone, tmp_path):
    words = (*alone["macer"].words, "--devices", 2, "--out", tmp_path / "run")
    first = only_the_first_speaks(together(macer, 2, *words, before=SLOW_BETWEEN_EPOCHS))
    assert (first.code, first.err) == (0, "")


STOPPED_BETWEEN_EPOCHS = """
import signal
from macer.certification import CertificationDuringTraining
from macer.compute.interruption import Interrupted
def stop(*_, **__):
    raise Interrupted("certification stopped", signal.SIGTERM)
CertificationDuringTraining.certify = stop
"""


def test_the_others_end_in_silence_where_the_first_is_stopped_while_it_certifies(macer, alone, tmp_path):
    words = (*alone["macer"].words, "--devices", 2, "--out", tmp_path / "run")
    first = only_the_first_speaks(together(macer, 2, *words, before=STOPPED_BETWEEN_EPOCHS))
    assert (first.code, first.err) == (128 + signal.SIGTERM, "macer: certification stopped\n")


def test_settings_of_another_run_are_refused_before_processes_start(macer, alone):
    words = (*alone["macer"].words, "--seed", 7, "--devices", 2, "--out", alone["macer"].run)
    assert "seed: 0 there, 7 here" in macer.refuses(*words, before=f"os.environ.update({lightning(0, 2, 1)!r})")


def test_a_network_with_batch_norm_keeps_the_mean_of_the_processes_statistics(macer, digits, tmp_path):
    """No step is taken with a rate of 0: what the statistics are can then be told from the images alone."""
    code = """
        def build(num_classes):
            from torch import nn
            return nn.Sequential(nn.BatchNorm2d(1, momentum=None), nn.Flatten(), nn.Linear(64, num_classes))
    """
    module = tmp_path / "with_norm.py"
    module.write_text("\n".join(line[8:] for line in code.splitlines()))
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    words = ("train", "--dataset", "digits", "--device", "cpu", "--network", "with_norm:build", "--epochs", 1)
    options = ("--method", "cohen", "--gauss-num", 1, "--sigma", 1e-6, "--num-images", 40, "--batch-size", 20)
    run = tmp_path / "run"
    first = only_the_first_speaks(together(macer, 2, *words, *options, "--devices", 2, "--out", run, before=before))
    assert (first.code, first.err) == (0, "")
    kept = load_checkpoint(run / "checkpoints" / "last.pt").weights
    images = torch.stack([data.load("digits", None, "train")[index][0] for index in range(40)])
    torch.testing.assert_close(kept["0.running_mean"], images.mean().reshape(1), rtol=1e-4, atol=0)
    assert int(kept["0.num_batches_tracked"]) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_of_a_batch_are_the_batch(size):
    batch = torch.arange(12)
    shares = [own_share(batch, (rank, size)) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == list(range(12))
    assert max(len(share) for share in shares) - min(len(share) for share in shares) <= 1


def test_a_process_without_an_image_takes_the_first_along():
    assert own_share(torch.tensor([7, 8]), (3, 4)).tolist() == [7]


@pytest.mark.parametrize("augment", [False, True])
def test_an_image_is_augmented_alike_in_any_process(augment):
    pixels = torch.randint(256, (10, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = data.InMemoryImages("some", "train", pixels, torch.arange(10), tuple("abcdefghij"), augment=augment)
    options = {"device": torch.device("cpu"), "seed": 3, "epoch": 1}
    whole = dict(
        each for x, y in images.batches(torch.arange(10), 4, **options) for each in zip(y.tolist(), x, strict=True)
    )
    for rank in range(2):
        for x, y in images.batches(torch.arange(10), 4, **options, share=(rank, 2)):
            for image, label in zip(x, y.tolist(), strict=True):
                assert torch.equal(image, whole.pop(label))
    assert not whole


def test_one_process_exchanges_nothing():
    processes = Processes(SimpleNamespace(global_rank=0, world_size=1))
    assert processes.all_reduce([3, 4], "max") == [3, 4]
    assert processes.all_reduce([0.5], "sum") == [0.5]
    assert processes.all_gather("word") == ["word"]
    processes.broadcast(iter(()))
    network = nn.BatchNorm1d(2)
    processes.average_statistics(network)
    assert network.running_mean is not None
    assert network.running_mean.tolist() == [0, 0]
