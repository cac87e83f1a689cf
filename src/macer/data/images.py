"""The interface of all data sets: labelled images, one by one or in batches for training."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from macer.compute.seeding import generator
from macer.data.augmentation import crop_and_flip
from macer.errors import DataError
from macer.smoothing import grid
from macer.smoothing.images import from_levels

Share = tuple[int, int]
"""(rank, size) of a process among those that train together. It determines the part of each batch that it gets."""

Batch = tuple[Float[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]
Pixels = UInt8[Tensor, "*batch channels height width"] | Float[Tensor, "*batch channels height width"]
"""Images as they are stored: bytes from 0 to 255, or floats from 0 to 1."""


class LabelledImages(ABC):
    """One split of a data set.

    Attributes:
        name: name of the data set.
        split: "train" or "test".
        shape: (channels, height, width) of the images that the network gets.
        class_names: the classes, in the order of their labels.
        fitted: what was done to pictures of several sizes, unless it was asked for; None where nothing was.
    """

    fitted: str | None = None

    def __init__(self, name: str, split: str, shape: tuple[int, int, int], class_names: tuple[str, ...]) -> None:
        self.name = name
        self.split = split
        self.shape = shape
        self.class_names = class_names

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @cached_property
    def eight_bit(self) -> bool:
        """Whether each pixel is a whole multiple of 1/255, which sound certificates need: so it is in decoded files.

        Of images that are read when they are needed this is known of a sample.
        """
        return True

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        """Return an image in [0, 1], as it is certified, and its label."""

    def file_name(self, index: int) -> str | None:
        """Return the name that a person knows an image by, such as that of its file; None if it has none."""
        return None

    @abstractmethod
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
        """Yield training batches of augmented images and their labels.

        Args:
            order: indices of the images, in the order of training.
            batch_size: images per batch; the last batch may be smaller.
            device: device of the batches.
            seed: seed of the augmentation.
            epoch: number of the epoch; each epoch is augmented differently.
            share: the part of each batch to yield, see `own_share`. It does not change how an image is augmented.
        """


def own_share(batch: Shaped[Tensor, "batch ..."], share: Share) -> Shaped[Tensor, "own ..."]:
    """Return every size-th image from position rank on; the first image if there are fewer images than processes."""
    rank, size = share
    return batch[rank::size] if rank < len(batch) else batch[:1]


def as_floats(pixels: Pixels) -> Float[Tensor, "*batch channels height width"]:
    """Return stored images as a network gets them: float32 from 0 to 1."""
    return from_levels(pixels.float()) if pixels.dtype == torch.uint8 else pixels.float()


def on_grid(pixels: Pixels) -> bool:
    """Return whether all pixels of an image are whole multiples of 1/255, as far as float32 can tell."""
    return grid.on_grid(as_floats(pixels))


_DIGESTED = 64
"""Images that a digest is computed from: few enough to read them each time."""


def digest_of_some(images: LabelledImages) -> str:
    """Return what tells these images and labels from others, computed from 64 of them, spread evenly."""
    state = hashlib.sha256()
    for place in range(_DIGESTED):
        image, label = images[place * len(images) // _DIGESTED]
        state.update(image.cpu().numpy().tobytes() + str(label).encode())  # training may have moved them
    return state.hexdigest()


def check_labels(source: str, labels: Int64[Tensor, " labels"], class_names: tuple[str, ...]) -> None:
    """Refuse labels that are not classes.

    Args:
        source: origin of the labels, for messages.
        labels: one label per image.
        class_names: the classes, in the order of their labels.

    Raises:
        DataError: there are no labels, or one is out of range.
    """
    if len(labels) == 0:
        raise DataError(f"{source}: no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise DataError(
            f"{source}: labels from {low} to {high}, but there are {len(class_names)} classes, "
            f"0 to {len(class_names) - 1}"
        )


class InMemoryImages(LabelledImages):
    """Images in memory. They move to the device of training once, and are augmented there in batches.

    Args:
        name: the data set's name.
        split: "train" or "test".
        images: images of shape (images, channels, height, width).
        labels: classes 0..len(class_names) - 1.
        class_names: the classes, in the order of their labels.
        augment: whether training batches are randomly cropped (with padding 4) and flipped.

    Raises:
        DataError: there are no images, not as many labels as images, or a label that is not a class.
    """

    def __init__(
        self,
        name: str,
        split: str,
        images: Pixels,
        labels: Int64[Tensor, " labels"],
        class_names: tuple[str, ...],
        *,
        augment: bool = False,
    ) -> None:
        if len(images) != len(labels):
            raise DataError(f"{name} {split}: {len(images)} images but {len(labels)} labels")
        check_labels(f"{name} {split}", labels, class_names)
        channels, height, width = images.shape[1:]
        super().__init__(name, split, (channels, height, width), class_names)
        self.images = images
        self.labels = labels
        self.augment = augment

    @cached_property
    def eight_bit(self) -> bool:
        return self.images.dtype == torch.uint8 or all(map(on_grid, self.images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        return as_floats(self.images[index]), int(self.labels[index])

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
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        for step, indices in enumerate(order.to(device).split(batch_size)):
            images = self.images[indices]
            if self.augment:
                images = crop_and_flip(images, generator(device, seed, "augmentation", epoch, step))
            yield as_floats(own_share(images, share)), own_share(self.labels[indices], share)
