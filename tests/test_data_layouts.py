"""Every layout in which people have the data sets: a row writes a tiny tree, and the same images are read back."""

import gzip
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import IMAGE_FILE, LABEL_FILE, LABELS, PIXELS, encoded, idx, png, smooth, write, write_folders
from PIL import Image

from macer.data import InMemoryImages, load
from macer.data.pictures import centre_view, to_tensor
from macer.errors import DataError

COLOURED = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
PLAIN = (IMAGE_FILE, LABEL_FILE)
DOTTED = [name.replace("-idx", ".idx") for name in PLAIN]
Write = Callable[[Path], object]


def gz(names: Sequence[str]) -> list[str]:
    return [f"{name}.gz" for name in names]


def in_folders(folders: Sequence[str], names: Sequence[str]) -> list[str]:
    return [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]


def idx_files(root: Path, names: Sequence[str], pack: Callable[[bytes], bytes] = bytes) -> None:
    """The images and the labels, under the two names given."""
    for name, content in zip(names, (idx(PIXELS), idx(LABELS)), strict=True):
        write(root / name, pack(content))


def parquet(
    root: Path,
    file: str = "data/test-00000-of-00001.parquet",
    *,
    pixels: np.ndarray = PIXELS,
    image: str = "image",
    label: str = "label",
    binary: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Seven pictures in one file, beside what macOS leaves where it copies files."""
    pictures = [png(picture) for picture in pixels]
    column = pa.array(pictures if binary else [{"bytes": picture, "path": None} for picture in pictures])
    table = pa.table({label: LABELS.astype(np.int64), "coarse_label": [0] * 7, image: column})
    if names:
        features = {"info": {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / file, row_group_size=3)
    write((root / file).with_name(f"._{Path(file).name}"), b"\0\5\x16\7")
    write(root / "__MACOSX" / file, b"\0\5\x16\7")


def several(*writes: Write) -> Write:
    return lambda root: [each(root) for each in writes]


PLACES = [
    "test.parquet",
    "test-00000-of-00001.parquet",
    "data/test-00000-of-00001.parquet",
    "data/test-00000-of-00001-b42e2c1b1b1b1b1b.parquet",
    "plain_text/test-00000-of-00001.parquet",
    "test/0000.parquet",
    "plain_text/test/0000.parquet",
    "snapshots/77f3279092a1c1579b2250db8eafed0ad422088c/data/test-00000-of-00001.parquet",
]
COLUMNS: list[dict[str, Any]] = [
    {"image": "img"},
    {"label": "labels"},
    {"label": "fine_label"},
    {"binary": True},
    {"image": "img", "label": "labels", "binary": True},
]
NAMES = {
    "mnist": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    "fashion-mnist": [
        "T - shirt / top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "svhn": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
}
"""The names of the classes as the Hub's files have them."""
OF = {"mnist": parquet, "fashion-mnist": parquet} | dict.fromkeys(
    ("cifar10", "cifar100", "svhn"), partial(parquet, pixels=COLOURED)
)
LAYOUTS: list[tuple[str, Write]] = [
    *(
        (name, partial(idx_files, names=names, pack=pack))
        for name in ("mnist", "fashion-mnist")
        for names, pack in [
            (PLAIN, bytes),
            (DOTTED, bytes),
            (gz(PLAIN), gzip.compress),
            (gz(DOTTED), gzip.compress),
            (in_folders(PLAIN, PLAIN), bytes),
            (in_folders(DOTTED, DOTTED), bytes),
            (in_folders(PLAIN, DOTTED), bytes),
            (in_folders(gz(PLAIN), gz(PLAIN)), gzip.compress),
            (gz(PLAIN), bytes),
            (PLAIN, gzip.compress),
            ([f"raw/{each}" for each in DOTTED], bytes),
        ]
    ),
    *((name, partial(write_one, file=file)) for name, write_one in OF.items() for file in PLACES),
    *((name, partial(write_one, **columns)) for name, write_one in OF.items() for columns in COLUMNS),
    *((name, partial(OF[name], names=names)) for name, names in NAMES.items()),
    (
        "svhn",
        several(
            partial(OF["svhn"], file="cropped_digits/test-00000-of-00001.parquet"),
            partial(parquet, file="full_numbers/test-00000-of-00001.parquet"),
        ),
    ),
    ("mnist", partial(parquet, file="mnist/test-00000-of-00001.parquet")),
    ("fashion-mnist", partial(parquet, file="fashion_mnist/test-00000-of-00001.parquet")),
    ("cifar100", partial(OF["cifar100"], file="cifar100/test-00000-of-00001.parquet", label="fine_label")),
]


@pytest.mark.parametrize(("name", "write_tree"), LAYOUTS)
def test_the_same_images_are_read_from_every_layout(name: str, write_tree: Write, tmp_path: Path) -> None:
    write_tree(tmp_path)
    images = load(name, tmp_path, "test")
    assert isinstance(images, InMemoryImages)
    expected = PIXELS[:, None] if "mnist" in name else COLOURED.transpose(0, 3, 1, 2)
    assert np.array_equal(images.images.numpy(), expected)
    assert images.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        ("cifar10", sorted(NAMES["cifar10"])[::-1], "label 0 is 'truck', in the standard order 'airplane'"),
        ("mnist", list("1234567890"), "label 0 is '1', in the standard order '0'"),
        ("imagenet", [f"n{number:08}" for number in range(10, 0, -1)], "label 0 is 'n00000010', in the standard order"),
        ("cifar100", list(map(str, range(20))), "names 20 classes where there are 100"),
    ],
)
def test_another_order_of_classes_is_refused(name: str, names: list[str], words: str, tmp_path: Path) -> None:
    OF.get(name, parquet)(tmp_path, names=names)
    with pytest.raises(DataError, match=f"^{tmp_path}/data/test-.*{words}"):
        load(name, tmp_path, "test")


