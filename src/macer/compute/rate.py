"""The rate that the network alone reaches: what a training that evaluates it on every noisy image cannot exceed."""

import copy
import time
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
    """Images a second of bare forward and backward passes, without noise, losses and optimizer.

    Args:
        network: the one being trained; it stays as it is.
        shape: (channels, height, width) of an image.
        batch: images at once.
        fabric: whose device and arithmetic to use.
        compiled: whether training compiles the network.
        seconds: how long to measure.
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

        once()  # what is done once only is not counted
        images, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            once()
            images += batch
    return images / elapsed
