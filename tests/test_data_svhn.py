"""SVHN from small MATLAB files in the format of the real ones."""

import tracemalloc
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


def write(root: Path, part: str, *, compressed: bool = True, **changes: object) -> Path:
    root.mkdir(exist_ok=True)
    content = {"X": pixels_of(part), "y": np.array(LABELS[part], np.uint8)[:, None]} | changes
    file = root / f"{part}_32x32.mat"
    savemat(file, {key: value for key, value in content.items() if value is not None}, do_compression=compressed)
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
        ({"X": None}, "holds no variable X"),
        ({"y": None}, "holds no variable y"),
        ({"X": np.zeros((2, 3, 32, 32), np.uint8)}, r"X is \(2, 3, 32, 32\)"),
        ({"y": np.ones((3, 1), np.uint8)}, r"y is \(3, 1\)"),
        ({"X": np.zeros((32, 32, 3, 2))}, "X holds float64"),
        ({"y": np.array([[0], [1]], np.uint8)}, "labels from 0 to 1 where 1 to 10"),
        ({"y": np.array([[11], [1]], np.uint8)}, "labels from 1 to 11 where 1 to 10"),
        ({"y": np.array([[1.5], [2]])}, "labels from 1.5 to 2.0 where 1 to 10"),
        ({"y": np.array([["a"], ["b"]], dtype=object)}, "y holds no real numbers"),
        ({"y": np.array([[1j], [2]])}, "y holds no real numbers"),
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
        whole[:185] + bytes([whole[185] ^ 1]) + whole[186:],
        whole[:-1] + bytes([whole[-1] ^ 1]),  # in the checksum alone
    ):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test_32x32\.mat") as error:
            load("svhn", tmp_path, "test")
        assert "\n" not in str(error.value)


def test_more_images_than_are_turned_at_once_keep_their_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 1), dtype=np.uint8) + np.arange(2100, dtype=np.uint8)
    write(tmp_path, "test", X=pixels, y=np.arange(2100)[:, None] % 10 + 1)
    images = load("svhn", tmp_path, "test")
    assert isinstance(images, InMemoryImages)
    assert np.array_equal(images.images.numpy(), pixels.transpose(3, 2, 0, 1))
    assert images.labels.tolist() == [(index + 1) % 10 for index in range(2100)]


@pytest.mark.parametrize("compressed", [True, False])
def test_files_damaged_anywhere_hold_the_same_or_are_one_line(compressed: bool, tmp_path: Path) -> None:
    """SciPy's reader ended Python itself on some of these. Without compression nothing protects the pixels."""
    draw = np.random.default_rng(6)
    file = write(tmp_path, "test", compressed=compressed, X=np.arange(6144, dtype=np.uint8).reshape(32, 32, 3, 2))
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


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "test")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=rf"^{file}: Permission denied$"):
        load("svhn", tmp_path, "test")


def test_images_are_in_memory_once(tmp_path: Path) -> None:
    count = 20_000
    write(tmp_path, "train", X=np.zeros((32, 32, 3, count), np.uint8), y=np.ones((count, 1), np.uint8))
    tracemalloc.start()
    images = load("svhn", tmp_path, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == count
    assert 1 < peak / (count * 3 * 32 * 32) < 1.25
