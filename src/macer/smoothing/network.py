"""Calls to any network: outputs that hold logits in one way or another, and eval mode for the duration of a task."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.errors import SettingsError

_ONE_THREAD = threading.RLock()
"""Held by the thread whose network is in eval mode."""


def logits_of(output: object) -> Tensor:
    """Return the logits in a network's output: the output itself, its attribute `logits`, or its entry "logits".

    Raises:
        SettingsError: the output is none of these, such as a tuple, or the logits are not floating-point numbers.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise SettingsError(
            f"the network returned a {type(output).__name__}: wrap it so that it returns a tensor of logits "
            "(batch, classes), or an object or dictionary with logits"
        )
    if not output.is_floating_point():
        raise SettingsError(f"the network returned numbers of type {output.dtype}, not floating-point logits")
    return output


def logits_of_copies(
    network: nn.Module, copies: Float[Tensor, "batch k channels height width"]
) -> Float[Tensor, "batch k classes"]:
    """Evaluate a network on k noisy copies of each image, and return the logits in float32 or more."""
    logits = logits_of(network(copies.flatten(0, 1)))
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(0, copies.shape[:2])


def scale_of(logits: Float[Tensor, "batch classes"]) -> Tensor:
    """Return the size of the logits that decide: the largest of each image's two largest ones.

    Comparisons are made relative to it. The other logits say nothing about rounding: a class that is masked may have
    one of -1e9.
    """
    return logits.topk(2, dim=1).values.abs().max()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each of its modules back into its own mode at the end.

    Other threads wait: the first one to finish would put a network that two have in common back into training mode, and
    PyTorch's precision with it, which is the whole process's (`compute.device.exact_float32`).
    """
    with _ONE_THREAD:
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            yield
        finally:
            for module, mode in modes:  # parents come first
                if module.training != mode:
                    module.train(mode)  # which may do more than set the flag, as in layers that merge their weights
