"""SVHN from small MATLAB files in the format of the real ones."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from macer.data import InMemoryImages, load
from macer.errors import DataError

LABELS = {"train": [1, 10, 9], "test": [10, 2], "extra": [5, 10, 7, 8]}


def pixels_of(part: str) -> np.ndarray:
    """(32, 32, 3, images): height, width, colour, image."""
    count = len(LABELS[part])
    return np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)


def write(root: Path, part: str, **changes: object) -> Path:
    root.mkdir(exist_ok=True)
    content = {"X": pixels_of(part), "y": np.array(LABELS[part], np.uint8)[:, None]} | changes
    file = root / f"{part}_32x32.mat"
    savemat(file, {key: value for key, value in content.items() if value is not None}, do_compression=True)
    return file


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
    for part in LABELS:
        write(tmp_path / folder, part)
    images = load(name, tmp_path, split)
    assert isinstance(images, InMemoryImages)
    assert images.labels.tolist() == labels
    pixels = np.concatenate([pixels_of(part) for part in parts], axis=3)
    for index in range(len(labels)):  # colours first, height and width not swapped
        assert np.array_equal(images.images[index].permute(1, 2, 0).numpy(), pixels[..., index])
    assert images.augment == (split == "train")


def test_a_missing_file_is_named_with_the_places(tmp_path: Path) -> None:
    write(tmp_path, "train")
    with pytest.raises(DataError, match=rf"svhn-extra: found no extra_32x32\.mat in {tmp_path} or {tmp_path}/svhn"):
        load("svhn-extra", tmp_path, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, r"X is \(\)"),
        ({"y": None}, r"y is \(\)"),
        ({"X": np.zeros((2, 3, 32, 32), np.uint8)}, r"X is \(2, 3, 32, 32\)"),
        ({"y": np.ones((3, 1), np.uint8)}, r"y is \(3, 1\)"),
        ({"X": np.zeros((32, 32, 3, 2))}, "X holds float64"),
        ({"y": np.array([[0], [1]], np.uint8)}, "labels from 0 to 1 where 1 to 10"),
        ({"y": np.array([[11], [1]], np.uint8)}, "labels from 1 to 11 where 1 to 10"),
        ({"y": np.array([[1.5], [2]])}, "labels from 1.5 to 2.0 where 1 to 10"),
        ({"y": np.array([["a"], ["b"]], dtype=object)}, "y holds object"),
    ],
)
def test_files_that_hold_something_else_are_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    write(tmp_path, "test", **changes)
    with pytest.raises(DataError, match=rf"test_32x32\.mat: .*{message}") as error:
        load("svhn", tmp_path, "test")
    assert "\n" not in str(error.value)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    file = write(tmp_path, "test")
    whole = file.read_bytes()
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)
    for damaged in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-5],
        bytes(3000),
        b"hello" * 100,
        hdf5,
        whole[:300] + bytes(300) + whole[600:],
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test_32x32\.mat") as error:
            load("svhn", tmp_path, "test")
        assert "\n" not in str(error.value)
