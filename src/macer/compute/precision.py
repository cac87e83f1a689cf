"""Mixed precision in which a training step may take gradients of its own."""

from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.precision import Precision


class BFloat16Mixed(MixedPrecision):
    """Products in bfloat16, weights in float32, without a loss scale.

    Fabric refuses every gradient but that of `Fabric.backward` where a precision has a `backward` of its own, as its
    own bf16-mixed has for a loss scale that bfloat16 does not need. Attacks take the gradient with respect to images.
    """

    backward = Precision.backward

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)
