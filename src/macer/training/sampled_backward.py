"""Backward passes for a random part of the noisy images, without changing the expected gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.smoothing.network import logits_of


class SampledBackward(nn.Module):
    """A network whose backward pass uses a random part of its inputs. The expected gradient is the exact one.

    Once most noisy images are classified with confidence, most rows of the gradient with respect to the logits are
    almost 0. The forward pass here keeps no activations. The backward pass selects rows with probabilities proportional
    to their length, evaluates the network again on these, and divides their gradients by the probabilities. This is
    importance sampling: it keeps the expectation of the gradient, before clipping, and adds the least variance to the
    gradient at the logits that so many rows allow (Katharopoulos and Fleuret 2018, arXiv 1803.00942, section 3.2, who
    propose this gradient for a bound on that of the parameters).

    The network must treat each input by itself and give the same answer twice: in training, no batch norm and no
    dropout. There is no gradient with respect to the inputs.

    Args:
        network: whose gradients to estimate.
        fraction: of the inputs that are selected on average, in (0, 1].
        generator: what the selection is drawn from.
    """

    def __init__(self, network: nn.Module, fraction: float, generator: torch.Generator) -> None:
        super().__init__()
        self._unregistered = (network,)  # in a tuple, so that its parameters are not this module's
        self.fraction, self.generator = fraction, generator

    def forward(self, inputs: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows classes"]:
        """Return the network's logits."""
        (network,) = self._unregistered
        anchor = torch.empty(0, device=inputs.device, requires_grad=True)  # makes autograd call `backward`
        return _Sampled.apply(anchor, inputs, network, self.fraction, self.generator)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, inputs: Tensor, network: nn.Module, fraction: float, generator: torch.Generator
    ) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.network, ctx.fraction, ctx.generator = network, fraction, generator
        return logits_of(network(inputs))  # autograd is off in here

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        (inputs,), (gradient,) = ctx.saved_tensors, gradients
        probabilities = keep_probabilities(gradient.float().norm(dim=1), ctx.fraction)
        drawn = torch.rand(len(gradient), generator=ctx.generator, device=ctx.generator.device, dtype=torch.float32)
        kept = (drawn.to(gradient.device) < probabilities).nonzero().squeeze(1)
        if len(kept):
            with torch.enable_grad():
                logits = logits_of(ctx.network(inputs[kept]))
            torch.autograd.backward(logits, (gradient[kept] / probabilities[kept].unsqueeze(1)).to(logits.dtype))
        return None, None, None, None, None


def keep_probabilities(lengths: Float[Tensor, " rows"], fraction: float) -> Float[Tensor, " rows"]:
    """Return probabilities min(1, c * length) with the c that makes them sum to fraction * rows.

    Where fewer rows have a length above 0, their probabilities are 1.

    Args:
        lengths: of the rows of the gradient.
        fraction: in (0, 1].
    """
    rows = len(lengths)
    descending = lengths.sort(descending=True).values
    rest = descending.flip(0).cumsum(0).flip(0)  # the sum from each row on
    # With probability 1 for the i longest rows, the others have c = (fraction * rows - i) / rest_i. The right i is the
    # first that gives the longest of the others no more than 1.
    left = fraction * rows - torch.arange(rows, device=lengths.device, dtype=lengths.dtype)
    fits = left * descending <= rest
    first = int(fits.int().argmax()) if bool(fits.any()) else rows - 1
    factor = left[first] / rest[first].clamp_min(torch.finfo(lengths.dtype).tiny)
    # A row that is not finite is always selected, so that it shows.
    return torch.where(lengths == 0, 0.0, (factor * lengths).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0))
