"""Images that do not fit in memory. Worker processes read, decode and augment them during training."""

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
from macer.data.images import Batch, LabelledImages, Share, as_floats, check_labels, own_share
from macer.data.pictures import Pictures, decode, to_tensor
from macer.errors import DataError, needs

with needs("data"):
    from PIL import Image


class StreamedImages(LabelledImages):
    """Encoded pictures, which are decoded when they are needed.

    Augmentation depends on the seed, the epoch and the index of the picture alone, and not on the number of workers or
    on the batches.

    Args:
        name: the data set's name.
        split: "train" or "test".
        pictures: the encoded pictures and their labels.
        size: (height, width) of the images.
        class_names: the classes, in the order of their labels.
        view: function from a picture to the image that is certified, and used for training without `training_view`.
        training_view: function from a picture and a random generator to an image for training.
        decode: function from an encoded picture and its name in messages to a picture.
        channels: 1 if `decode` returns grey pictures, 3 if it returns RGB ones.
        workers: number of processes that prepare training batches; 0 for this process. Default: one per core, at
            most 8.

    Raises:
        DataError: there are no pictures, or a label is not a class.
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
        decode: Callable[[bytes, str], Image.Image] = decode,
        channels: int = 3,
        workers: int | None = None,
    ) -> None:
        check_labels(f"{name} {split}", pictures.labels, class_names)
        super().__init__(name, split, (channels, *size), class_names)
        self.pictures = pictures
        self.view = view
        self.training_view = training_view
        self.decode = decode
        self.workers = min(8, _cores()) if workers is None else workers

    def __len__(self) -> int:
        return len(self.pictures.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        picture = self.view(self.decode(*self.pictures.read(index)))
        return as_floats(to_tensor(picture)), int(self.pictures.labels[index])

    def file_name(self, index: int) -> str | None:
        return self.pictures.file_name(index)

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
        loader = DataLoader(
            _Views(self, seed, epoch),
            batch_size=None,  # the sampler yields whole batches of indices
            sampler=[own_share(indices, share).tolist() for indices in order.split(batch_size)],
            num_workers=self.workers,
            worker_init_fn=_stand_apart,
            pin_memory=device.type == "cuda",
            generator=generator("cpu", seed),  # instead of the global random state
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
            yield as_floats(images), labels


class _Views(Dataset):
    """The work of a worker process: from indices to a batch of bytes."""

    def __init__(self, images: StreamedImages, seed: int, epoch: int) -> None:
        self.images = images
        self.seed = seed
        self.epoch = epoch

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | DataError:
        """Return a batch, or an error: if it were raised here, it would become a traceback of many lines."""
        try:
            pixels = torch.stack([to_tensor(self._view(index)) for index in indices])
            return pixels, self.images.pictures.labels[indices]
        except DataError as error:
            return error

    def _view(self, index: int) -> Image.Image:
        images = self.images
        picture = images.decode(*images.pictures.read(index))
        if images.training_view is None:
            return images.view(picture)
        return images.training_view(picture, random.Random(derive_seed(self.seed, "augmentation", self.epoch, index)))


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stand_apart(_worker: int) -> None:
    """Keep Ctrl-C and SIGTERM from a worker, even if the whole process group gets them.

    The main process ends its workers after it has saved its work. A worker that ended earlier would stop it before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    # The thread that passes batches on would otherwise report that nobody receives them any more.
    sys.excepthook = lambda *_: None
