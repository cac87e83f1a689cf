"""CIFAR-10 and CIFAR-100 in every form they come in: small files in the exact formats, and the real parquet."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from macer.data import InMemoryImages, load
from macer.data.cifar import load_cifar
from macer.data.pickles import read_pickle
from macer.errors import DataError

FILES = {
    "cifar10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
FOLDERS = {
    "cifar10": {"py": "cifar-10-batches-py", "bin": "cifar-10-batches-bin"},
    "cifar100": {"py": "cifar-100-python", "bin": "cifar-100-binary"},
}
ARCHIVES = {"py": "python", "bin": "binary"}


def content(name: str, file: str, images: int = 3) -> tuple[np.ndarray, list[int], list[int]]:
    """Pixels, labels and (CIFAR-100's) coarse labels of one batch file, different in each file."""
    random = np.random.default_rng(sum(file.encode()))
    classes = 10 if name == "cifar10" else 100
    pixels = random.integers(0, 256, (images, 3072), dtype=np.uint8)
    return pixels, random.integers(0, classes, images).tolist(), random.integers(0, 20, images).tolist()


def old_string(text: bytes) -> bytes:
    """A Python 2 string as Python 2 pickled it."""
    return (b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))) + text


def python2_pickle(batch: dict[bytes, object]) -> bytes:
    """What Python 2 and the numpy of 2009 wrote with protocol 2, instruction by instruction (see pickletools)."""
    parts = [b"\x80\x02}("]
    for key, value in batch.items():
        parts.append(old_string(key))
        if isinstance(value, np.ndarray):
            parts += [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"K\x00\x85", old_string(b"b")]
            parts += [b"\x87R(K\x01", b"".join(b"M" + struct.pack("<H", side) for side in value.shape), b"\x86"]
            parts += [b"cnumpy\ndtype\n", old_string(b"u1"), b"K\x00K\x01\x87R(K\x03", old_string(b"|")]
            parts += [b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb", b"\x89", old_string(value.tobytes()), b"tb"]
        elif isinstance(value, list):
            items = [b"K" + bytes([item]) if isinstance(item, int) else old_string(item) for item in value]
            parts.append(b"](" + b"".join(items) + b"e")
    return b"".join(parts) + b"u."


def batch_of(name: str, file: str) -> dict[bytes, object]:
    pixels, labels, coarse = content(name, file)
    batch: dict[bytes, object] = {b"data": pixels, b"filenames": [b"some_%d.png" % index for index in range(3)]}
    return batch | ({b"labels": labels} if name == "cifar10" else {b"fine_labels": labels, b"coarse_labels": coarse})


def pickled(name: str, file: str) -> bytes:
    return python2_pickle(batch_of(name, file))


def binary(name: str, file: str) -> bytes:
    pixels, labels, coarse = content(name, file)
    before = (lambda i: bytes([labels[i]])) if name == "cifar10" else (lambda i: bytes([coarse[i], labels[i]]))
    return b"".join(before(index) + pixels[index].tobytes() for index in range(len(labels)))


WRITERS: dict[str, Callable[[str, str], bytes]] = {"py": pickled, "bin": binary}


def write_folder(root: Path, name: str, version: str) -> Path:
    folder = root / FOLDERS[name][version]
    folder.mkdir(parents=True)
    for file in FILES[name]["train"] + FILES[name]["test"]:
        (folder / (file if version == "py" else f"{file}.bin")).write_bytes(WRITERS[version](name, file))
    return folder


def write_archive(root: Path, name: str, version: str) -> Path:
    """The folder as distributed, its files in an order of the archive's own."""
    folder = write_folder(root, name, version)
    archive = root / f"{name[:5]}-{name[5:]}-{ARCHIVES[version]}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir(), reverse=True):
            tar.add(file, f"{folder.name}/{file.name}")
    shutil.rmtree(folder)
    return archive


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    folder: Path, name: str, split: str, file: str = "{split}-{number:05d}-of-{total:05d}.parquet", **changes: object
) -> None:
    """A shard for each batch file; `changes` replaces columns or drops them (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(FILES[name][split]):
        pixels, labels, coarse = content(name, batch)
        pictures = [{"bytes": png(row.reshape(3, 32, 32).transpose(1, 2, 0)), "path": None} for row in pixels]
        columns: dict[str, object] = {
            "img": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            **({"label": labels} if name == "cifar10" else {"fine_label": labels, "coarse_label": coarse}),
        }
        columns = {key: value for key, value in (columns | changes).items() if value is not None}
        target = folder / file.format(split=split, number=number, total=len(FILES[name][split]))
        pq.write_table(pa.table(columns), target, row_group_size=2)


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


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
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
    ],
)
def test_pickles_that_hold_something_else_are_one_line(change: dict, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar10", "py")
    (folder / "test_batch").write_bytes(pickle.dumps(batch_of("cifar10", "test_batch") | change))
    with pytest.raises(DataError, match=f"test_batch: .*{message}"):
        load("cifar10", tmp_path, "test")


def test_damaged_binary_files_are_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar100", "bin")
    file, whole = folder / "test.bin", binary("cifar100", "test")
    for damaged, message in [
        (whole[:-1], "test.bin: cut off: 9221 bytes are not a whole number of images of 3074 bytes"),
        (b"", "test.bin: cut off"),
        (whole[:1] + b"\x64" + whole[2:], "test.bin: label 100 is not one of 0 to 99"),
    ]:
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            load("cifar100", tmp_path, "test")


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


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "cifar10", "py")
    whole = archive.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:1000] + bytes(100) + whole[1100:],
        b"",
        b"hello",
        gzip.compress(b"not a tar" * 200, mtime=0),
        gzip.compress(gzip.decompress(whole)[:5000]),
        whole[:-8] + bytes(4) + whole[-4:],  # the checksum alone
        whole[:-4] + bytes(4),  # the length alone
        gzip.compress(longer_name(gzip.decompress(whole))),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz") as error:
            load("cifar10", tmp_path, "train")
        assert "\n" not in str(error.value)


def longer_name(tar: bytes) -> bytes:
    """A header before all others that promises a name of 8 GB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    return header.tobuf() + tar


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


