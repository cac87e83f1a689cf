"""How long training takes to a certified radius: a recipe from scratch, one run a seed, and what each run attains.

    python benchmarks/time_to_acr.py --recipe NAME --root DIR --seeds 0 1 2 --out DIR \\
        --reference DIR --original-recipe mnist/macer-0.25

Trains and certifies as `macer train` and `macer certify` do, into a directory a seed; the same command again goes on
where it stopped. Training time is the sum of the column `seconds` of metrics.tsv: starting, certification and work that
was lost with a killed process are not in it. ACR is of the stated test images at the stated n, with a 95% bootstrap
interval over the choice of images.

With --reference, a checkout of the original repository (github.com/RuntianZ/macer), some steps of its `macer_train` are
timed before and after each training, on the same machine and data with the network, batch size and k of the original's
recipe. The original's time is the median of these steps, times images / batch size, times epochs. Its batches are ready
in memory, so that loading and augmenting cost it nothing. The ratio is this time by our training's.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from train import column, load_original, original, rate, ready_batches, spread

from macer import data, models
from macer.certification import certify_images, prepare
from macer.compute.device import open_fabric
from macer.compute.engine import Engine
from macer.data import LabelledImages
from macer.objectives import Macer
from macer.pretrained.find import find_network
from macer.recipes import read_recipe
from macer.results import average_certified_radius, read_records
from macer.results.metrics import Estimate
from macer.runs.settings import require
from macer.training import TrainingSettings, resolve, train


@dataclass(frozen=True)
class Attained:
    """What one training took and gave.

    Attributes:
        seed: of the training.
        epochs: passes over the training images.
        seconds: in training.
        noisy_images: that the network saw.
        certified: which test images, in words.
        n: samples a certificate.
        acr: average certified radius.
    """

    seed: int
    epochs: int
    seconds: float
    noisy_images: float
    certified: str
    n: int
    acr: Estimate


class OriginalSteps:
    """Times of single steps of the original's training, measured whenever asked.

    Args:
        macer_train: the original's function.
        settings: the original's recipe.
        images: the training images.
    """

    def __init__(self, macer_train: Callable[..., None], settings: TrainingSettings, images: LabelledImages) -> None:
        self.settings, self.count = settings, settings.num_images or len(images)
        self.device = open_fabric(settings.device).device
        network = models.build(settings.network, images.num_classes, images.shape, settings.normalisation)
        batch = ready_batches(images, settings.batch_size, 1)
        self.step = original(macer_train, network, settings, batch, images.num_classes, self.device)
        self.seconds: list[float] = []
        self.step()  # warm up

    def measure(self, steps: int) -> None:
        """Time so many more steps."""
        samples = self.settings.batch_size * self.settings.objective.samples
        self.seconds += [samples / rate(self.step, self.device) for _ in range(steps)]

    def whole(self, seconds: float) -> float:
        """Seconds of the whole recipe, where a step takes so many."""
        return seconds * self.count / self.settings.batch_size * self.settings.epochs


def attain(
    settings: TrainingSettings, images: LabelledImages, directory: Path, *, skip: int, n: int, console: Console
) -> Attained:
    """Train and certify, or go on with it.

    Args:
        settings: of the training.
        images: what it trains on.
        directory: of the run.
        skip: every so many test images are certified.
        n: samples a certificate.
        console: where progress is shown.
    """
    train(settings, images, directory, console=console, title=f"training {directory.name}")
    plan = prepare(find_network(directory, settings.network), dataset=None, chosen={"skip": skip, "n": n})
    title = f"certifying {directory.name}"
    certificates = directory / "certificates"
    certify_images(
        plan,
        certificates,
        console=console,
        title=title,
        engine=Engine(settings.device),
    )
    (records,) = read_records(certificates / "hard.tsv")
    return Attained(
        seed=settings.seed,
        epochs=settings.epochs,
        seconds=sum(column(directory, "seconds")),
        noisy_images=sum(column(directory, "noisy_images")),
        certified=records.images,
        n=plan.settings.n,
        acr=average_certified_radius(records),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, certify, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help="what to train; see macer recipes")
    parser.add_argument("--root", help="directory of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--skip", type=int, default=20, help="certify every so many test images")
    parser.add_argument("--n", type=int, default=100_000, help="samples a certificate")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--reference", type=Path, help="checkout of the original repository")
    parser.add_argument("--original-recipe", help="what the original would train [as --recipe]")
    parser.add_argument("--steps", type=int, default=3, help="of the original, before and after each training")
    options = parser.parse_args(arguments)

    def settings_of(recipe: str, seed: int) -> TrainingSettings:
        chosen = {"root": options.root, "seed": seed, "device": options.device}
        settings = resolve(read_recipe(recipe), None, chosen, where=f"recipe {recipe}")
        require(settings.init is None, f"recipe {recipe} starts from trained weights, whose time nobody knows")
        return settings

    first = settings_of(options.recipe, options.seeds[0])
    images = data.load(first.dataset, first.root, "train")
    steps = None
    if options.reference:
        theirs = settings_of(options.original_recipe or options.recipe, 0)
        require(isinstance(theirs.objective, Macer), "the original trains MACER: give --original-recipe")
        require(theirs.dataset == first.dataset, f"the recipes' data differ: {theirs.dataset} and {first.dataset}")
        steps = OriginalSteps(load_original(options.reference), theirs, images)
    console = Console(markup=False)
    device = open_fabric(options.device).device
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads", flush=True)
    header = ["recipe", "seed", "epochs", "seconds", "noisy_images", "images", "n", "acr", "acr_low", "acr_high"]
    rows, ratios = [], []
    for seed in options.seeds:
        directory = options.out / f"{options.recipe.replace('/', '-')}-seed-{seed}"
        before = len(steps.seconds) if steps else 0
        if steps:
            steps.measure(options.steps)
        run = attain(
            settings_of(options.recipe, seed), images, directory, skip=options.skip, n=options.n, console=console
        )
        acr = run.acr
        row = [options.recipe, seed, run.epochs, f"{run.seconds:.1f}", f"{run.noisy_images:.0f}", run.certified, run.n]
        rows.append([*row, *(f"{value:.4f}" for value in (acr.value, acr.low, acr.high))])
        if steps:
            steps.measure(options.steps)
            seconds = statistics.median(steps.seconds[before:])
            ratios.append(steps.whole(seconds) / run.seconds)
            rows[-1] += [f"{seconds:.4f}", f"{steps.whole(seconds):.1f}", f"{ratios[-1]:.1f}"]
        print(f"seed {seed}: {run.seconds:.0f} s, ACR {acr.value:.3f} [{acr.low:.3f}, {acr.high:.3f}]", flush=True)
    if steps:
        header += ["original_seconds_a_step", "original_seconds", "original_to_ours"]
        milliseconds = spread([1000 * seconds for seconds in steps.seconds])
        print(f"original: {options.original_recipe or options.recipe}, milliseconds a step: {milliseconds}")
        print(f"original / ours: {spread(ratios)}")
    print(*("\t".join(map(str, row)) for row in [header, *rows]), sep="\n")


if __name__ == "__main__":
    main()
