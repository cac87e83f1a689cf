"""Your own images as a data set: arrays of images and labels, or any `torch.utils.data.Dataset` of (image, label)."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from macer.compute.seeding import derive_seed
from macer.data.images import (
    Batch,
    InMemoryImages,
    LabelledImages,
    Pixels,
    Share,
    as_floats,
    check_labels,
    on_grid,
    own_share,
)
from macer.errors import DataError, SettingsError
from macer.smoothing.images import LEVELS, as_pixels

Count = int | Callable[[tuple[int, int, int]], int]
"""A number of classes, or a function that returns it for images of some (channels, height, width)."""
PREFIX = "own-"
"""What the names of your own images begin with."""
_DARK = 16
"""The largest grey level of images that are probably on another scale: scikit-learn's digits end at 16, masks at 1."""
_FEW = 16
"""Images of which a look is enough."""
_SAMPLE = 256
"""Images of a Dataset that its digest is computed from, and whether they are 8-bit, spread evenly: reading all of them
could take hours."""


def own_images(
    images: Any, split: str, *, class_names: Sequence[str] | None = None, num_classes: Count | None = None
) -> LabelledImages:
    """Return your own images as a data set that macer trains on and certifies.

    Its name is own-DIGEST, so that the settings of a run record which images it is of.

    Args:
        images: one of
            - a pair (images, labels) of tensors or NumPy arrays: images of shape (N, C, H, W), uint8 from 0 to 255 or
              floats from 0 to 1; labels of shape (N,), whole numbers from 0 on;
            - a `torch.utils.data.Dataset` with a length (a `Subset`, a list), whose items are pairs (image, label) of
              an image of shape (C, H, W) as above, or a PIL image. Items are read when they are needed. Their random
              transforms follow torch's and Python's generators, which are seeded per image and epoch;
            - `LabelledImages`, as `macer.data.load` returns them, which stay as they are.
        split: "train" or "test"; what the images are used for.
        class_names: the classes, in the order of their labels. Default: the Dataset's attribute `classes`, else
            "0", "1", ...
        num_classes: how many classes there are, or a function that returns it for images of some (channels, height,
            width). Default: the number of names, else the largest label plus 1, for which every item of a Dataset is
            read once.

    Raises:
        DataError: the images have another shape, type or scale, or a label is not a class.
    """
    if isinstance(images, LabelledImages):
        return images
    if class_names is None:
        whole = images
        while isinstance(whole, Subset):
            whole = whole.dataset
        class_names = getattr(whole, "classes", None)
    if isinstance(images, tuple):
        pixels, labels = _arrays(images)
        names = _names(class_names, num_classes, pixels.shape[1:], lambda: int(labels.max()))
        name = PREFIX + _digest([(pixels, labels)])
        return InMemoryImages(name, split, pixels, labels, names)
    if not isinstance(images, Sized) or not hasattr(images, "__getitem__") or isinstance(images, Tensor | np.ndarray):
        loader = ": give its dataset, in place of the DataLoader" if isinstance(images, DataLoader) else ""
        raise DataError(
            "images are a pair (images, labels) of arrays, or a torch.utils.data.Dataset with a length whose items are "
            f"pairs (image, label), not {type(images).__name__}{loader}"
        )
    return OwnDataset(images, split, class_names=class_names, num_classes=num_classes)


