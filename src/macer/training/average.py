"""The exponential moving average of a network's weights."""

import torch
from torch import nn


class MovingAverage:
    """average <- decay * average + (1 - decay) * weights after each step; buffers are copied as they are.

    In the first steps the decay is (1 + step) / (10 + step) where that is smaller, so that the random initial weights
    are soon forgotten.

    Args:
        network: whose weights to follow.
        decay: of the average, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = {name: value.detach() for name, value in network.named_parameters()}
        followed = [self.state[name] for name in current]
        self.copy_buffers(network)
        torch._foreach_lerp_(followed, list(current.values()), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def copy_buffers(self, network: nn.Module) -> None:
        """Take over what is not averaged: the running statistics."""
        parameters = dict(network.named_parameters())
        for name, value in network.state_dict().items():
            if name not in parameters:
                self.state[name].copy_(value)
