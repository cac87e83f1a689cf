"""The same network, evaluated faster: batch norm folded into convolutions, channels last, compiled.

What is certified is the network as it was given. A faster evaluation differs from it by rounding, which
`SmoothedClassifier` allows for: votes that rounding could turn are taken from the network itself. Here it is checked
that the difference is rounding indeed; where it is not, the network is evaluated as it is.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Logits = Callable[[Float[Tensor, "batch channels height width"]], Float[Tensor, "batch classes"]]
"""From images to logits."""

ROUNDINGS = 250
"""How many roundings of the largest logit a faster evaluation may be away: a quarter of what settling ties allows."""


def folded(network: nn.Module) -> nn.Module:
    """A copy of the network in which each batch norm behind a convolution is part of it, in channels-last format.

    In eval mode batch norm is an affine map a channel, and so is a convolution followed by one: the same function in
    exact arithmetic. A network whose forward pass cannot be traced, or without such a pair, is copied as it is, and one
    that cannot be copied is returned.

    Args:
        network: in eval mode.
    """
    try:
        network = copy.deepcopy(network).eval()
    except Exception:  # it may hold what is not Python's, such as another library's session
        return network
    try:
        graph = fx.symbolic_trace(network)
    except Exception:  # control flow that depends on data, or code that only runs for real tensors
        return _channels_last(network)
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if before is None or node.op != "call_module" or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if not (type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats):
            continue
        if _uses(graph, before.target) > 1 or _uses(graph, node.target) > 1:
            continue  # the same layer elsewhere is not followed by this batch norm
        graph.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.recompile()
    return _channels_last(graph)


def _uses(graph: fx.GraphModule, target: object) -> int:
    return sum(node.op == "call_module" and node.target == target for node in graph.graph.nodes)


def _channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compiled(network: nn.Module, batch: Float[Tensor, "batch channels height width"]) -> Logits:
    """The network compiled for batches of this shape; batches of another shape are evaluated as they were before.

    Takes seconds for a small network and a minute for a deep one. On a CPU the weights are laid out once for its
    matrix instructions; on a GPU the kernels of a pass are launched together, as a CUDA graph.

    Args:
        network: in eval mode.
        batch: noisy images, as many as are evaluated at once.

    Raises:
        Exception: whatever the compiler raises, such as for want of a C++ compiler.
    """
    options: dict[str, Any] = {"freezing": True} if batch.device.type == "cpu" else {"triton.cudagraphs": True}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of its own parts
        program = torch.compile(network, dynamic=False, options=options)
        program(batch)

    def logits(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        with torch.no_grad():
            return program(images) if images.shape == batch.shape else network(images)

    return logits


def is_the_same(fast: Logits, network: nn.Module, batch: Float[Tensor, "batch channels height width"]) -> bool:
    """Whether two evaluations of a batch differ by no more than ROUNDINGS roundings of its largest logit."""
    with torch.no_grad():
        expected, found = network(batch), fast(batch)
    allowed = ROUNDINGS * torch.finfo(expected.dtype).eps * expected.abs().max()
    return expected.shape == found.shape and bool((expected - found).abs().max() <= allowed)


def fastest(
    network: nn.Module, batch: Float[Tensor, "batch channels height width"], *, compile: bool = False
) -> tuple[Logits, str]:
    """The fastest evaluation of the network that is to be had here, and what it is, in words.

    Args:
        network: in eval mode, on its device.
        batch: noisy images, as many as will be evaluated at once, on that device.
        compile: whether to compile, which pays from some minutes of work on.
    """
    network = network.eval()
    plain = folded(network)
    prepared = "folded, channels last" if isinstance(plain, fx.GraphModule) else "channels last"
    candidates: list[tuple[Callable[[], Logits], str]] = [(lambda: plain, prepared)]
    if compile:
        candidates.insert(0, (lambda: compiled(plain, batch), f"{prepared}, compiled"))
    for build, description in candidates:
        try:
            fast = build()
        except Exception:  # compilers fail in many ways, and none of them is a reason not to certify
            continue
        if is_the_same(fast, network, batch):
            return fast, description
    return network, "as given"
