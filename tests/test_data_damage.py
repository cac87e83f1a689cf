"""Damaged, incomplete and hostile data sets in every format: each is refused in one line that says what is wrong."""

import gzip
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_sets import (
    IMAGE_FILE,
    LABEL_FILE,
    LABELS,
    PIXELS,
    batch_of,
    encoded,
    idx,
    pictures,
    png,
    smooth,
    write,
    write_archive,
    write_folder,
    write_folders,
    write_idx,
    write_imagenet,
    write_parquet,
    write_svhn,
)

from macer.data import load
from macer.data.pickles import read_pickle
from macer.errors import DataError

Change = Callable[[bytes], bytes]
PACKED = gzip.compress(idx(PIXELS), mtime=0), gzip.compress(idx(LABELS), mtime=0)
TOO_LARGE = "1,099,511,627,776 bytes; at most 268,435,456 are read"


def first(length: int = 0) -> Change:
    """Keep the first bytes."""
    return lambda whole: whole[: length or len(whole) // 2]


def replaced(start: int, new: bytes) -> Change:
    """Overwrite bytes from a place on, which is counted from the end if it is negative."""

    def change(whole: bytes) -> bytes:
        at = start % len(whole)
        return whole[:at] + new + whole[at + len(new) :]

    return change


def flipped(at: int) -> Change:
    return lambda whole: replaced(at, bytes([whole[at] ^ 1]))(whole)


def longer_name(tar: bytes) -> bytes:
    """A header before all others that promises a name of 8 GB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    return header.tobuf() + tar


def inflate(file: Path) -> None:
    """Append 256 MB to a compressed file."""
    with gzip.open(file, "ab", compresslevel=1) as stream:
        for _ in range(256):
            stream.write(bytes(2**20))


def enlarge(file: Path) -> None:
    os.truncate(file, 2**40)


def damaged(write: Callable[[Path], object], file: str, act: Callable[[Path], object]) -> Callable[[Path], object]:
    """Write a data set, then do something to one file."""
    return lambda root: (write(root), act(root / file))


def edited(write: Callable[[Path], object], file: str, change: Change) -> Callable[[Path], object]:
    """Write a data set, then change the content of one file."""
    return damaged(write, file, lambda path: path.write_bytes(change(path.read_bytes())))


def with_pickle(batch: object) -> Callable[[Path], object]:
    return edited(CIFAR["py"], BATCH, lambda _: pickle.dumps(batch))


CIFAR = {version: partial(write_folder, name="cifar10", version=version) for version in ("py", "bin")}
BINARY = partial(write_folder, name="cifar100", version="bin")
ARCHIVE = {version: partial(write_archive, name="cifar10", version=version) for version in ("py", "bin")}
PARQUET = partial(write_parquet, name="cifar10", split="test")
SHARDS = partial(write_parquet, name="cifar10", split="train")
TAR, TAR_BINARY, BATCH = "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-batches-py/test_batch"
SHARD = "test-00000-of-00001.parquet"
MAT = "test_32x32.mat"
SVHN = partial(write_svhn, part="test")
GOOD = png(np.zeros((32, 32, 3), np.uint8))
PACKED_IDX = partial(write_idx, images=PACKED[0], labels=PACKED[1], suffix=".gz")
HDF5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)


FOLDERS_OF_PICTURES = partial(write_folders, sizes=[(9, 6)])
TEST_PICTURES = partial(write_folders, sizes=[(9, 6)], splits=("test",))
COW_IN_BOTH = damaged(damaged(FOLDERS_OF_PICTURES, "test/cow", Path.mkdir), "train/cow", Path.mkdir)

DAMAGES = [
    *(
        ("mnist", "test", partial(write_idx, images=images, labels=labels), words)
        for images, labels, words in [
            (idx(PIXELS)[:-1], idx(LABELS), [IMAGE_FILE, "cut off", "5503 bytes", "5504"]),
            (idx(PIXELS) + b"x", idx(LABELS), [IMAGE_FILE, "too long"]),
            (idx(PIXELS)[:9], idx(LABELS), [IMAGE_FILE, "wrong magic number"]),
            (b"", idx(LABELS), [IMAGE_FILE, "empty file"]),
            (idx(LABELS), idx(LABELS), [IMAGE_FILE, "wrong magic number 00000801"]),
            (idx(PIXELS), idx(PIXELS), [LABEL_FILE, "wrong magic number 00000803"]),
            (b"\0\0\x0d\3" + idx(PIXELS)[4:], idx(LABELS), [IMAGE_FILE, "wrong magic number 00000d03"]),
            # Each side is below 2^32, the product far above 2^64.
            (b"\0\0\x08\3" + b"\xff" * 12, idx(LABELS), [IMAGE_FILE, "cut off"]),
            (idx(PIXELS), idx(LABELS[:6]), ["7 images but 6 labels"]),
            (idx(PIXELS), idx(LABELS + 1), [f"{LABEL_FILE}: labels from 1 to 10"]),
            (idx(PIXELS[:0]), idx(LABELS[:0]), ["no images"]),
        ]
    ),
    *(
        ("mnist", "test", partial(PACKED_IDX, images=images), [f"{IMAGE_FILE}.gz: damaged or cut off"])
        for images in (PACKED[0][:-20], PACKED[0][:200] + b"\0" * 300)
    ),
    (
        "mnist",
        "test",
        damaged(write_idx, LABEL_FILE, Path.unlink),
        [f"found no {LABEL_FILE} or {LABEL_FILE}.gz"],
    ),
    ("mnist", "test", damaged(write_idx, IMAGE_FILE, enlarge), [f"{IMAGE_FILE}: {TOO_LARGE}"]),
    (
        "mnist",
        "test",
        damaged(PACKED_IDX, f"{IMAGE_FILE}.gz", inflate),
        [f"{IMAGE_FILE}.gz: holds more than 268,435,456"],
    ),
    *(
        ("cifar10", "test", with_pickle(batch_of("cifar10", "test_batch") | change), ["test_batch: ", words])
        for change, words in [
            ({b"data": None}, "'data' is not an array of rows of 3072 bytes"),
            ({b"data": np.zeros((3, 3071), np.uint8)}, "'data' is not an array of rows of 3072 bytes"),
            ({b"data": np.zeros(3072, np.uint8)}, "'data' is not an array of rows of 3072 bytes"),
            ({b"labels": None}, "'labels' are not a list"),
            ({b"labels": [1, "2", 3]}, "'labels' are not a list"),
            ({b"labels": [1, 2.5, 3]}, "'labels' are not a list"),
            ({b"labels": [1, 2]}, "3 images but 2 labels"),
            ({b"labels": [1, 10, 3]}, "label 10 is not one of 0 to 9"),
            ({b"labels": [1, -1, 3]}, "label -1 is not one of 0 to 9"),
            ({b"labels": [1, 2**70, 3]}, f"label {2**70} is not one of 0 to 9"),
        ]
    ),
    ("cifar10", "test", damaged(CIFAR["py"], BATCH, enlarge), [f"test_batch: {TOO_LARGE}"]),
    ("cifar10", "test", damaged(CIFAR["bin"], "cifar-10-batches-bin/test_batch.bin", enlarge), [f".bin: {TOO_LARGE}"]),
    *(
        ("cifar100", "test", edited(BINARY, "cifar-100-binary/test.bin", change), [words])
        for change, words in [
            (first(length=9221), "test.bin: cut off: 9221 bytes are not a whole number of images of 3074 bytes"),
            (lambda _: b"", "test.bin: cut off"),
            (replaced(1, b"\x64"), "test.bin: label 100 is not one of 0 to 99"),
        ]
    ),
    *(
        ("cifar10", "train", edited(ARCHIVE["py"], TAR, change), [TAR])
        for change in (
            first(),
            replaced(1000, bytes(100)),
            lambda _: b"",
            lambda _: b"hello",
            lambda _: gzip.compress(b"not a tar" * 200, mtime=0),
            lambda whole: gzip.compress(gzip.decompress(whole)[:5000]),
            replaced(-8, bytes(4)),  # the checksum alone
            replaced(-4, bytes(4)),  # the length alone
            lambda whole: gzip.compress(longer_name(gzip.decompress(whole))),
        )
    ),
    (
        "cifar10",
        "test",
        damaged(ARCHIVE["py"], TAR, inflate),
        [f"{TAR}: holds more than 268,435,456 bytes"],
    ),
    (
        "cifar10",
        "test",
        damaged(ARCHIVE["bin"], TAR_BINARY, inflate),
        [f"{TAR_BINARY}: holds more than 268,435,456 bytes"],
    ),
    (
        "cifar100",
        "test",
        lambda _: None,
        ["cifar-100-python/test", "cifar-100-binary/test.bin", "test-*.parquet", "-python.tar.gz", "-binary.tar.gz"],
    ),
    (
        "cifar10",
        "train",
        damaged(
            SHARDS, "train-00002-of-00005.parquet", lambda file: shutil.copy(file, file.with_stem(f"{file.stem}-again"))
        ),
        ["6 files train*.parquet where their names promise 5"],
    ),
    (
        "cifar10",
        "train",
        damaged(SHARDS, "train-00003-of-00005.parquet", Path.unlink),
        ["train-00003-of-00005.parquet is missing"],
    ),
    *(
        ("cifar10", "test", partial(PARQUET, **changes), [SHARD, words])
        for changes, words in [
            ({"img": None}, "has no column image or img; its columns are label"),
            ({"label": None}, "has no column fine_label, fine_labels, label or labels; its columns are img"),
            ({"img": ["a.png"] * 3}, "'img' holds no encoded pictures"),
            ({"label": ["cat", "dog", "frog"]}, "'label' holds no whole numbers"),
            ({"label": [1, None, 2]}, "1 rows have no label"),
            ({"label": [1, 10, 2]}, "labels from 1 to 10"),
            ({"label": [1, -1, 2]}, "labels from -1 to 2"),
            ({"img": pictures(GOOD, GOOD, GOOD[:60])}, "row group 1, row 0: cannot be decoded"),
            ({"img": pictures(GOOD, b"\0" * 99, GOOD)}, "row group 0, row 1: cannot be decoded: not a picture"),
            ({"img": pictures(GOOD, b"", GOOD)}, "row group 0, row 1: cannot be decoded"),
            ({"img": pictures(GOOD, None, GOOD)}, "row group 0, row 1: holds no picture"),
            (
                {"img": pictures(GOOD, png(np.zeros((31, 32, 3), np.uint8)), GOOD)},
                "row 1: cannot be decoded: 32 x 31 pixels where 32 x 32 are expected",
            ),
        ]
    ),
    *(
        ("cifar10", "test", edited(PARQUET, SHARD, change), [SHARD])
        for change in (lambda _: b"", lambda whole: whole[:-30], replaced(4, bytes(200)))
    ),
    (
        "svhn-extra",
        "train",
        partial(write_svhn, part="train"),
        ["svhn-extra: found no extra_32x32.mat or extra-*.parquet in", "; found train_32x32.mat"],
    ),
    *(
        ("svhn", "test", partial(SVHN, **changes), [f"{MAT}: ", words])
        for changes, words in [
            ({"X": None}, "holds no variable X"),
            ({"y": None}, "holds no variable y"),
            ({"X": np.zeros((2, 3, 32, 32), np.uint8)}, "X is (2, 3, 32, 32)"),
            ({"y": np.ones((3, 1), np.uint8)}, "y is (3, 1)"),
            ({"X": np.zeros((32, 32, 3, 2))}, "X holds float64"),
            ({"y": np.array([[0], [1]], np.uint8)}, "labels from 0 to 1 where 1 to 10"),
            ({"y": np.array([[11], [1]], np.uint8)}, "labels from 1 to 11 where 1 to 10"),
            ({"y": np.array([[1.5], [2]])}, "labels from 1.5 to 2.0 where 1 to 10"),
            ({"y": np.array([["a"], ["b"]], dtype=object)}, "y holds no real numbers"),
            ({"y": np.array([[1j], [2]])}, "y holds no real numbers"),
        ]
    ),
    *(
        ("svhn", "test", edited(SVHN, MAT, change), [MAT])
        for change in (
            lambda _: b"",
            first(length=100),
            first(),
            lambda whole: whole[:-5],
            lambda _: bytes(3000),
            lambda _: b"hello" * 100,
            lambda _: HDF5,
            replaced(300, bytes(300)),
            flipped(185),
            flipped(-1),  # in the checksum alone
        )
    ),
    *(
        (name, "train", damage, [words])
        for name in ("folder", "imagenet")
        for damage, words in [
            (damaged(FOLDERS_OF_PICTURES, "test/cow", Path.mkdir), "train lacks, such as cow"),
            (COW_IN_BOTH, "train/cow: a class folder without pictures"),
            (lambda root: (TEST_PICTURES(root), (root / "train").mkdir()), "train: holds no folders"),
            (
                lambda root: (TEST_PICTURES(root), write(root / "train" / "ant" / "0.png", encoded(smooth(9, 6)))),
                "train: holds one class, ant; at least 2 are needed",
            ),
        ]
    ),
    (
        "folder",
        "train",
        edited(FOLDERS_OF_PICTURES, "train/bee/0.png", lambda _: b"not a picture"),
        ["train/bee/0.png: cannot be decoded: not a picture"],
    ),
    *(
        ("imagenet", "train", partial(write_imagenet, folder=".", file=file, labels=labels, **changes), words)
        for file, labels, changes, words in [
            ("train-00000-of-00001.parquet", [0, 1000], {}, ["00000-of-00001.parquet: labels from 0 to 1000"]),
            ("train-00001-of-00002.parquet", [0, 1], {}, ["train-00000-of-00002.parquet is missing"]),
            ("train-00000-of-00001.parquet", [0, 1], {"image": None}, ["no column image or img"]),
        ]
    ),
]


@pytest.mark.parametrize(
    ("name", "split", "damage", "words"),
    DAMAGES,
    ids=[f"{row[0]}-{number}-{row[3][-1]:.30}" for number, row in enumerate(DAMAGES)],
)
def test_a_damaged_data_set_is_refused_in_one_line(
    name: str, split: str, damage: Callable[[Path], object], words: list[str], tmp_path: Path
) -> None:
    damage(tmp_path)
    with pytest.raises(DataError) as error:
        load(name, tmp_path, split)
    said = str(error.value)
    assert "\n" not in said
    assert str(tmp_path) in said or " images but " in said or "no images" in said
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "file", "write", "place"),
    [
        ("cifar10", TAR, ARCHIVE["py"], gzip),
        ("cifar10", TAR_BINARY, ARCHIVE["bin"], gzip),
        ("svhn", MAT, SVHN, Path),
    ],
)
def test_a_file_that_cannot_be_opened_says_why(name, file, write, place, tmp_path, monkeypatch) -> None:
    write(tmp_path)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place, "open", denied)
    with pytest.raises(DataError, match=f"^{tmp_path / file}: Permission denied$"):
        load(name, tmp_path, "test")


class Bare:
    pass


@pytest.mark.parametrize(
    "bad",
    [
        pickle.dumps({"data": np.array([1.5])}),
        pickle.dumps({"data": np.array([Bare()], dtype=object)}),
        pickle.dumps({"data": np.array([1], dtype="datetime64[s]")}),
        pickle.dumps(Bare()),
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros((2, 2), np.uint8)})[:-9],
        b"",
        b"\x80\x04garbage",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"\x80\x02}K\x01\x8a\xffK\x02s.",
        b"\x80\x05\x8e" + b"\xff" * 7 + b"\x00.",  # promises 2^56 bytes
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01I9999999999\nNI00\nNtb.",
    ],
)
def test_malformed_pickles_are_one_line(bad: bytes) -> None:
    with pytest.raises(DataError, match=r"^here: .*pickle") as error:
        read_pickle(bad, "here")
    assert "\n" not in str(error.value)
