"""How many samples certification takes: fixed, staged and sequential, on the p_A of published certificates.

    python benchmarks/samples.py --certificates DIR

DIR holds published certificate files; --file picks one in it. Votes are simulated, a binomial count a block of 100,
from the p_A that the file implies, so every answer can be held against the truth. What is assumed of p_A:

- A published radius is sigma Phi^-1 of Clopper-Pearson's lower bound for some count of n = 100,000 votes at
  alpha = 0.001; p_A is taken to be that count / n. Of images at the largest radius it is 1.
- It is the selected class's, so images that were answered wrongly are like the others.
- Of an abstaining image only p_A < 1/2 (nearly) is known: it is drawn uniformly from [0.4, 0.5], which continues
  the density of MACER's CIFAR-10 p_A just above 1/2.

The n0 = 100 samples of the selection come on top. Three more tables compare bounds for a fixed n and need no file. All
are printed as Markdown; the first takes minutes.
"""

import argparse
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy import special, stats

from macer.runs.foreign import read_certificates
from macer.smoothing.bounds import (
    betting_lower,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_lower,
    score_edges,
    score_histogram,
)
from macer.smoothing.carrying import HardCarried
from macer.smoothing.kinds import Hard, HardAuto, HardTwoClass
from macer.smoothing.radius import certified_radius, largest_radius
from macer.smoothing.sequential import Question, RadiusAtLeast, RadiusWithin

N = 100_000
ALPHA = 0.001
BLOCK = 100
TRIALS = np.arange(BLOCK, N + 1, BLOCK)
LOOKS = (10, 100, len(TRIALS))
"""Check points are handed over in three parts: most images need the first only."""

BETA = 0.0001
STAGES = ((1_000, 10_000, 125_000), (100, 1_000, 10_000, 100_000))
"""Horváth et al.: those of their published command, with its beta, and finer ones."""


@dataclass(frozen=True)
class Outcome:
    """What happened to each image, as arrays of one entry an image."""

    samples: np.ndarray
    verdict: np.ndarray
    wrong: np.ndarray


