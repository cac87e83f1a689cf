"""A network in bfloat16: another function than the network itself, and certified as such."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from macer.errors import SettingsError, first_line
from macer.models.fast import compiled, folded, is_the_same
from macer.smoothing.network import logits_of
from macer.smoothing.sampling import Evaluation, writing

_FOLDED = 0.001
"""Folding may change logits by this share of the largest one, far less than a rounding to 8 bits does; or by the
roundings of a network whose own numbers have few bits."""

_COMPILED = 0.05
"""A compiled evaluation may differ by this share of the largest logit: it rounds to 8 bits at fewer places."""


class InBFloat16(nn.Module):
    """A network with weights and activations in bfloat16, and its logits in float32.

    Numbers of 8 bits depend on where they are rounded: folding and compiling make other functions. So one evaluation is
    chosen, and all votes are its own. Ties of the largest logits, which are common here, go to the first class.

    Args:
        network: in eval mode.
        batch: noisy images of the network's type. Batch norm is folded into convolutions before the weights are
            rounded, in a copy that is compared with the network on these images.

    Raises:
        SettingsError: it cannot be copied, or folding makes it another function.
    """

    decides_ties = True
    """Tells `SampledNetwork` that no other evaluation may replace a vote."""

    def __init__(self, network: nn.Module, batch: Float[Tensor, "batch channels height width"]) -> None:
        super().__init__()
        given, network = network, folded(network)
        if network is given:
            raise SettingsError("the network cannot be copied, which bfloat16 needs: give `precision=32-true`")
        if not is_the_same(network, given, batch, within=max(_FOLDED, 8 * torch.finfo(batch.dtype).eps)):
            raise SettingsError(
                "the copy of the network whose batch norm is folded, which bfloat16 needs, is another function or "
                "returns logits that are not finite: give `precision=32-true`"
            )
        self.network = network.to(torch.bfloat16)
        self._program: tuple[Evaluation, int, list[object]] | None = None  # with the batch size, and its weights

    def compile_for(self, batch: Float[Tensor, "batch channels height width"]) -> None:
        """Evaluate the network compiled from now on, and in batches of this size alone: smaller ones are filled up.

        The program holds a copy of the weights. So once they are changed, the network is refused until it is compiled
        again.

        Raises:
            SettingsError: it cannot be compiled here, or is not the same up to rounding then.
        """
        batch, self._program = batch.to(torch.bfloat16), None
        try:
            program = compiled(self.network, batch)
        except Exception as error:  # compilers fail in many ways
            raise SettingsError(
                f"the network cannot be compiled on this machine ({first_line(error)}), and uncompiled it is another "
                "function in bfloat16: give `compile=no`, and another directory if this one has certificates"
            ) from error
        if not is_the_same(program, self, batch, within=_COMPILED):
            raise SettingsError("compiled in bfloat16, the network is not the same up to rounding: give `compile=no`")
        self._program = program, len(batch), self._writings()

    def _writings(self) -> list[object]:
        return [writing(each) for each in (*self.network.parameters(), *self.network.buffers())]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits.

        Raises:
            SettingsError: the weights were changed since `compile_for`.
        """
        x = x.to(torch.bfloat16)
        if self._program is None:
            return logits_of(self.network(x)).float()
        program, size, writings = self._program
        if writings != self._writings():
            raise SettingsError("the network's weights were changed after compile_for: call that again")
        filled = torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]) if len(x) < size else x
        return logits_of(program(filled))[: len(x)].float()
