"""Backward passes for those noisy images alone that carry the gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from macer.smoothing.network import logits_of


class SampledBackward(nn.Module):
    """A network whose backward pass is made for a sample of its inputs: the expected gradient is the exact one.

    Once most noisy images are classified without doubt, most rows of the gradient with respect to the logits are almost
    0. The forward pass here keeps no activations; on the way back rows are kept with probabilities in proportion to
    their length, divided by these probabilities, and the network is evaluated again on them: importance sampling, which
    leaves the gradient's expectation as it is, before any clipping, and adds the least variance to the gradient at the
    logits for that many rows (Katharopoulos and Fleuret 2018, arXiv 1803.00942, section 3.2, who propose that gradient
    for a bound on the parameters').

    For networks that treat each input by itself and alike when asked again (in training no batch norm, no dropout), and
    losses of the logits alone: there is no gradient with respect to the inputs.

    Args:
        network: whose gradients to estimate.
        share: of the inputs that are kept on average, in (0, 1].
        generator: what the choice is drawn from.
    """

    def __init__(self, network: nn.Module, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self._kept_apart = (network,)  # not a part of this module, whose parameters would else be another's
        self.share, self.generator = share, generator

    def forward(self, inputs: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows classes"]:
        """The network's logits."""
        (network,) = self._kept_apart
        anchor = torch.empty(0, device=inputs.device, requires_grad=True)  # makes autograd call `backward`
        return _Sampled.apply(anchor, inputs, network, self.share, self.generator)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, inputs: Tensor, network: nn.Module, share: float, generator: torch.Generator
    ) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.network, ctx.share, ctx.generator = network, share, generator
        return logits_of(network(inputs))  # autograd is off in here

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        (inputs,), (gradient,) = ctx.saved_tensors, gradients
        probabilities = keep_probabilities(gradient.float().norm(dim=1), ctx.share)
        drawn = torch.rand(len(gradient), generator=ctx.generator, device=ctx.generator.device)
        kept = (drawn.to(gradient.device) < probabilities).nonzero().squeeze(1)
        if len(kept):
            with torch.enable_grad():
                logits = logits_of(ctx.network(inputs[kept]))
            torch.autograd.backward(logits, (gradient[kept] / probabilities[kept].unsqueeze(1)).to(logits.dtype))
        return None, None, None, None, None


def keep_probabilities(lengths: Float[Tensor, " rows"], share: float) -> Float[Tensor, " rows"]:
    """min(1, c * length) with the c that makes them sum to share * rows; where fewer rows have any length, 1 for those.

    Args:
        lengths: of the rows of the gradient.
        share: in (0, 1].
    """
    rows = len(lengths)
    descending = lengths.sort(descending=True).values
    rest = descending.flip(0).cumsum(0).flip(0)  # the sum from each place on
    # With the first i rows at 1, the others share what is left: c = (share * rows - i) / rest_i. The right i is the
    # first at which that leaves the longest of the others no more than 1.
    left = share * rows - torch.arange(rows, device=lengths.device)
    fits = left * descending <= rest
    first = int(fits.int().argmax()) if bool(fits.any()) else rows - 1
    factor = left[first] / rest[first].clamp_min(torch.finfo(lengths.dtype).tiny)
    # A row that is not finite is kept, so that it is not hidden.
    return torch.where(lengths == 0, 0.0, (factor * lengths).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0))
