"""Devices and arithmetics by name."""

import copy
import inspect
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from macer.compute.launchers import Launched
from macer.errors import SettingsError, first_line

_WORTH_ROUNDING = 1.2
"""How many times as fast as in float32 a convolution must be in bfloat16 on a CPU, for `auto` to choose it."""


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


def check_gpus(wanted: int) -> None:
    """Refuse more processes, of which each takes one, than PyTorch finds GPUs on this machine."""
    found = torch.cuda.device_count()
    if wanted > found:
        raise SettingsError(f"{wanted} processes need a GPU each, and PyTorch finds {found} on this machine")


def describe_device(device: torch.device) -> str:
    """Return the type and the model of a device, such as "cuda (NVIDIA H100 80GB HBM3)"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device.type} ({name})"


@cache
def has_fast_bfloat16(device: str) -> bool:
    """Return whether a device computes in bfloat16 by itself, which is then faster than float32.

    A GPU says so. A CPU is asked by measuring a convolution, some hundredths of a second: all of them compute in
    bfloat16, but many by converting every number.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    convolution = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks = {dtype: copy.deepcopy(convolution).to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    batch = torch.rand(32, 64, 16, 16).to(memory_format=torch.channels_last)
    seconds = dict.fromkeys(networks, math.inf)
    for dtype in [*networks] * 10:
        images, started = batch.to(dtype), time.perf_counter()
        with torch.inference_mode():
            networks[dtype](images)
        seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.bfloat16] * _WORTH_ROUNDING < seconds[torch.float32]


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Make new layers and tensors in float32, whatever PyTorch's default was before; afterwards that is set again."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
    device: str,
    precision: str = "32-true",
    *,
    devices: int = 1,
    num_nodes: int = 1,
    launched: Launched | None = None,
) -> Any:
    """Return the Lightning Fabric of one device, or of several processes with one device each, not started yet.

    Processes exchange messages by gloo, on GPUs too, and gradients on GPUs by NCCL.

    Args:
        device: cpu, cuda or auto, as for `find_device`.
        precision: arithmetic, as Lightning Fabric names it.
        devices: how many devices per machine, which is the number of processes there.
        num_nodes: how many machines.
        launched: what a launcher says of this process; None: it starts the others.

    Raises:
        SettingsError: this machine has no such devices, or there is no such arithmetic.
    """
    from lightning_fabric import Fabric  # slow to import, and most commands do without

    from macer.compute.precision import BFloat16Mixed
    from macer.compute.rendezvous import TIMEOUT, Environment, Together, quiet_fabric

    device = find_device(device).type
    if device == "cuda":
        check_gpus(devices)
    processes = devices * num_nodes
    try:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        # Running statistics of batch norm are each process's own; training averages them when it looks at them.
        strategy = Together(process_group_backend=backend, timeout=TIMEOUT, **_own_buffers())
        plugins: list[Any] = [Environment(launched)]
        arithmetic: Any = precision  # Fabric types it by the names that it knows
        if precision == "bf16-mixed":
            plugins, arithmetic = [*plugins, BFloat16Mixed(device)], None
        with quiet_fabric():
            return Fabric(
                accelerator=device,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy if processes > 1 else "auto",
                precision=arithmetic,
                plugins=plugins,
            )
    except Exception as error:  # Fabric raises several kinds
        many = "" if processes == 1 else f", {devices} on each of {num_nodes} machines,"
        raise SettingsError(f"device {device!r}{many} with precision {precision!r}: {first_line(error)}") from error


def _own_buffers() -> dict[str, Any]:
    """Return the option of DistributedDataParallel that leaves each process its own buffers, by its current name."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
