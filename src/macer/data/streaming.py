"""Images that do not fit in memory: read, decoded and augmented by worker processes as training asks for them."""

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from macer.compute.seeding import derive_seed, generator
from macer.data.images import Batch, LabelledImages, Share, check_labels, own_share
from macer.data.pictures import Pictures, decode, to_tensor
from macer.errors import DataError, needs

with needs("data"):
    from PIL import Image


class StreamedImages(LabelledImages):
    """Encoded pictures, decoded when they are asked for.

    What training sees of a picture depends on the seed, the epoch and the picture's index, on nothing else: neither on
    the number of workers nor on the batches.

    Args:
        name: the data set's name.
        split: "train" or "test".
        pictures: the encoded pictures and their labels.
        size: (height, width) of every view.
        class_names: the classes, in the order of their labels.
        view: what is certified of a picture, and what training sees where there is no `training_view`.
        training_view: what training sees of a picture, drawn at random.
        workers: processes that decode training batches; 0 decodes in this one. By default one a core, at most 8.

    Raises:
        DataError: there are no pictures, or a label is out of range.
    """

    def __init__(
        self,
        name: str,
        split: str,
        pictures: Pictures,
        size: tuple[int, int],
        class_names: tuple[str, ...],
        *,
        view: Callable[[Image.Image], Image.Image],
        training_view: Callable[[Image.Image, random.Random], Image.Image] | None = None,
        workers: int | None = None,
    ) -> None:
        check_labels(f"{name} {split}", pictures.labels, class_names)
        super().__init__(name, split, (3, *size), class_names)
        self.pictures = pictures
        self.view = view
        self.training_view = training_view
        self.workers = min(8, _cores()) if workers is None else workers

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.pictures.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        """The certified view of a picture in [0, 1] and its label."""
        picture = self.view(decode(*self.pictures.read(index)))
        return to_tensor(picture).float().div(255), int(self.pictures.labels[index])

    def batches(
        self,
        order: Int64[Tensor, " images"],
        batch_size: int,
        *,
        device: torch.device,
        seed: int,
        epoch: int,
        share: Share = (0, 1),
    ) -> Iterator[Batch]:
        """Training batches, prepared by the workers while the device computes."""
        loader = DataLoader(
            _Views(self.pictures, self.view, self.training_view, seed, epoch),
            batch_size=None,  # an "index" is a whole batch of indices
            sampler=[own_share(indices, share).tolist() for indices in order.split(batch_size)],
            num_workers=self.workers,
            worker_init_fn=_stand_apart,
            pin_memory=device.type == "cuda",
            generator=generator("cpu", seed),  # else it would draw from the global state
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
            yield images.float().div_(255), labels


class _Views(Dataset):
    """What a worker does: from indices to a batch of bytes."""

    def __init__(
        self,
        pictures: Pictures,
        view: Callable[[Image.Image], Image.Image],
        training_view: Callable[[Image.Image, random.Random], Image.Image] | None,
        seed: int,
        epoch: int,
    ) -> None:
        self.pictures = pictures
        self.view = view
        self.training_view = training_view
        self.seed = seed
        self.epoch = epoch

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | DataError:
        """A batch, or the error as a value: raised here, it would arrive as a worker's traceback of many lines."""
        try:
            return torch.stack([to_tensor(self._view(index)) for index in indices]), self.pictures.labels[indices]
        except DataError as error:
            return error

    def _view(self, index: int) -> Image.Image:
        picture = decode(*self.pictures.read(index))
        if self.training_view is None:
            return self.view(picture)
        return self.training_view(picture, random.Random(derive_seed(self.seed, "augmentation", self.epoch, index)))


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stand_apart(_worker: int) -> None:
    """Control-C and SIGTERM are for the main process alone, even if the whole process group gets them.

    It ends its workers when it is ready to; one that died earlier would take it down before it has saved its work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    # By this hook, and nothing else, the thread that hands over batches reports that nobody takes them any more.
    sys.excepthook = lambda *_: None
