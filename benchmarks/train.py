"""How fast training steps are: the original's, ours, and the network's own passes, side by side in one process.

    python benchmarks/train.py --reference DIR

DIR is a checkout of the original repository (github.com/RuntianZ/macer); without it, only ours and the floor are
compared. All train the same network from the same weights. Ours is an epoch of `macer.training.train`, timed by itself
as in every run (the column `seconds` of metrics.tsv): its own batches, augmentation, noise, both losses, schedule and
log. The original is its `macer_train` on a copy in PyTorch's default memory format, which is what its main program has;
it gets the same images as batches that are ready, so that loading and augmenting cost it nothing. The floor is k times
the bare forward and backward pass of the network, at the best batch size and memory format (and with `--compile`
compilation) of those that are tried. Where the processor has
bfloat16, all but the original are measured in it, too, and compared with the floor in float32 as well.

A round is an epoch of ours, as many steps of the original's, and as many noisy images of the floor. Ratios are taken
within a round; their median and range over the rounds are printed. Absolute rates mean little on a shared machine.
"""

import argparse
import copy
import importlib.util
import io
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from macer import data, models
from macer.compute.device import find_device, has_fast_bfloat16, open_fabric
from macer.data import InMemoryImages, LabelledImages
from macer.objectives import Macer
from macer.runs.run import Run
from macer.training import TrainingSettings, train


@dataclass(frozen=True)
class Case:
    """What a network is trained on, and how much of it in a round.

    Attributes:
        dataset: the data set, which lies in a folder of this name.
        shape: (channels, height, width) of its images.
        augment: whether ours crops and flips.
        batch_size: images a step.
        gauss_num: k, noisy copies of each.
        steps: of a round.
    """

    dataset: str
    shape: tuple[int, int, int]
    augment: bool
    batch_size: int
    gauss_num: int
    steps: int

    @property
    def samples(self) -> int:
        """Noisy images of a round."""
        return self.steps * self.batch_size * self.gauss_num


CASES = {
    "lenet": Case("mnist", (1, 28, 28), False, batch_size=256, gauss_num=16, steps=1),
    "resnet9-24": Case("cifar10", (3, 32, 32), True, batch_size=128, gauss_num=2, steps=2),
    "resnet20": Case("cifar10", (3, 32, 32), True, batch_size=64, gauss_num=16, steps=1),
    "resnet110": Case("cifar10", (3, 32, 32), True, batch_size=16, gauss_num=4, steps=2),
}
PASSES = {"cpu": (16, 64, 256, 1024), "cuda": (256, 1024, 4096)}
"""Batch sizes tried for the bare passes, as far as a step has so many noisy images."""
TRIES = 3
"""Of each of them; its fastest counts, which other work on the machine disturbs least."""
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}

Work = Callable[[], int]
"""Evaluates noisy images and says how many."""


