"""Your own images: arrays, tensors and Datasets become the data sets that training and certification take."""

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import deep_png
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from macer import data
from macer.data import LabelledImages
from macer.data.own import OwnDataset, own_images
from macer.errors import DataError, SettingsError
from macer.smoothing.images import as_images

CPU = torch.device("cpu")
DIGITS: Any = data.load("digits", None, "test")
BYTES, LABELS = DIGITS.images, DIGITS.labels
FLOATS = BYTES.float() / 255
GENERATOR = torch.Generator()


class Listed(Dataset):
    """A Dataset of any items."""

    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        return item() if callable(item) else item


@pytest.mark.parametrize(
    "images",
    [
        pytest.param((BYTES, LABELS), id="bytes"),
        pytest.param((BYTES.numpy(), LABELS.numpy()), id="numpy-bytes"),
        pytest.param((FLOATS, LABELS.int()), id="floats"),
        pytest.param((FLOATS.double().numpy(), LABELS.tolist()), id="numpy-doubles"),
        pytest.param((BYTES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), LABELS), id="channels-last-memory"),
        pytest.param(TensorDataset(FLOATS, LABELS), id="dataset"),
        pytest.param(TensorDataset(BYTES, LABELS), id="dataset-of-bytes"),
        pytest.param(
            [(Image.fromarray(image[0].numpy()), int(label)) for image, label in zip(BYTES, LABELS, strict=True)],
            id="pil-images",
        ),
        pytest.param(DIGITS, id="data-set-by-name"),
    ],
)
def test_every_form_gives_the_same_images(images: Any) -> None:
    own = own_images(images, "test")
    assert (len(own), own.shape, own.num_classes, own.split) == (500, (1, 8, 8), 10, "test")
    for index in (0, 7, 499):
        image, label = own[index]
        assert image.dtype == torch.float32
        assert torch.equal(image, DIGITS[index][0])
        assert label == DIGITS[index][1]
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    batches = [list(each.batches(order, 64, device=CPU, seed=0, epoch=0)) for each in (own, DIGITS)]
    for (pixels, labels), (expected, expected_labels) in zip(*batches, strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(labels, expected_labels)


def test_colour_pictures_of_any_mode_become_three_channels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    items = [(Image.fromarray(picture), 0), (Image.fromarray(picture).convert("P"), 1)]
    own = own_images(Listed(items), "test")
    assert own.shape == (3, 6, 5)
    assert torch.equal(own[0][0] * 255, torch.from_numpy(picture).permute(2, 0, 1).float())
    assert own[1][0].shape == (3, 6, 5)


def test_the_name_tells_these_images_from_others() -> None:
    def name(images: Any) -> str:
        return own_images(images, "test").name

    assert name((BYTES, LABELS)) == name((BYTES.numpy(), LABELS)) == name((BYTES.clone(), LABELS))
    others = [(BYTES[1:], LABELS[1:]), (BYTES.flip(0), LABELS), (BYTES, LABELS.flip(0)), TensorDataset(BYTES, LABELS)]
    names = {name(each) for each in [(BYTES, LABELS), *others]}
    assert len(names) == 5
    assert all(each.startswith("own-") for each in names)
    dataset = TensorDataset(BYTES, LABELS)
    assert name(dataset) == name(TensorDataset(BYTES, LABELS)) != name(Subset(dataset, range(499)))


@pytest.mark.parametrize(
    ("images", "eight_bit"),
    [
        ((BYTES, LABELS), True),
        ((FLOATS, LABELS), True),
        ((FLOATS.double().numpy(), LABELS), True),
        (TensorDataset(FLOATS, LABELS), True),
        (TensorDataset(BYTES, LABELS), True),
        ((FLOATS * 0.999, LABELS), False),
        ((FLOATS + 1e-4 * (torch.arange(500) == 499).view(-1, 1, 1, 1) * (FLOATS < 0.5), LABELS), False),
        (TensorDataset(FLOATS.sqrt(), LABELS), False),
    ],
)
def test_whether_pixels_are_whole_multiples_of_1_255_is_said(images: Any, eight_bit: bool) -> None:
    assert own_images(images, "test").eight_bit is eight_bit


def test_class_names_are_given_or_found() -> None:
    class Named(TensorDataset):
        classes = tuple("abcdefghijkl")

    assert own_images((BYTES, LABELS), "test", class_names=list("abcdefghijk")).class_names[10] == "k"
    for images in ((BYTES, LABELS), TensorDataset(BYTES, LABELS)):
        assert own_images(images, "test", num_classes=12).num_classes == 12
        assert own_images(images, "test", num_classes=lambda shape: sum(shape)).num_classes == 1 + 8 + 8
    for each in (Named(BYTES, LABELS), Subset(Named(BYTES, LABELS), range(5))):
        assert own_images(each, "test").class_names == Named.classes


def test_random_transforms_depend_on_seed_epoch_and_image_alone() -> None:
    def item() -> tuple[torch.Tensor, int]:
        return torch.rand(1, 4, 4) * random.random(), 1

    own = own_images(Listed([item] * 6), "train")
    order = torch.arange(6)

    def views(epoch: int, size: int = 2, **share: Any) -> torch.Tensor:
        return torch.cat([images for images, _ in own.batches(order, size, device=CPU, seed=3, epoch=epoch, **share)])

    before = torch.get_rng_state()
    assert torch.equal(views(0), views(0, size=3))
    assert torch.equal(views(0)[::2], views(0, share=(0, 2)))
    assert not torch.equal(views(0), views(1))
    assert torch.equal(own[2][0], own[2][0])
    assert own.is_random
    assert not OwnDataset(TensorDataset(BYTES, LABELS), "test", class_names=None, num_classes=None).is_random
    assert torch.equal(before, torch.get_rng_state())


NEARLY = FLOATS.clone()
NEARLY[0, 0, 0, 0] = 1 + 5e-7
"""As computing may leave 1: by the rounding of some operations."""


@pytest.mark.parametrize(
    "pixels",
    [
        NEARLY,
        NEARLY.numpy().astype(">f4"),  # as files of other machines hold them
        torch.rand(5, 2, 8, 3, generator=GENERATOR),  # two channels, and narrow
        torch.rand(5, 16, 4, 4, generator=GENERATOR),
    ],
)
def test_data_sets_hold_the_images_that_a_smoothed_classifier_takes(pixels: Any) -> None:
    """And as they are given."""
    expected = torch.from_numpy(pixels.astype(np.float32)) if isinstance(pixels, np.ndarray) else pixels
    assert torch.equal(as_images(pixels)[0], expected)
    labels = LABELS[: len(pixels)]
    for images in ((pixels, labels), Listed(list(zip(pixels, labels, strict=True)))):
        own = own_images(images, "test")
        assert torch.equal(torch.stack([own[index][0] for index in range(len(own))]), expected)


def floats_from(low: float, high: float) -> tuple:
    return FLOATS * (high - low) + low, LABELS


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (BYTES, "pair .images, labels.*not Tensor"),
        (3, "not int"),
        (DataLoader(TensorDataset(BYTES, LABELS)), "not DataLoader: give its dataset"),
        (iter([]), "not list_iterator"),
        ((BYTES,), "not as 1"),
        ((BYTES, LABELS[:3]), "one label each"),
        ((BYTES[:0], LABELS[:0]), "no images"),
        (Listed([]), "no images"),
        ((BYTES.permute(0, 2, 3, 1).expand(-1, -1, -1, 3), LABELS), r"channels last: permute\(0, 3, 1, 2\)"),
        (Listed([(np.zeros((8, 9, 3), np.uint8), 0)]), r"image 0 must be .*channels last: permute\(2, 0, 1\)"),
        ((BYTES[:, 0], LABELS), r"grey images .* images\[:, None\]"),
        (Listed([(torch.zeros(8, 8), 0)]), "channels, height, width"),
        (floats_from(0, 255), r"images must lie in \[0, 1\].* from 0 to 255: divide all images by 255\Z"),
        (floats_from(0, 16), r"from 0 to 16: divide all images by the largest pixel of the data\Z"),
        (floats_from(-0.027, 1.017), r"from -0.027 to 1.017: if they come from resizing, .* clamp them to \[0, 1\]\Z"),
        (floats_from(-1, 1), r"from -1 to 1: if they are normalised, undo that, .* as a layer\Z"),
        (floats_from(0, float("nan")), "images must be finite; these hold NaN"),
        ((BYTES.long(), LABELS), "uint8 from 0 to 255, not torch.int64"),
        ((BYTES, LABELS.float()), "whole numbers"),
        ((BYTES, -LABELS), "whole numbers"),
        ((BYTES, ["a"] * 500), "whole numbers"),
        (TensorDataset(BYTES), "item 0 .* not a pair"),
        (Listed([(Image.fromarray(np.full((8, 8), 1000, np.uint16)), 0)]), "image 0 has more than 8 bits per channel"),
        (Listed([(Image.fromarray(np.full((8, 8), 0.5, np.float32)), 0)]), "image 0 has more than 8 bits per channel"),
        (Listed([(Image.open(io.BytesIO(deep_png(3))), 0)]), "image 0 has more than 8 bits per channel"),
        (Listed([("a.png", 0)]), "image 0 must be a tensor .* not str"),
        (Listed([lambda: (torch.rand(1, 4, 4, generator=GENERATOR), 0)]), "another one each time"),
        (Listed([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 0)]), r"image 1 has shape \(1, 4, 5\)"),
    ],
)
def test_what_cannot_be_images_is_one_sentence(images: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        own_images(images, "test")
    assert "\n" not in str(error.value)


def test_the_smoothed_classifier_alone_takes_other_ranges() -> None:
    with pytest.raises(SettingsError, match=r"from -1 to 1: .*any_range=True\) accepts other ranges"):
        as_images(floats_from(-1, 1)[0])


def test_a_label_beyond_the_classes_is_refused_where_it_is_met() -> None:
    with pytest.raises(DataError, match="labels from 0 to 9, but there are 3 classes"):
        own_images((BYTES, LABELS), "test", num_classes=3)
    own: LabelledImages = own_images(TensorDataset(BYTES, LABELS), "test", num_classes=3)
    index = int((LABELS == 9).nonzero()[0])
    with pytest.raises(DataError, match=f"image {index}: labels from 9 to 9"):
        own[index]
    with pytest.raises(DataError, match="batch: labels"):
        list(own.batches(torch.arange(64), 64, device=CPU, seed=0, epoch=0))