def test_shards_that_name_the_classes_in_different_orders_are_refused(tmp_path: Path) -> None:
    for shard, names in ((0, NAMES["cifar10"]), (1, ()), (2, NAMES["cifar10"][::-1])):
        OF["cifar10"](tmp_path, file=f"data/test-{shard:05}-of-00003.parquet", names=names)
    words = "label 0 is 'truck', in the order in test-00000-of-00003.parquet 'airplane'"
    with pytest.raises(DataError, match=f"^{tmp_path}/data/test-00002-.*{words}"):
        load("cifar10", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("mnist", ["MNIST/t10k-images-idx3-ubyte (1).gz"], "; found MNIST/t10k-images-idx3-ubyte (1).gz"),
        ("mnist", ["t10k-images-idx3-ubyte"], "found no t10k-labels-idx1-ubyte or .*; found t10k-images-idx3-ubyte"),
        ("cifar10", ["cifar-10-python.tar"], "; found cifar-10-python.tar"),
        ("cifar100", ["down/cifar-100-pyhton.tar.gz"], "; found down/cifar-100-pyhton.tar.gz"),
        ("svhn", ["other/test_32x32.mat"], "; found other/test_32x32.mat"),
        ("imagenet", ["Val/n01/0.png", ".val/x"], "; found Val$"),
        (
            "folder",
            ["pets/test/ant/0.png"],
            "found no test/ or val/ or validation/ or valid/ in .*; found pets/test: put",
        ),
        ("mnist", ["a/test.parquet", "b/test.parquet"], r"several folders hold test as Parquet \(a, b\)"),
        ("mnist", ["data/test/0000.parquet", "data/test/0002.parquet"], "data/test: 0001.parquet is missing"),
    ],
)
def test_messages_name_what_is_nearly_right(name: str, files: list[str], words: str, tmp_path: Path) -> None:
    for file in files:
        write(tmp_path / file, b"")
    with pytest.raises(DataError, match=words.replace("(1)", r"\(1\)")) as error:
        load(name, tmp_path, "test")
    assert "\n" not in str(error.value)


