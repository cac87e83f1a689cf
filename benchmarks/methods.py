"""What each training method costs: forward and backward passes per image and seconds per epoch, side by side.

    python benchmarks/methods.py

Every method trains the same network on the same random images with the settings of its recipe at sigma 0.25
(mnist/METHOD-0.25, or cifar10/METHOD-0.25 where there is none; with `--short` the short recipe), without shortcuts that
depend on the data. Methods take turns: a round is an epoch of few images of each. Seconds per epoch are the median over
the rounds, scaled to the images of the data set; ratios to Gaussian augmentation are taken within a round. Methods that
change during training are measured as they are at its end; what they do between epochs is not counted.
"""

import argparse
import io
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from macer.data import InMemoryImages
from macer.objectives import OBJECTIVES
from macer.objectives.base import END, Objective
from macer.recipes import read_recipe, recipe_names
from macer.results.records import method_name
from macer.runs.run import Run
from macer.training import TrainingSettings, resolve, train

SHAPES = {"lenet": ("mnist", (1, 28, 28), 60_000), "resnet20": ("cifar10", (3, 32, 32), 50_000)}
SHAPES["resnet110"] = SHAPES["resnet20"]


def settings_of(method: str, network: str, images: int, rounds: int, device: str, *, short: bool) -> TrainingSettings:
    """The settings of a method's recipe, for so few images that an epoch is a round."""
    dataset, _, _ = SHAPES[network]
    wanted = [f"mnist/short-{method}-0.25"] if short else [f"{each}/{method}-0.25" for each in (dataset, "cifar10")]
    recipe = next((name for name in wanted if name in recipe_names()), None)
    if recipe is None:
        sys.exit(f"there is no recipe of {method}: one of {', '.join(wanted)} is wanted")
    published = resolve(read_recipe(recipe), None, {}, where=recipe)
    return TrainingSettings(
        objective=at_its_end(published.objective),
        dataset=dataset,
        network=network,
        epochs=rounds + 1,
        batch_size=images,
        steps_per_batch=published.steps_per_batch,
        lr_milestones=(1,),
        lr=1e-4,
        device=device,
    )


def at_its_end(objective: Objective) -> Objective:
    """The method without a phase that it begins with, and without a choice of images."""
    early = {name: value for name, value in {"hard_from": 1, "warmup": 0}.items() if hasattr(objective, name)}
    steps_alone = type("StepsAlone", (type(objective),), {"image_weights": Objective.image_weights})
    return steps_alone(**(asdict(objective) | early))


def measure(settings: dict[str, TrainingSettings], images: InMemoryImages, folder: Path) -> dict[str, list[float]]:
    """Seconds of each round of each method; a round is an epoch, and each method goes on where its last one ended."""
    seconds: dict[str, list[float]] = {method: [] for method in settings}
    epochs = next(iter(settings.values())).epochs
    for last in range(1, epochs + 1):
        for method, chosen in settings.items():
            directory = folder / f"{method}-{last}"
            before = None if last == 1 else Run(folder / f"{method}-{last - 1}").checkpoint().network
            part = replace(chosen, epochs=last, start_epoch=last - 1)
            train(part, images, directory, console=Console(file=io.StringIO()), initial=before)
            seconds[method].append(float(Run(directory).metrics()["seconds"][-1]))
    return {method: each[1:] for method, each in seconds.items()}  # the first one warms up


def report(settings: dict[str, TrainingSettings], seconds: dict[str, list[float]], scale: float) -> Iterator[str]:
    """The lines of a table in Markdown."""
    yield "| method | passes per image | seconds per epoch | times Gaussian augmentation |"
    yield "|---|---:|---:|---:|"
    for method, each in seconds.items():
        ratios = [own / base for own, base in zip(each, seconds["cohen"], strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        passes = settings[method].objective.samples_at(END)
        yield f"| {method_name(method)} | {passes} | {statistics.median(each) * scale:.1f} | {spread} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SHAPES, default="lenet")
    parser.add_argument("--images", type=int, default=256, help="per method and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="the methods' settings of the short recipes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args(arguments)
    _, shape, total = SHAPES[options.network]
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (options.images, *shape), generator=draw).to(torch.uint8)
    labels = torch.randint(0, 10, (options.images,), generator=draw)
    images = InMemoryImages(SHAPES[options.network][0], "train", pixels, labels, tuple("0123456789"))
    settings = {
        method: settings_of(
            method, options.network, options.images, options.rounds, options.device, short=options.short
        )
        for method, objective in OBJECTIVES.items()
        if not objective.denoises
    }
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.network}, {options.rounds} rounds of"
    )
    print(f"{options.images} random images per method; an epoch is {total:,} images")
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(settings, images, Path(folder))
    print(*report(settings, seconds, total / options.images), sep="\n")


if __name__ == "__main__":
    main()
