"""The registry, the embedded digits, idx files, images in memory and their augmentation."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import LABELS, PIXELS, idx, write_idx

from macer.data import DATASETS, InMemoryImages, load
from macer.data.augmentation import crop_and_flip
from macer.errors import DataError, SettingsError

CPU = torch.device("cpu")


def test_unknown_names_are_answered_with_the_choice() -> None:
    with pytest.raises(SettingsError, match=r"'cifar': .*cifar10, cifar100, digits, fashion-mnist, folder, imagenet"):
        load("cifar", None, "test")
    with pytest.raises(SettingsError, match="'valid'"):
        load("digits", None, "valid")


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_not_there_is_one_line_that_says_where_it_was_looked_for(name: str, split: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give `root`") as without:
        load(name, None, split)
    with pytest.raises(DataError, match="not a directory") as no_directory:
        load(name, tmp_path / "absent", split)
    with pytest.raises(DataError, match=f"^{name}: found n.*{tmp_path}") as empty:
        load(name, tmp_path, split)
    for error in (without, no_directory, empty):
        assert "\n" not in str(error.value)


def test_digits_are_the_embedded_ones() -> None:
    train, test = load("digits", None, "train"), load("digits", None, "test")
    assert (len(train), len(test), train.shape, train.num_classes) == (1297, 500, (1, 8, 8), 10)
    # scikit-learn documents its first digit's first row as 0 0 5 13 9 1 0 0 of 16.
    torch.testing.assert_close(train[0][0][0, 0] * 16, torch.tensor([0.0, 0, 5, 13, 9, 1, 0, 0]), atol=0.04, rtol=0)
    assert train[0][1] == 0
    assert isinstance(train, InMemoryImages)
    assert not train.augment


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_where_they_may_lie(place: str, suffix: str, tmp_path: Path) -> None:
    pack = gzip.compress if suffix else bytes
    write_idx(tmp_path / place, pack(idx(PIXELS)), pack(idx(LABELS)), suffix)
    images = load("mnist", tmp_path, "test")
    assert [images[index][1] for index in range(len(images))] == LABELS.tolist()
    assert all((images[i][0][0] * 255).round().byte().tolist() == PIXELS[i].tolist() for i in range(7))


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_not_read_as_fashion_mnist(split: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").symlink_to(shared / "data/mnist/MNIST")
    with pytest.raises(DataError, match="labels of mnist, and not of fashion-mnist"):
        load("fashion-mnist", tmp_path, split)


def test_mnist_is_mnist(shared: Path) -> None:
    train, test = load("mnist", shared / "data/mnist", "train"), load("mnist", shared / "data/mnist", "test")
    assert isinstance(train, InMemoryImages)
    assert (len(train), len(test), train.shape, train[0][1], test[0][1]) == (60000, 10000, (1, 28, 28), 5, 7)
    # The mean and deviation that the field normalises MNIST with.
    pixels = train.images.float() / 255
    assert round(float(pixels.mean()), 4) == 0.1307
    assert round(float(pixels.std()), 4) == 0.3081
    assert not train.augment


def numbered_images(count: int) -> InMemoryImages:
    """Image i holds nothing but i, and i is its label."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 6, 6).contiguous()
    return InMemoryImages("numbers", "train", images, torch.arange(count), tuple(map(str, range(count))), augment=True)


def test_batches_follow_the_order_and_lose_nothing() -> None:
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    batches = list(numbered_images(25).batches(order, 10, device=CPU, seed=0, epoch=0))
    assert [len(labels) for _, labels in batches] == [10, 10, 5]
    assert torch.cat([labels for _, labels in batches]).tolist() == order.tolist()
    for images, labels in batches:  # cropping brings in zeros, nothing else
        values = (images * 255).round().amax(dim=(1, 2, 3)).long()
        assert values.tolist() == labels.tolist()


def test_augmentation_repeats_with_the_seed_and_differs_between_epochs() -> None:
    data, order = numbered_images(20), torch.arange(20)

    def epoch(seed: int, number: int) -> torch.Tensor:
        return torch.cat([images for images, _ in data.batches(order, 8, device=CPU, seed=seed, epoch=number)])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    assert not torch.equal(epoch(0, 1), epoch(0, 2))
    assert not torch.equal(epoch(0, 1), epoch(1, 1))


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (5, 7, 2)])
def test_crop_and_flip_is_the_crop_and_flip_of_each_image(height: int, width: int, padding: int) -> None:
    """Literally: pad an image with zeros, cut a window, mirror it; with the numbers drawn in the same order."""
    count = 40
    images = torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8)
    random = torch.Generator().manual_seed(5)
    tops, lefts, mirrored = (
        torch.randint(high, (count, 1), generator=random).flatten().tolist()
        for high in (2 * padding + 1, 2 * padding + 1, 2)
    )
    result = crop_and_flip(images, torch.Generator().manual_seed(5), padding)
    for index in range(count):
        padded = np.zeros((3, height + 2 * padding, width + 2 * padding), np.uint8)
        padded[:, padding : padding + height, padding : padding + width] = images[index].numpy()
        window = padded[:, tops[index] : tops[index] + height, lefts[index] : lefts[index] + width]
        assert np.array_equal(result[index].numpy(), window[:, :, ::-1] if mirrored[index] else window)


def test_every_shift_and_both_sides_occur_equally_often() -> None:
    """One bright pixel in the middle of many images shows where each went."""
    images = torch.zeros(16200, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 3] = 1  # mirrored: column 5
    result = crop_and_flip(images, torch.Generator().manual_seed(0), padding=1)
    counts = result.sum(dim=(0, 1), dtype=torch.int64)
    # 3 shifts down x 3 sideways x 2 sides; the mirrored and the plain shifts overlap in column 4.
    expected = torch.zeros(9, 9)
    expected[3:6, 2:7] = 900 * torch.tensor([1.0, 1, 2, 1, 1])
    torch.testing.assert_close(counts.float(), expected, atol=5 * 1800**0.5, rtol=0)
    assert counts.sum() == 16200
