"""SVHN from small MATLAB files in the format of the real ones."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_sets import SVHN_LABELS, svhn_pixels, write_svhn

from macer.data import InMemoryImages, load
from macer.errors import DataError


@pytest.mark.parametrize("folder", [".", "svhn"])
@pytest.mark.parametrize(
    ("name", "split", "parts", "labels"),
    [
        ("svhn", "train", ["train"], [1, 0, 9]),
        ("svhn", "test", ["test"], [0, 2]),
        ("svhn-extra", "train", ["train", "extra"], [1, 0, 9, 5, 0, 7, 8]),
        ("svhn-extra", "test", ["test"], [0, 2]),
    ],
)
def test_each_split_reads_its_files(
    name: str, split: str, parts: list[str], labels: list[int], folder: str, tmp_path: Path
) -> None:
    for part in SVHN_LABELS:
        write_svhn(tmp_path / folder, part)
    images = load(name, tmp_path, split)
    assert isinstance(images, InMemoryImages)
    assert images.labels.tolist() == labels
    pixels = np.concatenate([svhn_pixels(part) for part in parts], axis=3)
    for index in range(len(labels)):  # colours first, height and width not swapped
        assert np.array_equal(images.images[index].permute(1, 2, 0).numpy(), pixels[..., index])
    assert images.augment == (split == "train")


def test_more_images_than_are_turned_at_once_keep_their_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 1), dtype=np.uint8) + np.arange(2100, dtype=np.uint8)
    write_svhn(tmp_path, "test", X=pixels, y=np.arange(2100)[:, None] % 10 + 1)
    images = load("svhn", tmp_path, "test")
    assert isinstance(images, InMemoryImages)
    assert np.array_equal(images.images.numpy(), pixels.transpose(3, 2, 0, 1))
    assert images.labels.tolist() == [(index + 1) % 10 for index in range(2100)]


@pytest.mark.parametrize("compressed", [True, False])
def test_files_damaged_anywhere_hold_the_same_or_are_one_line(compressed: bool, tmp_path: Path) -> None:
    """SciPy's reader ended Python itself on some of these. Without compression nothing protects the pixels."""
    draw = np.random.default_rng(6)
    file = write_svhn(tmp_path, "test", compressed=compressed, X=np.arange(6144, dtype=np.uint8).reshape(32, 32, 3, 2))
    whole = file.read_bytes()
    expected = load("svhn", tmp_path, "test")
    assert isinstance(expected, InMemoryImages)
    values = [0, 1, 2, 5, 6, 8, 9, 14, 15, 255]
    refused = []
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(draw.integers(1, 4)):
            begin, end = [(100, 260), (len(whole) - 100, len(whole)), (0, len(whole))][draw.integers(3)]
            content[draw.integers(begin, end)] = draw.choice([*values, draw.integers(256)])
        file.write_bytes(content)
        try:
            images = load("svhn", tmp_path, "test")
        except DataError as error:
            refused.append(str(error))
        else:
            assert isinstance(images, InMemoryImages)
            assert images.images.shape == (2, 3, 32, 32)
            assert not compressed or (images.images.equal(expected.images) and images.labels.equal(expected.labels))
    assert 100 < len(refused) < 490
    assert all(text.startswith(f"{file}: ") and "\n" not in text for text in refused)


def test_images_are_in_memory_once(tmp_path: Path) -> None:
    count = 20_000
    write_svhn(tmp_path, "train", X=np.zeros((32, 32, 3, count), np.uint8), y=np.ones((count, 1), np.uint8))
    tracemalloc.start()
    images = load("svhn", tmp_path, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == count
    assert 1 < peak / (count * 3 * 32 * 32) < 1.25
