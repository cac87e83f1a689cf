"""Processes that train on a GPU: launched, refused, and talking by NCCL."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from launching import free_port, srun, together
from on_gpu import CPU, DEVICE, MARKS, digits, tiny
from torch import distributed, nn

from macer import models
from macer.compute.device import open_fabric
from macer.compute.launchers import Launched
from macer.compute.rendezvous import Environment, Together, launch
from macer.runs.checkpoint import load_checkpoint
from macer.training.processes import Processes
from macer.training.state import TrainingState

pytest_plugins = ["command"]
pytestmark = MARKS


def torchrun(size: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m"]
    return subprocess.run([*command, "macer", *map(str, words)], capture_output=True, text=True, timeout=120)


TRAIN = (
    *(
        "train",
        "--dataset",
        "digits",
        "--network",
        "convnet",
        "--device",
        DEVICE.type,
        "--epochs",
        1,
        "--compile",
        "no",
    ),
    *("--num-images", 64, "--gauss-num", 2, "--certify-num-img", 1, "--certify-n", 100),
)


def test_torchrun_with_one_process(tmp_path):
    found = torchrun(1, *TRAIN, "--out", tmp_path / "run")
    assert found.returncode == 0, found
    assert "Warning" not in found.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").epoch == 1


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="is about one GPU")
def test_torchrun_with_more_processes_than_gpus_is_refused(tmp_path):
    found = torchrun(2, *TRAIN, "--out", tmp_path / "run")
    said = [line for line in found.stderr.splitlines() if line.startswith("macer: ")]
    assert 1 <= len(said) <= 2, found
    assert set(said) == {"macer: 2 processes need a GPU each, and PyTorch finds 1 on this machine"}
    assert found.stderr.count("Traceback") <= 1, "torchrun has its own"
    assert not (tmp_path / "run").exists()


def test_two_processes_on_one_gpu_end(macer, tmp_path):
    """As two machines of Slurm whose tasks see the same GPU, which NCCL refuses."""
    results = together(macer, 2, *TRAIN, "--out", tmp_path / "run", launcher=srun, before="signal.alarm(40)")
    assert all(each.code != 0 for each in results), results


@pytest.fixture
def one_rank():
    """A Fabric that talks to itself, by the same strategy and backends as several processes do."""
    from lightning_fabric import Fabric

    alone = Launched(
        by="test", local_rank=0, local_size=1, machine=0, machines=1, address="127.0.0.1", port=free_port()
    )
    strategy = Together(process_group_backend="cpu:gloo,cuda:nccl", timeout=timedelta(seconds=60))
    fabric = Fabric(accelerator=DEVICE.type, devices=1, strategy=strategy, plugins=[Environment(alone)])
    launch(fabric)
    yield fabric
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of one rank
def test_one_process_exchanges_gradients_by_nccl(one_rank):
    torch.manual_seed(0)
    network = models.build("convnet", 10, (1, 8, 8))
    images, labels = digits().images[:16].float().to(DEVICE) / 255, digits().labels[:16].to(DEVICE)
    alone = open_fabric(DEVICE.type).setup(network)
    F.cross_entropy(alone(images), labels).backward()
    expected = [each.grad.clone() for each in network.parameters()]
    network.zero_grad()
    wrapped = one_rank.setup(network)
    assert isinstance(wrapped._forward_module, nn.parallel.DistributedDataParallel)
    one_rank.backward(F.cross_entropy(wrapped(images), labels))
    for each, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(each.grad, gradient)
    group = distributed.new_group(backend="gloo")
    for device, which in ((DEVICE, None), (CPU, None), (CPU, group)):
        shared = torch.ones(3, device=device)
        distributed.all_reduce(shared, group=which)
        assert shared.tolist() == [1.0, 1.0, 1.0]


class Second(Processes):
    """The second of two processes, which gets from the first what that restored."""

    def __init__(self) -> None:
        self.rank, self.size = 1, 2

    def all_gather(self, value: object) -> list[Any]:
        return [[0, 1, [], ["exp_avg", "exp_avg_sq", "step"], False]]

    def broadcast(self, tensors: Any) -> None:
        list(tensors)


def test_a_process_that_restored_nothing_takes_steps_of_fused_adam(tmp_path):
    state = TrainingState(tiny(optimizer="adam"), digits(), open_fabric(DEVICE.type), tmp_path / "last.pt")
    state.start(Second(), None)
    for each in state.module.parameters():
        each.grad = torch.ones_like(each)
    state.optimizer.step()
    assert {int(kept["step"]) for kept in state.optimizer.state.values()} == {1}
