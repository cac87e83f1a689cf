"""Refuse a network that is no function of one image: samples would not be independent, and no certificate would hold.

Certificates take the logits of a noisy image for a function of that image alone. Batch norm by the statistics of the
batch, dropout that stays on, quantisation by the range of a batch, or a state kept between calls all break this, and
the bound on p_A means nothing. Modules that do so are refused by name, and any other network by what it does on
the real noise. What no test can find is in docs/certification.md.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from macer.errors import SettingsError
from macer.smoothing.network import scale_of

Batch = Float[Tensor, "samples channels height width"]
Logits = Float[Tensor, "samples classes"]

_IN_PLACE = 500
"""Roundings of the largest logit by which other images in the same batch may change an image's logits. On CPUs our
networks change by none in float32, in bfloat16, folded, compiled or as ONNX, because a row of a matrix product does not
depend on the other rows. Half of what counts as a near-tie (`sampling`), so that no vote of these samples turns."""
_ELSEWHERE, _ELSEWHERE_IN_16_BITS = 0.05, 0.1
"""Share of the largest logit by which logits may change at another place in a batch of another size, where kernels add
up in another order. Our networks change by none between batches of 100 and 200 on CPUs, and by 1e-6 for single images;
weights of 16 bits on GPUs round to 2^-8 in each layer, and changed an untrained ResNet-110 by 0.05 on an H100."""
_TURNED = 0.05
"""Share of the samples whose class may change then, because their largest logits are that close."""


def check_modules(network: nn.Module) -> None:
    """Refuse a network that contains modules which mix the images of a batch, or which draw random numbers.

    Args:
        network: in eval mode.

    Raises:
        SettingsError: there is such a module; the message has its path and what to use in its place.
    """
    for path, module in network.named_modules():
        if fault := _fault(module):
            name = f"{path!r} of the network" if path else "the network"
            raise SettingsError(f"{name} is {type(module).__name__}, which {fault}")


def _fault(module: nn.Module) -> str | None:
    if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
        return "has no weights before its first batch: evaluate the network once, or load its weights"
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        return (
            "normalises by the statistics of the batch, so that the noise samples are not independent: "
            "use track_running_stats=True, GroupNorm or InstanceNorm"
        )
    if isinstance(module, _BatchNorm | _DropoutNd | nn.RReLU) and module.training:
        return "stays in training mode after eval(), so that its outputs depend on chance or on the other images"
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d) and module._random_samples is None:
        return "pools random regions, in eval mode as well: use MaxPool2d, or give it _random_samples"
    return None


def check_independence(
    image: Float[Tensor, "channels height width"],
    noisy: Batch,
    logits: Logits,
    fresh: Float[Tensor, "block channels height width"],
    *,
    evaluate: Callable[[Batch], Logits],
    network: Callable[[Batch], Logits],
    dtype: torch.dtype,
) -> None:
    """Refuse a network whose logits for a noisy image depend on anything but that image.

    A random half of a real batch stays in place while black and white images take the places of the other half. The
    other half moves to random places among fresh noisy copies of the image, a batch that looks like any other.

    Args:
        image: the image.
        noisy: noisy copies of it, as many as are evaluated at once.
        logits: what `evaluate` returned for them.
        fresh: one block of other noisy copies of the image.
        evaluate: the evaluation in use.
        network: the network itself.
        dtype: the type of its weights.

    Raises:
        SettingsError: the logits of an image depend on the other images, on its place in the batch, on the batch size,
            on chance or on earlier calls, the network writes into its images, or `evaluate` is another function than
            the network.
    """
    order = torch.randperm(len(noisy), generator=torch.Generator().manual_seed(len(noisy))).to(noisy.device)
    kept, moved = order[::2], order[1::2][: len(fresh) // 2]
    mixed = noisy - image
    mixed[::2] += 1
    mixed[kept] = noisy[kept]
    in_place = min(_IN_PLACE * torch.finfo(logits.dtype).eps, _ELSEWHERE)  # roundings of 16 bits exceed all there is
    elsewhere = _ELSEWHERE if torch.finfo(dtype).bits > 16 else _ELSEWHERE_IN_16_BITS
    given = mixed.clone()
    beside_others = evaluate(mixed)
    if not torch.equal(mixed, given):
        raise SettingsError("the network writes into the images that it is given: let it begin with a copy of them")
    if found := _difference(logits[kept], beside_others[kept], in_place):
        if again := _difference(beside_others, evaluate(mixed), in_place):
            raise _refusal("change when the same batch is evaluated again, by chance or by what came before", again)
        raise _refusal("depend on the other images of the batch", found)
    places = torch.randperm(len(fresh), generator=torch.Generator().manual_seed(0))[: len(moved)].to(noisy.device)
    block = fresh.clone()
    block[places] = noisy[moved]
    if found := _difference(logits[moved], network(block)[places], elsewhere):
        if another := _difference(logits, network(noisy), elsewhere):
            raise _refusal("are others in the faster evaluation than in the network as it was given", another)
        raise _refusal("depend on the rest of the batch: other images, its place among them, or their number", found)


def _difference(expected: Logits, found: Logits, allowed: float) -> str | None:
    """Return in words how two evaluations differ; None if by no more than this share of the largest logit."""
    largest = scale_of(expected)
    difference = (expected - found).abs().max()
    turned = (expected.argmax(1) != found.argmax(1)).sum()
    if bool(difference <= allowed * largest) and bool(turned <= _TURNED * len(expected)):
        return None
    share = (difference / largest).item()
    return f"by up to {share:.2g} of the largest logit; {int(turned)} of {len(expected)} samples change their class"


def _refusal(what: str, difference: str) -> SettingsError:
    return SettingsError(
        f"the network's logits for an image {what} ({difference}): its noise samples are not independent, so that "
        "nothing can be certified; a network that was exported in training mode does this, too"
    )