def rate(work: Work, device: torch.device) -> float:
    """Noisy images a second of one call."""
    _wait(device)
    started = perf_counter()
    samples = work()
    _wait(device)
    return samples / (perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def load_original(directory: Path) -> Callable[..., None]:
    """The original's `macer_train`. Its module is called macer, as our package is, so it gets another name here."""
    spec = importlib.util.spec_from_file_location("original_macer", directory / "macer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(directory.resolve()))  # it imports its package rs
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(directory.resolve()))
    return module.macer_train


def original(
    macer_train: Callable[..., None],
    network: nn.Module,
    settings: TrainingSettings,
    batches: Sequence[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
) -> Work:
    """The original's training on these batches, of a copy of the network, with its optimizer and our settings."""
    objective = settings.objective
    assert isinstance(objective, Macer)
    network = copy.deepcopy(network).to(device, memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    samples = sum(len(labels) for _, labels in batches) * objective.gauss_num

    def work() -> int:
        # It prints its losses; its main program lets cuDNN choose by measuring.
        with redirect_stdout(io.StringIO()), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            macer_train(
                objective.sigma,
                objective.lbd,
                objective.gauss_num,
                objective.beta,
                objective.gamma,
                num_classes,
                network,
                batches,
                optimizer,
                device,
            )
        return samples

    return work


def ready_batches(images: LabelledImages, batch_size: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """The first images of a split, as a data loader would hand them over."""
    pairs = [images[index] for index in range(min(len(images), batch_size * steps))]
    parts = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    return [
        (torch.stack([image for image, _ in part]), torch.tensor([label for _, label in part], dtype=torch.int64))
        for part in parts
    ]


def bare_passes(
    network: nn.Module, shape: tuple[int, ...], sizes: Sequence[int], fabric: Any, *, compile: bool
) -> Iterator[tuple[str, Callable[[int], int]]]:
    """Forward and backward passes of about so many samples, in every batch size and memory format that is tried."""
    for size, (name, memory_format) in product(sizes, FORMATS.items()):
        prepared = copy.deepcopy(network).to(memory_format=memory_format).train()  # type: ignore[call-overload]
        batch = torch.rand(size, *shape, device=fabric.device)
        yield f"{name}, batch {size}", partial(_passes, fabric.setup_module(prepared), batch, fabric)
        if compile:
            program = fabric.setup_module(torch.compile(copy.deepcopy(prepared)))
            yield f"{name}, compiled, batch {size}", partial(_passes, program, batch, fabric)


def _passes(network: nn.Module, batch: Tensor, fabric: Any, samples: int) -> int:
    count = ceil(samples / len(batch))
    for _ in range(count):
        network.zero_grad()
        fabric.backward(network(batch).sum())
    return count * len(batch)


def fastest_passes(network: nn.Module, case: Case, fabric: Any, *, compile: bool) -> tuple[str, Work]:
    """The floor's work of a round, and how it is done: the fastest, trying each on a quarter of a step in turn."""
    step = case.batch_size * case.gauss_num
    sizes = [size for size in PASSES[fabric.device.type] if size <= step] or [step]
    ways = dict(bare_passes(network, case.shape, sizes, fabric, compile=compile))
    for work in ways.values():
        work(1)  # warm up
    tries = [
        {how: rate(partial(work, ceil(step / 4)), fabric.device) for how, work in ways.items()} for _ in range(TRIES)
    ]
    best = max(ways, key=lambda how: max(each[how] for each in tries))
    return best, partial(ways[best], case.samples)


def measure(
    settings: TrainingSettings, images: LabelledImages, directory: Path, network: nn.Module, others: dict[str, Work]
) -> list[dict[str, float]]:
    """Noisy images a second of ours and the others, in every round.

    Args:
        settings: of our training: an epoch a round, and one before the first to warm up.
        images: what it trains on.
        directory: for its run.
        network: whose weights it starts from.
        others: what works after each epoch.
    """
    device = open_fabric(settings.device).device
    rounds: list[dict[str, float]] = []
    train(
        settings,
        images,
        directory,
        console=Console(file=io.StringIO()),
        initial=network.state_dict(),
        after_epoch=lambda _epoch, _file: rounds.append({name: rate(work, device) for name, work in others.items()}),
    )
    curve = zip(column(directory, "noisy_images"), column(directory, "seconds"), strict=True)
    ours = [samples / seconds for samples, seconds in curve]
    return [{"ours": own, **each} for own, each in zip(ours, rounds, strict=True)][1:]


def column(run: Path, name: str) -> list[float]:
    """A column of a run's metrics.tsv, a number an epoch."""
    return Run(run).metrics()[name].tolist()


def random_images(case: Case) -> InMemoryImages:
    """Random pixels and labels in the shape of the data set, as many as a round needs."""
    count = case.steps * case.batch_size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *case.shape), generator=draw).to(torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=draw)
    return InMemoryImages(case.dataset, "train", pixels, labels, tuple("0123456789"), augment=case.augment)


def spread(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def report(rounds: Sequence[dict[str, float]]) -> Iterator[str]:
    """The lines that say what was measured."""
    for contender in rounds[0]:
        yield f"  {contender:13} {statistics.median(each[contender] for each in rounds):10,.0f} noisy images/s"
    for other in list(rounds[0])[1:]:
        yield f"  ours / {other}: {spread([each['ours'] / each[other] for each in rounds])}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the original repository")
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES), help="which")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--root", type=Path, help="directory with folders mnist and cifar10; without it random images")
    parser.add_argument("--batch-size", type=int, help="images a step [each network's own]")
    parser.add_argument("--gauss-num", type=int, help="k [each network's own]")
    parser.add_argument("--steps", type=int, help="of a round [each network's own]")
    parser.add_argument("--compile", action="store_true", help="compile ours; try compiled passes; takes minutes")
    parser.add_argument(
        "--precision",
        nargs="+",
        help="of ours and the floor, as Lightning Fabric names it [32-true, and bf16-mixed where the processor has it]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args(arguments)
    device = find_device(options.device)
    precisions = options.precision or ["32-true", *(["bf16-mixed"] if has_fast_bfloat16(device.type) else [])]
    fabrics = {precision: open_fabric(options.device, precision) for precision in precisions}
    macer_train = load_original(options.reference) if options.reference else None
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for name in options.networks:
        chosen = {key: getattr(options, key) for key in ("batch_size", "gauss_num", "steps")}
        case = replace(CASES[name], **{key: value for key, value in chosen.items() if value})
        root = options.root and options.root / case.dataset
        images = data.load(case.dataset, root, "train") if root else random_images(case)
        settings = TrainingSettings(
            objective=Macer(gauss_num=case.gauss_num),  # lambda from the first step on
            dataset=case.dataset,
            network=name,
            num_images=case.steps * case.batch_size,
            epochs=options.rounds + 1,
            batch_size=case.batch_size,
            device=options.device,
            compile="yes" if options.compile else "auto",
        )
        torch.manual_seed(0)
        network = models.build(name, images.num_classes, case.shape)
        others = {}
        if macer_train:
            batches = ready_batches(images, case.batch_size, case.steps)
            others["original"] = original(macer_train, network, settings, batches, images.num_classes, device)
        shown = f"{case.dataset}'s images" if root else f"random images of {case.dataset}'s shape"
        print(f"{name}: {shown}, batch {case.batch_size}, k = {case.gauss_num}, {case.steps} steps a round")
        for precision, fabric in fabrics.items():
            best, others["floor"] = fastest_passes(network, case, fabric, compile=options.compile)
            with tempfile.TemporaryDirectory() as directory:
                own = replace(settings, precision=precision)
                rounds = measure(own, images, Path(directory) / "run", network, others)
            print(f"  {precision}: floor: {best}")
            print(*report(rounds), sep="\n", flush=True)
            others[f"{precision} floor"] = others.pop("floor")  # what follows is compared with it, too


if __name__ == "__main__":
    main()
