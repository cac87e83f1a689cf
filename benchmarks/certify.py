"""How fast certification is: the original's, ours, and the network's own forward pass, side by side in one process.

    python benchmarks/certify.py --reference DIR

DIR is a checkout of the original repository (github.com/RuntianZ/macer); without it, only ours and the forward pass are
compared. Where the processor has bfloat16, the forward pass and ours are measured in it, too. Each round gives every
contender the same time, one after the other; ratios are taken within a round, and their median and range over the
rounds are printed. Absolute rates mean little on a shared machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from macer import models
from macer.compute.device import exact_float32, has_fast_bfloat16
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import compiled, fastest, folded
from macer.smoothing import SmoothedClassifier

NETWORKS = {
    "lenet": (1, 28, 28),
    "resnet9-24": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet110": (3, 32, 32),
    "resnet50": (3, 224, 224),
}
CLASSES = {"resnet50": 1000}
BATCHES = {"cpu": (100, 200, 400), "cuda": (1000, 4000)}
COMPARED = {
    "ours": ("forward pass", "original"),
    "ours, bf16": ("forward pass", "forward pass, bf16", "original"),
}
Work = Callable[[int], Any]
"""Evaluates about so many noisy images."""


def rate(work: Work, samples: int, device: torch.device) -> float:
    """Samples a second of one call."""
    _wait(device)
    started = time.perf_counter()
    work(samples)
    _wait(device)
    return samples / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def forward_passes(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, *, compile: bool
) -> dict[str, Work]:
    """The bare forward pass in every batch size, memory format and preparation that is tried."""

    def passes(forward: Callable, batch: torch.Tensor) -> Work:
        @torch.inference_mode()
        def work(samples: int) -> None:
            with exact_float32(device):  # as ours, not in TF32
                for _ in range(ceil(samples / len(batch))):
                    forward(batch)

        return work

    contenders = {}
    fast = folded(network).to(dtype)
    plain = network.to(dtype, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for size in BATCHES[device.type]:
        batch = torch.rand(size, *shape, device=device).to(dtype)
        contenders[f"plain, {size}"] = passes(plain, batch)
        contenders[f"folded, channels last, {size}"] = passes(fast, batch)
        if compile:
            contenders[f"compiled, {size}"] = passes(compiled(fast, batch), batch)
    return contenders


def ours(
    network: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compile: bool,
) -> Work:
    """Our certification of one image, with everything on: noise in whole grey levels, as for 8-bit images."""
    batch = torch.rand(size, *shape, device=device)
    with exact_float32(device):  # TF32 is too coarse for the comparison of the network with its faster forms
        rounded = InBFloat16(network, batch) if dtype == torch.bfloat16 else None
        classifier = SmoothedClassifier(rounded or network, 0.25, classes, batch_size=size)
        if rounded is None:
            classifier.evaluate_with(fastest(network, batch, compile=compile)[0])
        elif compile:
            rounded.compile_for(batch)
    image = torch.randint(256, shape) / 255
    return lambda samples: classifier.certify(image, 100, samples - 100, 0.001)


def original(network: nn.Module, shape: tuple[int, ...], classes: int, device: torch.device) -> Work:
    """The original's certification of one image, with its batch size."""
    from rs.core import Smooth  # of the checkout

    smooth = Smooth(network, classes, 0.25, device)
    image = torch.rand(shape, device=device)
    return lambda samples: smooth.certify(image, 100, samples - 100, 0.001, 1000)


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the original repository")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which, by name")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contender in each round")
    parser.add_argument("--no-compile", action="store_true", help="deep networks compile for minutes on few cores")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.reference:
        sys.path.insert(0, str(options.reference.resolve()))
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    dtypes = {"": torch.float32}
    if has_fast_bfloat16(device.type):
        dtypes[", bf16"] = torch.bfloat16
    for name in options.networks.split(","):
        shape, classes = NETWORKS[name], CLASSES.get(name, 10)

        def build(name: str = name, shape: tuple[int, ...] = shape, classes: int = classes) -> nn.Module:
            torch.manual_seed(0)
            return models.build(name, classes, shape).eval().to(device)

        contenders = {}
        for suffix, dtype in dtypes.items():
            tried = {}
            for how, work in forward_passes(build(), shape, device, dtype, compile=not options.no_compile).items():
                work(1)
                tried[how] = (rate(work, _samples(work, options.seconds / 4, device), device), work)
            best = max(tried, key=lambda how: tried[how][0])
            print(f"{name}: best forward pass{suffix}: {best}")
            contenders[f"forward pass{suffix}"] = tried[best][1]
            size, compile = int(best.rsplit(" ", 1)[1]), not options.no_compile
            contenders[f"ours{suffix}"] = ours(build(), shape, classes, size, device, dtype, compile=compile)
        if options.reference:
            contiguous = build().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            contenders["original"] = original(contiguous, shape, classes, device)
        counts = {}
        for contender, work in contenders.items():
            work(1100)  # warm up
            counts[contender] = _samples(work, options.seconds, device)
        rounds = [
            {contender: rate(work, counts[contender], device) for contender, work in contenders.items()}
            for _ in range(options.rounds)
        ]
        for contender in contenders:
            print(f"  {contender:17} {statistics.median(each[contender] for each in rounds):10,.0f} samples/s")
        for one, others in COMPARED.items():
            for other in others:
                if one in contenders and other in contenders:
                    print(f"  {one} / {other}: {spread([each[one] / each[other] for each in rounds])}", flush=True)


def _samples(work: Work, seconds: float, device: torch.device) -> int:
    """About as many samples as take so long, in whole batches of every size that is tried where that is possible."""
    few = rate(work, 400, device) * seconds  # a first guess, off by what starting costs
    return max(400, round(rate(work, max(400, round(few / 4)), device) * seconds / 2000) * 2000)


if __name__ == "__main__":
    main()
