"""Evaluate the same network faster: batch norm folded into convolutions, channels-last memory, compilation.

What is certified is the network as it was given. A faster evaluation differs from it by rounding, which
`SmoothedClassifier.evaluate_with` allows for: votes that rounding could turn are taken from the network itself. This
module checks that the difference is no more than rounding; otherwise the network is evaluated as it was given.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from macer.smoothing.network import logits_of, scale_of
from macer.smoothing.sampling import Evaluation

ROUNDINGS = 250
"""A faster evaluation may differ by so many roundings of the largest logit: a quarter of what counts as a near-tie."""


def folded(network: nn.Module) -> nn.Module:
    """Return a copy of the network with each batch norm folded into the convolution before it, in channels-last memory.

    In eval mode batch norm is an affine map per channel, so that the folded convolution is the same function in exact
    arithmetic. Tracing only says which layers follow each other: the copy runs the network's own code, because a trace
    lacks hooks of the network and holds constants in place of random numbers and of what depends on types. A network
    that cannot be traced, or that has no such pair, is copied as it is. A network that cannot be copied is returned
    itself.

    Args:
        network: in eval mode.
    """
    try:
        copied, traced = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    except Exception:  # it may hold an object that cannot be copied, such as another library's session
        return network
    replaced: dict[nn.Module, nn.Module] = {}
    for first, second in _convolutions_and_norms(traced):
        convolution, norm = copied.get_submodule(first), copied.get_submodule(second)
        if not (type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats):
            continue
        if not (_does_more(convolution) or _does_more(norm)):
            replaced |= {convolution: fuse_conv_bn_eval(convolution, norm), norm: nn.Identity()}
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if module in replaced:
            copied.set_submodule(name, replaced[module])
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _convolutions_and_norms(network: nn.Module) -> list[tuple[str, str]]:
    """Return the names of layers that are used once and feed one other layer alone, each with that one's name."""
    try:
        nodes = [node for node in fx.symbolic_trace(network).graph.nodes if node.op == "call_module"]
    except Exception:  # control flow that depends on data, or code that only runs for real tensors
        return []
    uses = Counter(node.target for node in nodes)
    pairs = [(node.args[0], node) for node in nodes if node.args and node.args[0] in nodes]
    return [
        (str(first.target), str(second.target))
        for first, second in pairs
        if len(first.users) == uses[first.target] == uses[second.target] == 1
    ]


def _does_more(module: nn.Module) -> bool:
    """Return whether a module has hooks or a forward of its own, and so does more than its type says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def compiled(network: nn.Module, batch: Float[Tensor, "batch channels height width"]) -> Evaluation:
    """Return the network compiled for batches of this shape; batches of another shape go through it uncompiled.

    This takes seconds for a small network and a minute for a deep one. On a CPU the weights are laid out once for
    its matrix instructions; on a GPU the kernels of a pass are launched together, as a CUDA graph.

    Args:
        network: in eval mode.
        batch: noisy images, as many as will be evaluated at once.

    Raises:
        Exception: any error of the compiler, for example if there is no C++ compiler.
    """
    options: dict[str, Any] = {"freezing": True} if batch.device.type == "cpu" else {"triton.cudagraphs": True}
    shape = batch.shape

    def run(images: Tensor) -> Any:
        # Always on tensors of inference mode, as certifying has them: for others it would be compiled once more.
        with torch.inference_mode():
            return program(images if images.is_inference() else images.clone())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the compiler about its own parts
        program = torch.compile(network, dynamic=False, options=options)
        run(batch)

    def evaluate(images: Float[Tensor, "batch channels height width"]) -> Any:
        with torch.no_grad():
            # Cloned, because a CUDA graph writes each output to the same place.
            return logits_of(run(images)).clone() if images.shape == shape else network(images)

    return evaluate


def is_the_same(
    fast: Evaluation,
    network: nn.Module,
    batch: Float[Tensor, "batch channels height width"],
    *,
    within: float | None = None,
) -> bool:
    """Return whether two evaluations of a batch differ by no more than a share of its `scale_of`.

    Args:
        fast: one evaluation.
        network: the other.
        batch: what they are compared on.
        within: the share. Default: ROUNDINGS roundings.
    """
    with torch.no_grad():
        expected, found = logits_of(network(batch)), logits_of(fast(batch))
    share = ROUNDINGS * torch.finfo(expected.dtype).eps if within is None else within
    return expected.shape == found.shape and bool((expected - found).abs().max() <= share * scale_of(expected))


def fastest(
    network: nn.Module, batch: Float[Tensor, "batch channels height width"], *, compile: bool = False
) -> tuple[Evaluation, str]:
    """Return the fastest evaluation of the network that works on this machine, and its description.

    Args:
        network: in eval mode, on its device.
        batch: noisy images, as many as will be evaluated at once, on that device.
        compile: whether to try to compile, which pays for work of some minutes or more.
    """
    network = network.eval()
    plain = folded(network)
    prepared = "folded, channels last"
    candidates: list[tuple[Callable[[], Evaluation], str]] = [(lambda: plain, prepared)]
    if compile:
        candidates.insert(0, (lambda: compiled(plain, batch), f"{prepared}, compiled"))
    for build, description in candidates:
        try:
            fast = build()
        except Exception:  # compilers fail in many ways, and none is a reason not to certify
            continue
        if is_the_same(fast, network, batch):
            return fast, description
    return network, "as given"
