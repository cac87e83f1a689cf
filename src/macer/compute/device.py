"""What computes: devices, processes and an arithmetic, by name."""

import inspect
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from macer.errors import MacerError, SettingsError

_MEETING = timedelta(minutes=10)
"""How long processes wait for each other at the start, and with gradients for each other in a step."""
_SECONDS_BETWEEN_LOOKS = 1.0
_STARTED_BY = "MACER_STARTED_BY"
"""The environment variable that tells a process which one started it."""


def open_fabric(
    device: str, precision: str = "32-true", *, devices: int = 1, num_nodes: int = 1, gradients: bool = False
) -> Any:
    """The Lightning Fabric of one device, or of several processes with a device each; those are not started yet.

    Processes exchange words by gloo, on GPUs too; gradients on GPUs by NCCL.

    Args:
        device: cpu, cuda, or auto: cuda where there is one. (Apple's mps has no float64, which certificates need.)
        precision: arithmetic, as Lightning Fabric names it.
        devices: how many of them on each machine, which is the number of processes there.
        num_nodes: how many machines.
        gradients: whether the processes exchange them.

    Raises:
        SettingsError: this machine has no such devices, there is no such arithmetic, or torchrun or Slurm started
            another number of processes.
    """
    from lightning_fabric import Fabric  # slow to import, and most commands do without
    from lightning_fabric.strategies.ddp import DDPStrategy

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = devices * num_nodes
    try:
        if device == "mps":
            raise ValueError("it has no float64")
        backend = "cpu:gloo,cuda:nccl" if gradients and device == "cuda" else "gloo"
        # Running statistics of batch norm are each process's own; training averages them when it looks at them.
        strategy = (
            DDPStrategy(process_group_backend=backend, timeout=_MEETING, **_own_buffers()) if processes > 1 else "auto"
        )
        arithmetic: Any = precision  # Fabric types it by the names that it knows
        fabric = Fabric(
            accelerator=device, devices=devices, num_nodes=num_nodes, strategy=strategy, precision=arithmetic
        )
    except Exception as error:  # Fabric raises several kinds
        many = "" if processes == 1 else f", {devices} on each of {num_nodes} machines,"
        raise SettingsError(
            f"device {device!r}{many} with precision {precision!r} is not to be had here: {str(error).splitlines()[0]}"
        ) from error
    if fabric.world_size != processes:
        raise SettingsError(
            f"{devices} devices on {num_nodes} machines take {processes} processes, but torchrun or Slurm started "
            f"{fabric.world_size}"
        )
    return fabric


def _own_buffers() -> dict[str, Any]:
    """The option of DistributedDataParallel that leaves each process its own buffers, by the name it has here."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def started_processes() -> tuple[int, int]:
    """Processes on each machine and number of machines, as torchrun or Slurm's srun started them; else 1 and 1."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        local = int(told["LOCAL_WORLD_SIZE"])
        return local, int(told["WORLD_SIZE"]) // local
    if "SLURM_STEP_ID" in told and "SLURM_NTASKS" in told:  # in a batch script itself there is no step
        machines = int(told.get("SLURM_STEP_NUM_NODES", "1"))
        return int(told["SLURM_NTASKS"]) // machines, machines
    return 1, 1


def launch(fabric: Any) -> None:
    """Start the processes of a fabric, or meet those that torchrun or Slurm started.

    Raises:
        MacerError: they did not find each other.
    """
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    try:
        logger.setLevel(logging.WARNING)  # it would announce every process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # those started here: no stack where the first is gone
        with _ending_with_its_parent():
            fabric.launch()
    except RuntimeError as error:
        raise did_not_meet(fabric, error) from error
    finally:
        logger.setLevel(level)


def did_not_meet(fabric: Any, error: RuntimeError) -> MacerError:
    """The one line for processes that do not find each other."""
    reason = (str(error).splitlines() or [""])[0]
    return MacerError(f"the {fabric.world_size} processes did not find each other: {reason}")


@contextmanager
def _ending_with_its_parent() -> Iterator[None]:
    """End a process whose starter is gone before they met: it would wait for minutes, which nothing else interrupts."""
    parent, met = os.environ.get(_STARTED_BY), threading.Event()
    os.environ[_STARTED_BY] = str(os.getpid())  # for those that this one starts

    def watch() -> None:
        while not met.wait(_SECONDS_BETWEEN_LOOKS):
            if str(os.getppid()) != parent:
                print("macer: the process that started this one is gone, and so this one ends", file=sys.stderr)
                os._exit(2)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        met.set()
        del os.environ[_STARTED_BY]
