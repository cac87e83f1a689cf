"""How many ImageNet training pictures a worker process decodes, crops and mirrors in a second.

    python benchmarks/decode.py --root DIR [--workers 1 2 4] [--seconds 10] [--dataset imagenet]

Reads the pictures of DIR again and again, from the disk's cache, without any network; prints pictures a second of each
number of workers and of one of them, and how many workers keep up with a GPU of a given training rate: images a second
without noise, which is noisy images a second divided by k.
"""

import argparse
import time
from pathlib import Path

import torch

from macer import data
from macer.data import LabelledImages
from macer.data.streaming import StreamedImages

_BATCH = 32


def decoded(images: LabelledImages, seconds: float) -> float:
    """Pictures a second in training batches, counted from the first batch on."""
    order = torch.arange(len(images)).repeat(1 + 100_000 // len(images))
    batches = images.batches(order, _BATCH, device=torch.device("cpu"), seed=0, epoch=0)
    next(batches)  # starting the workers is not counted
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        count += len(next(batches)[1])
    return count / elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dataset", default="imagenet")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    images = data.load(arguments.dataset, arguments.root, "train")
    assert isinstance(images, StreamedImages), "only streamed data sets are decoded while training"
    print(f"{len(images)} pictures, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("workers\tpictures/s\ta worker")
    for workers in arguments.workers:
        images.workers = workers
        rate = decoded(images, arguments.seconds)
        print(f"{workers}\t{rate:.0f}\t{rate / workers:.0f}", flush=True)


if __name__ == "__main__":
    main()
