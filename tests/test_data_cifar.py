"""CIFAR-10 and CIFAR-100 in every form they come in: small files in the exact formats, and the real parquet."""

import gzip
import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_sets import FILES, Calls, batch_of, content, write_archive, write_folder, write_parquet

from macer.data import InMemoryImages, load
from macer.data.pickles import read_pickle
from macer.errors import DataError


def assert_is_content(name: str, split: str, images: object) -> None:
    assert isinstance(images, InMemoryImages)
    parts = [content(name, file) for file in FILES[name][split]]
    assert images.labels.tolist() == [label for _, labels, _ in parts for label in labels]
    pixels = np.concatenate([pixels for pixels, _, _ in parts]).reshape(-1, 3, 32, 32)
    assert np.array_equal(images.images.numpy(), pixels)
    assert images.num_classes == len(set(images.class_names)) == (10 if name == "cifar10" else 100)
    assert images.augment == (split == "train")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("version", ["py", "bin"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_folders_and_archives_hold_the_same(name: str, version: str, split: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "unpacked", name, version)
    write_archive(tmp_path / "packed", name, version)
    for root in (tmp_path / "unpacked", folder, tmp_path / "packed"):
        assert_is_content(name, split, load(name, root, split))


def test_one_of_several_parquet_files_may_be_empty(tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", "train")
    last = tmp_path / "train-00004-of-00005.parquet"
    rows = pq.read_metadata(last).num_rows
    pq.write_table(pq.read_table(last).slice(0, 0), last)
    expected = sum(len(content("cifar10", batch)[1]) for batch in FILES["cifar10"]["train"]) - rows
    assert len(load("cifar10", tmp_path, "train")) == expected


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("place", [".", "plain_text", "cifar10", "cifar10/plain_text", "cifar100"])
def test_parquet_is_found_where_it_may_lie(place: str, split: str, tmp_path: Path) -> None:
    name = "cifar100" if place == "cifar100" else "cifar10"
    write_parquet(tmp_path / place, name, split)
    assert_is_content(name, split, load(name, tmp_path, split))


def test_shards_of_newer_uploads_carry_a_checksum_and_single_ones_no_number(tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", "train", "{split}-{number:05d}-of-{total:05d}-0ab1{number}.parquet")
    write_parquet(tmp_path, "cifar10", "test", "{split}.parquet")
    for split in ("train", "test"):
        assert_is_content("cifar10", split, load("cifar10", tmp_path, split))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_this_python_and_numpy_are_read_too(protocol: int, order: str) -> None:
    """Also what numpy writes for arrays that lie in memory by columns."""
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    array = np.asfortranarray(array) if order == "F" else array
    found = read_pickle(pickle.dumps({b"data": array, "labels": [1, 2]}, protocol), "here")
    assert isinstance(found["data"], np.ndarray)
    assert found["data"].tolist() == array.tolist()
    assert found["labels"] == [1, 2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, np.fromfile, np.load])
def test_hostile_pickles_do_nothing_and_are_refused(function: Callable, protocol: int, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    folder = write_folder(tmp_path, "cifar10", "py")
    argument = f"touch {victim}" if function is os.system else f"open({str(victim)!r}, 'w')"
    batch = batch_of("cifar10", "test_batch") | {b"filenames": [Calls(function, argument)]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(DataError, match=r"test_batch: not a pickle that can be read safely: it asks for") as error:
        load("cifar10", tmp_path, "test")
    assert "\n" not in str(error.value)
    assert not victim.exists()


@pytest.mark.parametrize("version", ["py", "bin"])
def test_a_missing_batch_is_named(version: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "unpacked", "cifar10", version)
    archive = write_archive(tmp_path / "packed", "cifar10", version)
    next(folder.glob("data_batch_3*")).unlink()
    with tarfile.open(archive, "w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, f"{folder.name}/{file.name}")
    for root in (tmp_path / "unpacked", tmp_path / "packed"):
        with pytest.raises(DataError, match="data_batch_3"):
            load("cifar10", root, "train")


@pytest.mark.parametrize("version", ["py", "bin"])
def test_a_flipped_bit_anywhere_in_an_archive_is_found(version: str, tmp_path: Path) -> None:
    """gzip's checksum finds every single one that changes a picture; a few change nothing that counts."""
    archive = write_archive(tmp_path, "cifar10", version)
    whole = archive.read_bytes()
    draw = np.random.default_rng(4)
    refused = []
    for at in draw.integers(len(whole), size=150):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.integers(8)]) + whole[at + 1 :])
        try:
            assert_is_content("cifar10", "train", load("cifar10", tmp_path, "train"))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 140
    assert all(text.startswith(f"{archive}: ") and "\n" not in text for text in refused)


def test_an_archive_may_hold_more_than_its_pictures_but_nothing_sparse(tmp_path: Path) -> None:
    """A sparse file of a few bytes could be of any size."""
    archive = write_archive(tmp_path, "cifar10", "bin")
    tar = bytearray(gzip.decompress(archive.read_bytes()))
    with tarfile.open(fileobj=io.BytesIO(tar)) as read:
        member = next(member for member in read if member.name.endswith("test_batch.bin"))
    sparse = tarfile.TarInfo(member.name)
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, member.size
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, member.size)  # one piece, as long as its data
    header[483:495] = b"%011o\0" % 2**32  # of a file of 4 GB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[member.offset_data - 512 : member.offset_data] = header
    archive.write_bytes(gzip.compress(tar))
    assert_is_content("cifar10", "train", load("cifar10", tmp_path, "train"))
    with pytest.raises(DataError, match=r"tar\.gz: holds no test_batch\.bin"):
        load("cifar10", tmp_path, "test")


def test_a_hostile_pickle_in_an_archive_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar10", "py")
    (folder / "test_batch").write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path / 'victim'}")))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"tar\.gz, cifar-10-batches-py/test_batch: .*system"):
        load("cifar10", tmp_path, "test")
    assert not (tmp_path / "victim").exists()


def test_the_real_test_split_is_in_the_published_order(shared: Path) -> None:
    """Index 0 is a cat, 1 and 2 are ships, and every class has 1,000 images; the order is that of published tables."""
    images = load("cifar10", shared / "data/cifar10", "test")
    assert isinstance(images, InMemoryImages)
    assert (len(images), images.shape) == (10000, (3, 32, 32))
    assert [images.class_names[images[index][1]] for index in range(3)] == ["cat", "ship", "ship"]
    assert images.labels.bincount().tolist() == [1000] * 10
    # The published certificates name the true label of every 20th image.
    rows = (shared / "reference/certificates/cifar10-cohen-resnet110/noise_0.25.tsv").read_text().splitlines()[1:]
    pairs = [(int(row.split("\t")[0]), int(row.split("\t")[1])) for row in rows]
    assert len(pairs) == 500
    assert all(int(images.labels[index]) == label for index, label in pairs)