@pytest.mark.parametrize("version", ["py", "bin"])
def test_batches_and_archives_larger_than_any_of_cifar_are_not_read(version: str, tmp_path: Path) -> None:
    file = next(write_folder(tmp_path / "unpacked", "cifar10", version).glob("test*"))
    with file.open("ab") as stream:
        stream.truncate(2**40)
    with pytest.raises(DataError, match=r"test_batch[.a-z]*: 1,099,511,627,776 bytes; at most 268,435,456 are read"):
        load("cifar10", tmp_path / "unpacked", "test")
    archive = write_archive(tmp_path, "cifar10", version)
    with gzip.open(archive, "ab", compresslevel=1) as stream:
        for _ in range(256):
            stream.write(bytes(2**20))
    with pytest.raises(DataError, match=r"tar\.gz: holds more than 268,435,456 bytes"):
        load("cifar10", tmp_path, "test")


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


@pytest.mark.parametrize("version", ["py", "bin"])
def test_an_archive_that_cannot_be_opened_says_why(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path, "cifar10", version)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(gzip, "open", denied)
    with pytest.raises(DataError, match=f"^{archive}: Permission denied$"):
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


def test_nothing_found_says_all_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load("cifar100", tmp_path, "test")
    for part in (
        str(tmp_path),
        "cifar-100-python/test",
        "cifar-100-binary/test.bin",
        "test-*.parquet",
        "cifar-100-python.tar.gz",
        "cifar-100-binary.tar.gz",
    ):
        assert part in str(error.value)


def test_missing_and_surplus_shards_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", "train")
    surplus = tmp_path / "train-00002-of-00005-again.parquet"
    shutil.copy(tmp_path / "train-00002-of-00005.parquet", surplus)
    with pytest.raises(DataError, match=r"6 files train\*\.parquet where their names promise 5"):
        load("cifar10", tmp_path, "train")
    surplus.unlink()
    (tmp_path / "train-00003-of-00005.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00003-of-00005\.parquet is missing"):
        load("cifar10", tmp_path, "train")


def pictures(*contents: bytes | None) -> pa.Array:
    return pa.array(
        [{"bytes": content, "path": "a.png"} for content in contents],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


GOOD = png(np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img": None}, "has no column 'img'; its columns are label"),
        ({"label": None}, "has no column 'label'; its columns are img"),
        ({"img": ["a.png"] * 3}, "'img' holds no encoded pictures"),
        ({"label": ["cat", "dog", "frog"]}, "'label' holds no whole numbers"),
        ({"label": [1, None, 2]}, "1 rows have no label"),
        ({"label": [1, 10, 2]}, r"/test-00000-of-00001\.parquet: labels from 1 to 10"),
        ({"label": [1, -1, 2]}, r"/test-00000-of-00001\.parquet: labels from -1 to 2"),
        ({"img": pictures(GOOD, GOOD, GOOD[:60])}, r"of-00001\.parquet, row group 1, row 0: cannot be decoded"),
        ({"img": pictures(GOOD, b"\0" * 99, GOOD)}, r"row group 0, row 1: cannot be decoded: not a picture"),
        ({"img": pictures(GOOD, b"", GOOD)}, r"row group 0, row 1: cannot be decoded"),
        ({"img": pictures(GOOD, None, GOOD)}, "row group 0, row 1: holds no picture"),
        (
            {"img": pictures(GOOD, png(np.zeros((31, 32, 3), np.uint8)), GOOD)},
            "row 1: cannot be decoded: 32 x 31 pixels where 32 x 32 are expected",
        ),
    ],
)
def test_parquet_that_holds_something_else_is_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", "test", **changes)
    with pytest.raises(DataError, match=message) as error:
        load("cifar10", tmp_path, "test")
    assert "\n" not in str(error.value)


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path, "cifar10", "test")
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    for damaged in (b"", whole[:-30], whole[:4] + bytes(200) + whole[204:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet") as error:
            load_cifar("cifar10", tmp_path, "test")
        assert "\n" not in str(error.value)


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
