"""Devices and arithmetics by name, and the processes that train together on several devices."""

import inspect
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from macer.errors import MacerError, SettingsError

_TIMEOUT = timedelta(minutes=10)
"""How long processes wait for each other at the start, and for each other's gradients in a step."""
_SECONDS_BETWEEN_LOOKS = 1.0
_STARTED_BY = "MACER_STARTED_BY"
"""The environment variable that tells a process which process started it."""


def find_device(name: str) -> torch.device:
    """Return the device of a name.

    Args:
        name: cpu, cuda, or auto: cuda where there is a GPU, else cpu. (Apple's mps has no float64, which certificates
            need.)

    Raises:
        SettingsError: there is no such device on this machine.
    """
    has_gpu = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise SettingsError(f"device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not has_gpu:
        raise SettingsError("device 'cuda': PyTorch finds no GPU on this machine")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the type and the model of a device, such as "cuda (NVIDIA H100 80GB HBM3)"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type} ({name})"


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32, not as TF32 or bfloat16, whatever was set before; afterwards that is set again.

    PyTorch convolves in TF32 on GPUs that have it, unless it is told otherwise. Autocast is off as well.

    Args:
        device: the device that computes.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    newer = hasattr(mkldnn, "conv")  # PyTorch 2.9 has a second interface
    places = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv) if newer else ()
    before = [(place, place.fp32_precision) for place in places]
    convolutions = _or_none(lambda: cudnn.allow_tf32)
    products = _or_none(torch.get_float32_matmul_precision)
    try:
        # Both interfaces are used, because PyTorch refuses to read what they set differently.
        cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for place, precision in before:
            place.fp32_precision = precision


def _or_none(read: Callable[[], Any]) -> Any:
    """Return what `read` returns; None where PyTorch refuses, because its newer interface was used for this setting."""
    try:
        return read()
    except RuntimeError:
        return None


def open_fabric(
    device: str, precision: str = "32-true", *, devices: int = 1, num_nodes: int = 1, gradients: bool = False
) -> Any:
    """Return the Lightning Fabric of one device, or of several processes with one device each, not started yet.

    Processes exchange messages by gloo, on GPUs too, and gradients on GPUs by NCCL.

    Args:
        device: cpu, cuda or auto, as for `find_device`.
        precision: arithmetic, as Lightning Fabric names it.
        devices: how many devices per machine, which is the number of processes there.
        num_nodes: how many machines.
        gradients: whether the processes exchange gradients.

    Raises:
        SettingsError: this machine has no such devices, there is no such arithmetic, or torchrun or Slurm started
            another number of processes.
    """
    from lightning_fabric import Fabric  # slow to import, and most commands do without
    from lightning_fabric.strategies.ddp import DDPStrategy

    device = find_device(device).type
    processes = devices * num_nodes
    try:
        backend = "cpu:gloo,cuda:nccl" if gradients and device == "cuda" else "gloo"
        # Running statistics of batch norm are each process's own; training averages them when it looks at them.
        strategy = (
            DDPStrategy(process_group_backend=backend, timeout=_TIMEOUT, **_own_buffers()) if processes > 1 else "auto"
        )
        arithmetic: Any = precision  # Fabric types it by the names that it knows
        fabric = Fabric(
            accelerator=device, devices=devices, num_nodes=num_nodes, strategy=strategy, precision=arithmetic
        )
    except Exception as error:  # Fabric raises several kinds
        many = "" if processes == 1 else f", {devices} on each of {num_nodes} machines,"
        reason = (str(error).splitlines() or [""])[0]
        raise SettingsError(f"device {device!r}{many} with precision {precision!r}: {reason}") from error
    if fabric.world_size != processes:
        raise SettingsError(
            f"{devices} devices on {num_nodes} machines take {processes} processes, but torchrun or Slurm started "
            f"{fabric.world_size}"
        )
    return fabric


def _own_buffers() -> dict[str, Any]:
    """Return the option of DistributedDataParallel that leaves each process its own buffers, by its current name."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def started_processes() -> tuple[int, int]:
    """Return processes per machine and number of machines, as torchrun or Slurm's srun started them; else 1 and 1."""
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        local = int(variables["LOCAL_WORLD_SIZE"])
        return local, int(variables["WORLD_SIZE"]) // local
    if "SLURM_STEP_ID" in variables and "SLURM_NTASKS" in variables:  # in a batch script itself there is no step
        machines = int(variables.get("SLURM_STEP_NUM_NODES", "1"))
        return int(variables["SLURM_NTASKS"]) // machines, machines
    return 1, 1


def launch(fabric: Any) -> None:
    """Start the processes of a fabric, or connect those that torchrun or Slurm started.

    Raises:
        MacerError: they did not find each other.
    """
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    try:
        logger.setLevel(logging.WARNING)  # it would announce every process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # processes started here print no stack traces of C++
        with _ending_with_its_parent():
            fabric.launch()
    except RuntimeError as error:
        raise did_not_meet(fabric, error) from error
    finally:
        logger.setLevel(level)


def did_not_meet(fabric: Any, error: RuntimeError) -> MacerError:
    """Return the error for processes that did not find each other."""
    reason = (str(error).splitlines() or [""])[0]
    return MacerError(f"the {fabric.world_size} processes did not find each other: {reason}")


@contextmanager
def _ending_with_its_parent() -> Iterator[None]:
    """End this process if the one that started it dies before they are connected; it would wait for minutes."""
    parent, connected = os.environ.get(_STARTED_BY), threading.Event()
    os.environ[_STARTED_BY] = str(os.getpid())  # for those that this one starts

    def watch() -> None:
        while not connected.wait(_SECONDS_BETWEEN_LOOKS):
            if str(os.getppid()) != parent:
                print("macer: the process that started this one is gone, and so this one ends", file=sys.stderr)
                os._exit(2)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        connected.set()
        del os.environ[_STARTED_BY]
