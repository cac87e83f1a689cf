"""Small data sets in every format, as their makers and Hugging Face write them."""

import io
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.array([7, 2, 1, 0, 4, 9, 9], dtype=np.uint8)
IMAGE_FILE, LABEL_FILE = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def write_idx(folder: Path, images: bytes = idx(PIXELS), labels: bytes = idx(LABELS), suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{IMAGE_FILE}{suffix}").write_bytes(images)
    (folder / f"{LABEL_FILE}{suffix}").write_bytes(labels)


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


def pictures(*contents: bytes | None) -> pa.Array:
    return pa.array(
        [{"bytes": content, "path": "a.png"} for content in contents],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


SVHN_LABELS = {"train": [1, 10, 9], "test": [10, 2], "extra": [5, 10, 7, 8]}


def svhn_pixels(part: str) -> np.ndarray:
    """(32, 32, 3, images): height, width, colour, image."""
    count = len(SVHN_LABELS[part])
    return np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)


def write_svhn(root: Path, part: str, *, compressed: bool = True, **changes: object) -> Path:
    root.mkdir(exist_ok=True)
    content = {"X": svhn_pixels(part), "y": np.array(SVHN_LABELS[part], np.uint8)[:, None]} | changes
    file = root / f"{part}_32x32.mat"
    savemat(file, {key: value for key, value in content.items() if value is not None}, do_compression=compressed)
    return file


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of soft colours, as photographs are, so that JPEG and scaling change little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def deep_png(channels: int) -> bytes:
    """A picture of 4 x 4 pixels with 16 bits per channel, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = 4 * (b"\0" + np.full(4 * channels, 3000, ">u2").tobytes())
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def write_folders(root: Path, sizes: list[tuple[int, int]], splits: tuple[str, ...] = ("train", "test")) -> None:
    """Two classes with a picture of each size in each split, and things that are not pictures."""
    for split in splits:
        for label, name in enumerate(("ant", "bee")):
            for number, size in enumerate(sizes):
                write(root / split / name / f"{number}.png", encoded(smooth(*size, seed=10 * label + number)))
            write(root / split / name / ".hidden.png", b"")
            write(root / split / name / "notes.txt", b"")
        write(root / split / ".cache" / "x.png", b"")
        write(root / split / "README", b"")


def write_imagenet(root: Path, folder: str, file: str, labels: list[int], **changes: object) -> None:
    """Parquet as Hugging Face has it, row groups of two."""
    pictures = [{"bytes": encoded(smooth(60, 40, seed), "JPEG"), "path": "x.JPEG"} for seed in range(len(labels))]
    columns = {
        "image": pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": labels,
    } | changes
    (root / folder).mkdir(parents=True, exist_ok=True)
    table = pa.table({key: value for key, value in columns.items() if value is not None})
    pq.write_table(table, root / folder / file, row_group_size=2)