def doubts_about_scale(images: LabelledImages) -> list[str]:
    """Return a warning if a sample of your own images is nearly black, as on another scale, else none."""
    step = -(-len(images) // _FEW)
    if isinstance(images, InMemoryImages) and images.name.startswith(PREFIX):
        pixels = [images.images[::step]]
    elif isinstance(images, OwnDataset):
        pixels = [images.pixels(index) for index in range(0, len(images), step)]
    else:
        return []
    largest = round(max(float(as_floats(each).max()) for each in pixels) * LEVELS, 3)  # else 16 is 16.0000002
    if largest > _DARK:
        return []
    if largest > 0 and all(each.dtype == torch.uint8 for each in pixels):
        return [
            f"the images are nearly black: of a sample, the pixels are bytes from 0 to {largest:g} of 255. If white is "
            "less than 255, divide the images by their largest pixel, which gives floats from 0 to 1"
        ]
    return [
        f"the images are nearly black: of a sample, no pixel exceeds {largest:.3g} on the scale from 0 to 255. Images "
        "are uint8 from 0 to 255, or floats from 0 to 1: were they divided by 255 twice, or is white less than that?"
    ]


class OwnDataset(LabelledImages):
    """The items (image, label) of a `torch.utils.data.Dataset`, read one by one when they are needed.

    An item is the same whenever it is read for the same epoch: torch's and Python's random generators are seeded
    before. Arguments and errors are those of `own_images`.
    """

    def __init__(
        self, dataset: Any, split: str, *, class_names: Sequence[str] | None, num_classes: Count | None
    ) -> None:
        self.dataset = dataset
        if len(dataset) == 0:
            raise DataError("the data set has no images")
        first, _ = self._item(0, 0)
        self.shape = (first.shape[0], first.shape[1], first.shape[2])
        if not torch.equal(first, self._item(0, 0)[0]):
            raise DataError(
                "the data set's first image is another one each time it is read: leave random transforms out, or draw "
                "them from torch's or Python's global generator, which macer seeds"
            )
        labels = (self._item(index, 0)[1] for index in range(len(dataset)))
        names = _names(class_names, num_classes, self.shape, lambda: max(labels))
        step = -(-len(dataset) // _SAMPLE)
        sample = range(0, len(dataset), step)
        items = (self._item(index, 0) for index in sample)
        name = PREFIX + _digest([(torch.tensor(len(dataset)), torch.tensor(step)), *items])
        super().__init__(name, split, self.shape, names)
        self._sample = sample

    @cached_property
    def eight_bit(self) -> bool:
        return all(on_grid(self._item(index, 0)[0]) for index in self._sample)

    @cached_property
    def is_random(self) -> bool:
        """Whether another seed gives other images, as random transforms do: known of a sample of them."""
        return any(not torch.equal(self._item(index, 0)[0], self._item(index, 1)[0]) for index in self._sample[:_FEW])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        image, label = self._item(index, 0)
        check_labels(f"image {index}", torch.tensor([label]), self.class_names)
        return as_floats(image), label

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
        """Training batches, read in this process."""
        for indices in order.split(batch_size):
            own = own_share(indices, share).tolist()
            items = [self._item(index, derive_seed(seed, "augmentation", epoch, index)) for index in own]
            labels = torch.tensor([label for _, label in items])
            check_labels("a training batch", labels, self.class_names)
            yield torch.stack([as_floats(image) for image, _ in items]).to(device), labels.to(device)

    def pixels(self, index: int) -> Pixels:
        """Return an image as the Dataset has it."""
        return self._item(index, 0)[0]

    def _item(self, index: int, seed: int) -> tuple[Pixels, int]:
        """Return an image and its label, as they are read after seeding the generators with `seed`."""
        with _seeded(seed):
            item = self.dataset[index]
        if not isinstance(item, Sequence) or len(item) != 2:
            raise DataError(f"item {index} of the data set is not a pair (image, label) but {type(item).__name__}")
        image = _pixels(item[0], f"image {index}", dimensions=3)
        shape = getattr(self, "shape", tuple(image.shape))
        if tuple(image.shape) != shape:
            raise DataError(f"image {index} has shape {tuple(image.shape)}, the first one {shape}: give one size")
        return image, int(_labels([item[1]], f"the label of image {index}"))


def _arrays(images: tuple) -> tuple[Pixels, Int64[Tensor, " images"]]:
    """Check a pair of arrays."""
    if len(images) != 2:
        raise DataError(f"arrays are given as a pair (images, labels), not as {len(images)} of them")
    pixels, labels = _pixels(images[0], "images", dimensions=4), _labels(images[1], "labels")
    if labels.dim() != 1 or len(labels) != len(pixels):
        raise DataError(f"images of shape {tuple(pixels.shape)} need one label each, not {tuple(labels.shape)} labels")
    if len(labels) == 0:
        raise DataError("there are no images")
    return pixels, labels


def _names(
    names: Sequence[str] | None, count: Count | None, shape: Sequence[int], largest_label: Callable[[], int]
) -> tuple[str, ...]:
    if names is None:
        if count is None:
            count = largest_label() + 1
        names = list(map(str, range(count if isinstance(count, int) else count((shape[0], shape[1], shape[2])))))
    return tuple(map(str, names))


def _pixels(image: Any, what: str, *, dimensions: int) -> Pixels:
    """Return an array or a PIL image as a tensor: uint8 as it is, floats as float32."""
    if type(image).__module__.startswith("PIL."):
        from macer.data.pictures import has_more_than_8_bits  # needs Pillow, which is there if its images are

        if has_more_than_8_bits(image):  # Pillow would make white of what exceeds 255, or cut colours off
            raise DataError(f"{what} has more than 8 bits per channel: give it as an array of floats in [0, 1]")
        picture = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        image = np.atleast_3d(picture).transpose(2, 0, 1)
    try:
        pixels = as_pixels(image, what, [dimensions]).detach()
    except SettingsError as error:
        raise DataError(str(error)) from error
    return pixels if pixels.dtype == torch.uint8 else pixels.float()


def _labels(labels: Any, what: str) -> Int64[Tensor, "..."]:
    """Return labels as int64."""
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0, dtype=torch.complex64)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or bool((found < 0).any()):
        raise DataError(f"{what}: classes are whole numbers from 0 on")
    return found.long()


def _digest(items: Any) -> str:
    """Return 12 characters that tell these pairs of tensors from others."""
    state = hashlib.sha256()
    for pixels, labels in items:
        for each in (pixels, torch.as_tensor(labels)):
            state.update(f"{each.dtype} {tuple(each.shape)}".encode())
            state.update(each.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:12]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator on the CPU and Python's for a while, then put them back where they were."""
    states = torch.get_rng_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
