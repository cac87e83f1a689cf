"""The rate of the network alone, which no training that evaluates it on every noisy image can exceed."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def training_rate(
    network: nn.Module,
    shape: tuple[int, int, int],
    batch: int,
    fabric: Any,
    *,
    compiled: bool = False,
    seconds: float = 0.5,
) -> float:
    """Return the images per second of bare forward and backward passes, without noise, losses and optimizer.

    Args:
        network: the network being trained; it is not changed.
        shape: (channels, height, width) of an image.
        batch: number of images per pass.
        fabric: whose device and arithmetic to use.
        compiled: whether training compiles the network.
        seconds: duration of the measurement.
    """
    copied = copy.deepcopy(network).train()
    if compiled:  # a copy is not
        copied.compile()
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        inputs = torch.rand((batch, *shape), device=fabric.device, dtype=next(copied.parameters()).dtype)

        def once() -> None:
            with fabric.autocast():
                loss = copied(inputs).float().sum()
            loss.backward()
            loss.item()  # waits for the device

        once()  # the first pass is slower and does not count
        return rate_of(once, batch, seconds)


def rate_of(work: Callable[[], object], units: int, seconds: float = 0.5) -> float:
    """Return the units per second of work that does so many in a call, measured for so many seconds."""
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        work()
        done += units
    return done / elapsed