PICTURES = {("n01440764", "b"): 1, ("n01440764", "a"): 0, ("n02119789", "c"): 2}
"""Pictures by class and name, and the seeds they are drawn with: in the order of the images."""


def kaggle(root: Path) -> None:
    """ImageNet as Kaggle's archive unpacks it: validation pictures lie together, test pictures have no classes."""
    place = root / "ILSVRC/Data/CLS-LOC"
    rows = ["ImageId,PredictionString"]
    for (label, name), seed in PICTURES.items():
        write(place / "val" / f"{name}.JPEG", encoded(smooth(64, 64, seed)))
        write(place / "train" / label / f"{label}_{name}.JPEG", encoded(smooth(64, 64, seed)))
        rows.append(f"{name},{label} 85 1 499 272 {label} 2 2 3 3")
    write(place / "test" / "z.JPEG", b"")
    write(root / "LOC_val_solution.csv", "\r\n".join(rows).encode())


def tiny(root: Path) -> None:
    """Tiny-ImageNet as its archive unpacks it."""
    rows = []
    for (label, name), seed in PICTURES.items():
        write(root / "train" / label / "images" / f"{label}_{name}.JPEG", encoded(smooth(64, 64, seed)))
        write(root / "train" / label / f"{label}_boxes.txt", b"")
        write(root / "val" / "images" / f"{name}.JPEG", encoded(smooth(64, 64, seed)))
        rows.append(f"{name}.JPEG\t{label}\t0\t32\t44\t62")
    write(root / "val" / "val_annotations.txt", "\n".join(rows).encode())
    write(root / "test" / "images" / "test_0.JPEG", b"")


def by_class(root: Path, train: str = "train", test: str = "test", place: str = "") -> None:
    for split in (train, test):
        for (label, name), seed in PICTURES.items():
            write(root / split / label / place / f"{name}.png", encoded(smooth(64, 64, seed)))
            write(root / "__MACOSX" / split / label / f"._{name}.png", b"")
            write(root / split / label / f"._{name}.png", b"")
        write(root / split / "__MACOSX" / "x.png", b"")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("name", "write_tree"),
    [
        ("imagenet", kaggle),
        ("folder", tiny),
        *((name, by_class) for name in ("imagenet", "folder")),
        *(
            (name, partial(by_class, test=test))
            for name in ("imagenet", "folder")
            for test in ("val", "validation", "valid")
        ),
        ("folder", partial(by_class, place="images")),
    ],
)
def test_pictures_are_in_the_order_of_classes_then_names(
    name: str, write_tree: Write, split: str, tmp_path: Path
) -> None:
    write_tree(tmp_path)
    images = load(name, tmp_path, split)
    second = 1 if name == "folder" else 278  # a part of ImageNet's classes has the labels of all 1,000
    assert len(images.class_names) == (2 if name == "folder" else 1000)
    assert (images.class_names[0], images.class_names[second]) == ("n01440764", "n02119789")
    assert [images[index][1] for index in range(len(images))] == [0, 0, second]
    for seed in range(3):
        expected = smooth(64, 64, seed) if name == "folder" else centre_view(smooth(64, 64, seed), 224)
        assert np.array_equal(images[seed][0] * 255, to_tensor(expected).numpy())


def test_pictures_without_a_class_or_classes_without_pictures_are_refused(tmp_path: Path) -> None:
    tiny(tmp_path)
    write(tmp_path / "val/images/d.JPEG", encoded(smooth(64, 64)))
    with pytest.raises(DataError, match=r"val/images/d\.JPEG: .*val_annotations\.txt does not say its class"):
        load("folder", tmp_path, "test")
    for file in ("c", "d"):
        (tmp_path / f"val/images/{file}.JPEG").unlink()
    with pytest.raises(DataError, match=r"val: holds no picture of n02119789, which .*val_annotations\.txt names"):
        load("folder", tmp_path, "test")


