"""The votes of a network on noisy copies of every image of a split, which a training may take as its targets."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float64
from rich.console import Console
from torch import Tensor, nn

from macer.certification.evaluation import Item, evaluate_fast
from macer.compute.engine import Engine
from macer.compute.interruption import stop_on_signals
from macer.compute.progress import ProgressView
from macer.data import LabelledImages
from macer.data.images import digest_of_some
from macer.errors import SettingsError
from macer.models.digest import digest
from macer.runs.settings import differences
from macer.runs.teacher import TeacherVotes, read_teacher_votes, write_teacher_votes
from macer.smoothing import SmoothedClassifier
from macer.smoothing.kinds import Hard
from macer.smoothing.spending import scores_of
from macer.smoothing.words import Stage

_SECONDS_BETWEEN_WRITES = 60.0


@dataclass(frozen=True, kw_only=True)
class TeacherVoting:
    """The work: `macer.compute.workers.Work` for items of `Item`; the result is an image's index and its votes.

    Attributes:
        network: whose votes to count.
        sigma: standard deviation of the noise.
        n: votes per image.
        seed: of the noise.
        num_classes: of the data.
        shape: (channels, height, width) of an image.
        images: how many will be counted.
    """

    network: nn.Module
    sigma: float
    n: int
    seed: int
    num_classes: int
    shape: tuple[int, int, int]
    images: int

    def start(self, device: torch.device) -> Callable[[Item], tuple[int, Float64[Tensor, " classes"]]]:
        """Build the classifier on a device, and return the function that counts the votes of an image."""
        classifier = SmoothedClassifier(
            self.network.to(device).eval(), self.sigma, self.num_classes, seed=self.seed, sound=False
        )
        evaluate_fast(classifier, self.shape, compile="auto", samples=self.images * self.n)

        def count(item: Item) -> tuple[int, Float64[Tensor, " classes"]]:
            index, image, _ = item
            (votes,) = classifier.sums(image, index, Stage.PREDICTION, self.n, [scores_of(Hard())])
            return index, votes

        return count


def count_teacher_votes(
    network: nn.Module,
    images: LabelledImages,
    file: Path,
    *,
    sigma: float,
    n: int,
    seed: int,
    console: Console,
    engine: Engine,
) -> TeacherVotes:
    """Count the votes of a network on all images of a split into a file, or go on with one that was left unfinished.

    Args:
        network: on the CPU.
        images: the split; images are not augmented.
        file: the votes; an unfinished file is written every minute and on a signal.
        sigma: standard deviation of the noise.
        n: votes per image.
        seed: of the noise.
        console: where progress is shown.
        engine: where images are evaluated.

    Raises:
        SettingsError: the file holds votes of another network or of other images, or with other noise.
        RecordsError: the file is something else.
        Interrupted: a signal asked to stop.
    """
    empty = torch.zeros(len(images), images.num_classes, dtype=torch.int32)
    made = {"dataset": images.name, "split": images.split, "sigma": sigma, "n": n, "seed": seed}
    made["images"] = digest_of_some(images)
    votes = TeacherVotes(counts=empty, network=digest(network.state_dict()), **made)
    if file.exists():
        votes = _to_go_on(read_teacher_votes(file), votes, file)
    left = (~votes.counted).nonzero().flatten().tolist()
    title = f"counting votes into {file}"
    work = TeacherVoting(
        network=network,
        sigma=sigma,
        n=n,
        seed=seed,
        num_classes=images.num_classes,
        shape=images.shape,
        images=len(left),
    )
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        view = ProgressView(title, len(images), done=len(images) - len(left), unit="noisy images", console=console)
        stack.enter_context(view)
        workers = stack.enter_context(engine.open()) if left else None
        stop.answer = partial(view.answer, "this image")
        written, items = time.monotonic(), ((index, *images[index]) for index in left)
        for index, counts in stack.enter_context(closing(workers.map(work, items, stop))) if workers else ():
            votes.counts[index] = counts.int()
            view.advance(1, n)
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                write_teacher_votes(votes, file)
                written = time.monotonic()
        write_teacher_votes(votes, file)
        if not bool(votes.counted.all()):
            done = int(votes.counted.sum())
            stop.check(f"counting stopped after {done} of {len(images)} images; the same command goes on from {file}")
    return votes


def _to_go_on(old: TeacherVotes, new: TeacherVotes, file: Path) -> TeacherVotes:
    """Return the votes of a file if they are those that are wanted, as far as they are counted."""
    differing = differences(old.made, new.made)
    if not differing and old.counts.shape != new.counts.shape:
        differing = [f"images and classes: {tuple(old.counts.shape)} there, {tuple(new.counts.shape)} here"]
    if differing:
        raise SettingsError(f"{file} holds other votes ({'; '.join(differing)}): choose another file")
    return replace(new, counts=old.counts.clone())