def published_probabilities(file: Path, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """p_A of each image of a published file; see the top of this page."""
    rows = read_certificates(file).rows
    counts = np.arange(N // 2, N + 1)
    radii = sigma * special.ndtri(stats.beta.ppf(ALPHA, counts, N - counts + 1))
    published = np.array([row.radius for row in rows])
    abstained = np.array([row.predict == -1 for row in rows])
    return np.where(abstained, generator.uniform(0.4, 0.5, len(rows)), np.interp(published, radii, counts / N))


def ask(
    question: Question, p_a: np.ndarray, sigma: float, wrong: Callable[..., bool], generator: np.random.Generator
) -> Outcome:
    """Put a question to simulated votes of every image. `wrong` judges an answer, given the truth."""
    samples, verdicts, errors = [], [], []
    for p in p_a:
        votes = generator.binomial(BLOCK, p, len(TRIALS)).cumsum()
        start = 0
        for end in LOOKS:
            answer = question.answer(votes[start:end], TRIALS[start:end], sigma, ALPHA)
            if answer.check is not None or end == len(TRIALS):
                break
            start = end
        samples.append(TRIALS[-1 if answer.check is None else start + answer.check])
        verdicts.append(answer.verdict)
        errors.append(wrong(answer, p))
    return Outcome(np.array(samples), np.array(verdicts), np.array(errors))


def staged(stages: Sequence[int], p_a: np.ndarray, p: float, generator: np.random.Generator) -> Outcome:
    """Is p_A at least p? Horváth et al. (arXiv 2106.06946): fresh samples in each stage, alpha shared by the stages."""
    samples = np.zeros(len(p_a), dtype=int)
    verdict = np.full(len(p_a), "undecided")
    for stage, n in enumerate(stages):
        fewest_for_yes = bisect_left(range(n + 1), p, key=lambda k: clopper_pearson_lower(k, n, ALPHA / len(stages)))
        asked = verdict == "undecided"
        votes = generator.binomial(n, p_a)
        samples[asked] += n
        verdict[asked & (votes >= fewest_for_yes)] = "yes"
        if stage + 1 < len(stages):
            share = BETA / (len(stages) - 1)
            fewest_to_go_on = bisect_left(range(n + 1), p, key=lambda k: clopper_pearson_upper(k, n, share))
            verdict[asked & (votes < fewest_to_go_on)] = "no"
    return Outcome(samples, verdict, np.where(p_a >= p, verdict == "no", verdict == "yes"))


def fixed(p_a: np.ndarray, p: float, generator: np.random.Generator) -> Outcome:
    """Is p_A at least p, by Cohen's N samples? What is not certified is not decided."""
    fewest = bisect_left(range(N + 1), p, key=lambda k: clopper_pearson_lower(k, N, ALPHA))
    yes = generator.binomial(N, p_a) >= fewest
    return Outcome(np.full(len(p_a), N), np.where(yes, "yes", "undecided"), yes & (p_a < p))


def print_samples(file: Path, sigma: float, repeat: int, seed: int) -> None:
    """The table of samples."""
    generator = np.random.default_rng(seed)
    p_a = np.repeat(published_probabilities(file, sigma, generator), repeat)
    print(f"{file.parent.name}/{file.name}, sigma = {sigma}, {len(p_a):,} images, alpha = {ALPHA}, seed {seed}\n")
    print(f"| question | way | samples an image | {N:,} is times that | yes | no | undecided | wrong |")
    print("|---|---|---|---|---|---|---|---|")
    for radius in (0.25, 0.5, 0.75):
        p = float(special.ndtr(radius / sigma))
        outcomes = {"fixed": fixed(p_a, p, generator)}
        for stages in STAGES:
            outcomes["staged " + ", ".join(f"{n:,}" for n in stages)] = staged(stages, p_a, p, generator)
        outcomes["sequential"] = ask(
            RadiusAtLeast(radius),
            p_a,
            sigma,
            lambda answer, truth, p=p: answer.verdict == ("no" if truth >= p else "yes"),
            generator,
        )
        for way, outcome in outcomes.items():
            _print_row(f"R ≥ {radius}", way, outcome)
    for width in (0.05, 0.1):
        for question, name in (
            (RadiusWithin(width), f"R within {width:.0%}"),
            (RadiusWithin(width, largest_radius(sigma, N, ALPHA)), f"the same, with a ceiling at {N:,}'s largest R"),
        ):
            outcome = ask(question, p_a, sigma, lambda answer, truth: answer.p_a_lower > truth, generator)
            _print_row(name, "sequential", outcome)


def _print_row(question: str, way: str, outcome: Outcome) -> None:
    shares = [f"{(outcome.verdict == verdict).mean():.1%}" for verdict in ("yes", "no", "undecided")]
    mean = outcome.samples.mean()
    cells = [question, way, f"{mean:,.0f}", f"{N / mean:.1f}", *shares, f"{outcome.wrong.sum()}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def print_bounds() -> None:
    """The table of bounds: radius / sigma by each, for scores of known distributions, evenly placed."""
    print("| scores | n | mean | empirical Bernstein | betting | Clopper-Pearson |")
    print("|---|---|---|---|---|---|")
    for n in (1_000, 10_000, 100_000):
        quantiles = (np.arange(n) + 0.5) / n
        zeros = [0, *(int(n * share) for share in (0.001, 0.01, 0.05, 0.15, 0.3))]
        scores = {"all 1" if k == 0 else f"{k / n:.1%} are 0, others 1": (np.arange(n) >= k) * 1.0 for k in zeros}
        for a, b in ((1000, 1), (50, 1), (30, 0.3), (5, 0.5), (0.99, 0.01), (0.9, 0.1), (2, 1)):
            scores[f"Beta({a}, {b})"] = stats.beta.ppf(quantiles, a, b).clip(0, 1)
        for name, x in scores.items():
            lower = [
                empirical_bernstein_lower(x.sum(), (x * x).sum(), n, ALPHA),
                betting_lower(score_edges(), score_histogram(x), ALPHA),
            ]
            if set(x) <= {0.0, 1.0}:
                lower.append(clopper_pearson_lower(int(x.sum()), n, ALPHA))
            cells = [f"{certified_radius(bound, 1.0):.4f}" for bound in lower]
            print(f"| {name} | {n:,} | {x.mean():.4f} | " + " | ".join([*cells, ""][:3]) + " |")


def print_hard_bounds(seed: int) -> None:
    """The table of bounds of hard certificates: mean radius / sigma of 400 images with these shares of the classes."""
    generator = np.random.default_rng(seed)
    print("| p_A | others | classes | n | one-class | two-class | auto |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    others = {
        "one": lambda number: np.eye(number)[0],
        "each half of what is left": lambda number: 0.5 ** np.arange(number),
        "1, 1/2, 1/3, ...": lambda number: 1 / np.arange(1, number + 1),
    }
    cases = product((10_000, 100_000), (2, 10, 1000), (0.6, 0.9, 0.99, 0.999), others)
    for n, classes, p_a, name in cases:
        if classes == 2 and name != "one":
            continue
        rest = others[name](classes - 1)
        shares = np.array([p_a, *(1 - p_a) * rest / rest.sum()])
        radii = []
        selection, estimation = (generator.multinomial(samples, shares, 400) for samples in (100, n))
        for first, votes in zip(selection, estimation, strict=True):
            kinds = [Hard(), HardTwoClass(), HardAuto().after_selection(torch.tensor(first).double(), n, ALPHA)]
            sums, top = torch.tensor(votes).double(), int(first.argmax())
            proved = [kind.bound(sums, top, n, ALPHA) for kind in kinds]
            radii.append([certified_radius(each.p_a_lower, 1.0, each.p_b_upper) for each in proved])
        cells = [f"{mean:.3f}" for mean in np.mean(radii, 0)]
        print(f"| {p_a} | {name} | {classes:,} | {n:,} | " + " | ".join(cells) + " |")


def print_carried() -> None:
    """The table of carried certificates: radius / sigma for the votes that are to be expected."""
    print("| n | n_z | p_A | before, at n | carried: 0 lost | 0.1% lost | 1% lost | anew, at n_z |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for n, p_a in product((10_000, 100_000), (0.6, 0.8, 0.9, 0.99, 0.999, 1.0)):
        n_z = n // 10
        kind = HardCarried(n_z, ALPHA / 2, 100)
        before, anew = (clopper_pearson_lower(round(p_a * size), size, ALPHA) for size in (n, n_z))
        carried = (
            kind.bound_again(round(p_a * n), round(share * n_z), n, None, ALPHA).p_a_lower for share in (0, 0.001, 0.01)
        )
        cells = [f"{certified_radius(bound, 1.0):.3f}" for bound in (before, *carried, anew)]
        print(f"| {n:,} | {n_z:,} | {p_a} | " + " | ".join(cells) + " |")


def main() -> None:
    """Print all tables, or without certificates the last three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=Path, help="directory of published certificate files")
    parser.add_argument("--file", default="cifar10-macer-resnet110/noise_0.25.tsv", help="which of them")
    parser.add_argument("--sigma", type=float, default=0.25, help="of that file")
    parser.add_argument("--repeat", type=int, default=1, help="simulations of each image")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.certificates:
        print_samples(arguments.certificates / arguments.file, arguments.sigma, arguments.repeat, arguments.seed)
        print()
    print_bounds()
    print()
    print_hard_bounds(arguments.seed)
    print()
    print_carried()


if __name__ == "__main__":
    main()
