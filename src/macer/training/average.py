"""The exponential moving average of a network's weights."""

import torch
from torch import nn


class MovingAverage:
    """Holds average <- decay * average + (1 - decay) * weights, updated after each step. Buffers are copied when asked.

    In the first steps the decay is (1 + step) / (10 + step) where that is smaller, so that the random initial weights
    are soon forgotten.

    Args:
        network: whose weights are averaged.
        decay: of the average, in [0, 1).

    Attributes:
        state: the averaged weights, as a state dict.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Add the weights after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names, weights = zip(*network.named_parameters(), strict=True)
        averages = [self.state[name] for name in names]
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def copy_buffers(self, network: nn.Module) -> None:
        """Copy what is not averaged: the running statistics of batch norm, which need not be done in every step."""
        parameters = dict(network.named_parameters())
        for name, value in network.state_dict().items():
            if name not in parameters:
                self.state[name].copy_(value)