def numbered(root: Path, count: int, prefix: str = "") -> None:
    """Two classes of grey pictures; picture i of class c holds 10 * c + i alone."""
    for label, name in enumerate(("ant", "bee")):
        for number in range(count):
            picture = Image.new("L", (5, 4), 10 * label + number)
            write(root / prefix / name / f"{number}.png", encoded(picture))


@pytest.mark.parametrize("prefix", ["", "train"])
@pytest.mark.parametrize(
    ("count", "share", "held_out"), [(10, 0.2, [2, 7]), (10, 0.3, [1, 5, 8]), (5, 0.01, [2]), (2, 0.1, [1])]
)
def test_a_share_of_each_class_is_held_out_for_tests(
    prefix: str, count: int, share: float, held_out: list[int], tmp_path: Path
) -> None:
    numbered(tmp_path, count, prefix)
    values = {}
    for split in ("train", "test"):
        images = load("folder", tmp_path, split, split_share=share)
        assert images.shape == (1, 4, 5)
        values[split] = [round(float(image.mean()) * 255) for image, _ in (images[i] for i in range(len(images)))]
    assert values["test"] == [10 * label + number for label in range(2) for number in held_out]
    assert sorted(values["test"] + values["train"]) == [
        10 * label + number for label in range(2) for number in range(count)
    ]


def test_a_share_that_cannot_be_is_refused(tmp_path: Path) -> None:
    numbered(tmp_path, 2)
    with pytest.raises(DataError, match=r"0\.9 of the 2 pictures of class 0 for tests leaves none to train"):
        load("folder", tmp_path, "train", split_share=0.9)
    with pytest.raises(DataError, match=r"found no train/ .*give `split_share`"):
        load("folder", tmp_path, "train")
    write_folders(tmp_path / "both", [(9, 6)])
    with pytest.raises(DataError, match="both/test is there for tests: leave `split_share` out"):
        load("folder", tmp_path / "both", "train", split_share=0.2)


@pytest.mark.parametrize(("modes", "channels"), [("L L", 1), ("L 1", 1), ("LA L", 1), ("L RGB", 3), ("P P", 3)])
def test_grey_pictures_stay_grey_where_all_are(modes: str, channels: int, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name, mode in zip(("ant", "bee"), modes.split(), strict=True):
            write(tmp_path / split / name / "0.png", encoded(smooth(6, 5).convert("L").convert(mode)))
    images = load("folder", tmp_path, "test")
    assert images.shape == images[0][0].shape == images[1][0].shape == (channels, 5, 6)
    grey = to_tensor(smooth(6, 5).convert("L")).expand(channels, -1, -1)
    assert np.array_equal((images[0][0] * 255).round().byte().numpy(), grey.numpy())


def test_images_have_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """The shorter side is scaled to it, and the longer one cut at both ends."""
    write_folders(tmp_path, [(60, 40), (40, 40)])
    images = load("folder", tmp_path, "train", image_size=20)
    assert images.shape == (3, 20, 20)
    wide = smooth(60, 40, seed=0).resize((30, 20), Image.Resampling.BILINEAR).crop((5, 0, 25, 20))
    square = smooth(40, 40, seed=1).resize((20, 20), Image.Resampling.BILINEAR)
    for index, expected in enumerate((wide, square)):
        assert np.array_equal((images[index][0] * 255).round().byte().numpy(), to_tensor(expected).numpy())
    assert load("imagenet", tmp_path, "train", image_size=64)[0][0].shape == (3, 64, 64)


ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
"""What is stored of an upright picture. With 6, its row 0 is the upright picture's right side, and its column 0 the top
(TIFF 6.0, page 36)."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_of_your_own_are_turned_as_the_camera_was_held(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(ORIENTATIONS[orientation](np.asarray(smooth(9, 6)))))
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            write(tmp_path / split / name / f"0.{kind.lower()}", encoded(stored, kind, exif=exif))
    images = load("folder", tmp_path, "test")
    assert images.shape == (3, 6, 9)
    assert np.array_equal((images[0][0] * 255).round().byte().numpy(), to_tensor(smooth(9, 6)).numpy())
