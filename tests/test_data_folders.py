"""Folders of pictures, ImageNet in folders and parquet, and the streaming of both."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from data_sets import deep_png, encoded, smooth, write, write_folders, write_imagenet
from PIL import Image
from torch import nn

import macer
from macer.data import load
from macer.data.folders import FolderPictures
from macer.data.images import as_floats
from macer.data.pictures import centre_view, decode, random_view, to_tensor, unchanged
from macer.data.streaming import StreamedImages
from macer.errors import DataError

CPU = torch.device("cpu")
# A machine with one core gets two workers here all the same; Python 3.12 warns of any fork beside other threads.
fewer_warnings = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")


def test_pictures_of_one_size_are_used_as_they_are(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6), (9, 6), (9, 6)])
    for split in ("train", "test"):
        images = load("folder", tmp_path, split)
        assert (len(images), images.shape, images.class_names) == (6, (3, 6, 9), ("ant", "bee"))
        for index in range(6):
            pixels, label = images[index]
            assert label == index // 3
            expected = np.asarray(smooth(9, 6, seed=10 * label + index % 3))
            assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), expected)
        (batch, labels), *rest = images.batches(torch.tensor([4, 0]), 2, device=CPU, seed=0, epoch=0)
        assert not rest
        assert labels.tolist() == [1, 0]
        assert torch.equal(batch, torch.stack([images[4][0], images[0][0]]))


def test_pictures_of_several_sizes_are_cut_to_one(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6), (300, 500)])
    images = load("folder", tmp_path, "train")
    assert images.shape == images[0][0].shape == images[1][0].shape == (3, 224, 224)


def test_certifying_pictures_that_were_scaled_because_of_their_sizes_says_so(tmp_path: Path) -> None:
    """The same sigma is another noise in the pixels of larger images, and a radius another one."""
    write_folders(tmp_path, [(9, 6), (30, 20)])
    network = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, load("folder", tmp_path, "test").num_classes)
    )
    options: dict[str, Any] = {"root": tmp_path, "sigma": 0.25, "n": 100, "num_img": 1, "device": "cpu"}
    with pytest.warns(UserWarning, match=r"of several sizes, and the centre of each is scaled to 224 x 224: sigma and"):
        macer.certify(network, "folder", progress=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        macer.certify(network, "folder", image_size=6, progress=False, **options)


def test_one_other_size_in_the_other_split_counts(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6)])
    write(tmp_path / "test" / "bee" / "other.png", encoded(smooth(9, 7)))
    assert load("folder", tmp_path, "train").shape == (3, 224, 224)


def test_one_picture_is_prepared_as_those_of_the_data_set(tmp_path):
    """As docs/data.md does it."""
    for sizes, options, view in (
        ([(9, 6), (9, 6)], {}, unchanged),
        ([(9, 6), (300, 500)], {}, partial(centre_view, size=224)),
        ([(9, 6), (30, 20)], {"image_size": 6}, partial(centre_view, size=6, shorter=6)),
    ):
        shutil.rmtree(tmp_path / "test", ignore_errors=True)
        write_folders(tmp_path, sizes)
        images = load("folder", tmp_path, "test", **options)
        file = tmp_path / "test" / "ant" / "1.png"
        assert images.file_name(1) == "ant/1.png"
        pixels = to_tensor(view(decode(file.read_bytes(), str(file), upright=True)))
        assert as_floats(pixels).equal(images[1][0])


@pytest.mark.parametrize("name", ["IMG_1.HEIC", "x.avif"])
def test_pictures_of_a_kind_that_is_not_read_are_told(name, tmp_path):
    write_folders(tmp_path, [(9, 6), (9, 6)])
    write(tmp_path / "test" / "bee" / name, b"")
    with pytest.raises(DataError, match=rf"bee/{name}: a picture of a kind that is not read: convert it"):
        load("folder", tmp_path, "test")


@pytest.mark.parametrize(("name", "preferred"), [("folder", "test"), ("imagenet", "val")])
def test_the_test_split_goes_by_two_names(name: str, preferred: str, tmp_path: Path) -> None:
    for split in ("val", "test"):
        write_folders(tmp_path / split, [(9, 6)], splits=(split,))
        assert len(load(name, tmp_path / split, "test")) == 2
    write_folders(tmp_path / "both", [(9, 6)], splits=("val", "test"))
    write(tmp_path / "both" / preferred / "bee" / "more.png", encoded(smooth(9, 6)))
    assert len(load(name, tmp_path / "both", "test")) == 3


@pytest.mark.parametrize("place", ["bee/0a.png", "cow"])
def test_a_link_that_leads_nowhere_is_named(place: str, tmp_path: Path) -> None:
    """Left out, it would shift the indices of the pictures after it, by which certificates name them."""
    write_folders(tmp_path, [(9, 6), (9, 6)])
    (tmp_path / "train" / "bee" / ".hidden").symlink_to(tmp_path / "nothing")
    (tmp_path / "train" / "bee" / "link.png").symlink_to("0.png")
    assert len(load("folder", tmp_path, "train")) == 5
    (tmp_path / "train" / place).symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=f"^{tmp_path}/train/{place}: a link that leads nowhere$"):
        load("folder", tmp_path, "train")


@pytest.mark.parametrize("sizes", [[(9, 6)], [(9, 6), (60, 40)]])
def test_a_picture_that_cannot_be_opened_says_why(
    sizes: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the sizes are compared, and when it is read."""
    write_folders(tmp_path, sizes)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(DataError, match=r"train/ant/0\.png: Permission denied$"):
            load("folder", tmp_path, "train")
    images = load("folder", tmp_path, "train")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"train/ant/0\.png: Permission denied$"):
        images[0]


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6)])
    images = load("folder", tmp_path, "train")
    with (tmp_path / "train" / "ant" / "0.png").open("ab") as stream:
        stream.truncate(2**40)
    with pytest.raises(DataError, match=r"ant/0\.png: 1,099,511,627,776 bytes; at most 268,435,456 are read"):
        images[0]


JPEG = encoded(smooth(64, 48), "JPEG", quality=95)
CLOSE = 14  # grey levels that JPEG and conversions may differ by in the smooth picture


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (encoded(smooth(64, 48), "JPEG", quality=95), "RGB"),
        (encoded(smooth(64, 48).convert("CMYK"), "JPEG", quality=95), "CMYK"),
        (encoded(smooth(64, 48).convert("RGBA")), "RGBA"),
        (encoded(smooth(64, 48), "WEBP", lossless=True), "RGB"),
        (encoded(smooth(64, 48), "BMP"), "RGB"),
    ],
)
def test_kinds_of_pictures_become_rgb(content: bytes, mode: str) -> None:
    assert Image.open(io.BytesIO(content)).mode == mode
    difference = to_tensor(decode(content, "here")).int() - to_tensor(smooth(64, 48)).int()
    assert difference.abs().max() <= CLOSE


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_becomes_rgb(kind: str) -> None:
    grey = smooth(64, 48).convert("L")
    result = to_tensor(decode(encoded(grey, kind), "here"))
    assert torch.equal(result[0], result[1])
    assert torch.equal(result[0], result[2])
    assert (result[0].int() - torch.from_numpy(np.array(grey)).int()).abs().max() <= CLOSE


def test_palettes_become_rgb_with_and_without_transparency() -> None:
    palette = smooth(64, 48).quantize(64)
    plain = to_tensor(decode(encoded(palette), "here"))
    assert torch.equal(plain, to_tensor(palette.convert("RGB")))
    assert torch.equal(plain, to_tensor(decode(encoded(palette, transparency=bytes(range(64))), "here")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:20], "not a picture"),
        (b"", "not a picture"),
        (b"<svg/>", "not a picture"),
        (encoded(smooth(64, 48))[:200], "truncated"),
        (encoded(Image.fromarray(np.full((4, 4), 60000, np.uint16))), "more than 8 bits"),
        *((deep_png(channels), "more than 8 bits") for channels in (1, 2, 3, 4)),
    ],
)
def test_corrupt_pictures_are_one_line_with_their_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^val/n01/x\.JPEG: cannot be decoded: .*{message}") as error:
        decode(content, "val/n01/x.JPEG")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (224, 224), (60, 31), (1000, 257), (147, 98)])
def test_the_centre_view_is_the_centre_of_the_scaled_picture(size: tuple[int, int]) -> None:
    """Against PyTorch's own antialiased scaling, cut by hand."""
    picture = smooth(*size)
    width, height = size
    scaled = (256, int(256 * width / height)) if height <= width else (int(256 * height / width), 256)
    pixels = to_tensor(picture).float().unsqueeze(0)
    whole = F.interpolate(pixels, scaled, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = round((scaled[0] - 224) / 2), round((scaled[1] - 224) / 2)
    expected = whole[:, top : top + 224, left : left + 224]
    assert (to_tensor(centre_view(picture, 224)).float() - expected).abs().max() < 1.5


def scaled_as_a_whole(picture: Image.Image) -> Image.Image:
    """The definition of the centre view, literally."""
    width, height = picture.size
    shorter = min(width, height)
    whole = picture.resize((int(256 * width / shorter), int(256 * height / shorter)), Image.Resampling.BILINEAR)
    left, top = round((whole.width - 224) / 2), round((whole.height - 224) / 2)
    return whole.crop((left, top, left + 224, top + 224))


ORDINARY = [(500, 375), (333, 500), (224, 224), (60, 31), (1000, 257), (1, 1), (7, 300), (800, 8), (8, 800), (1203, 13)]


@pytest.mark.parametrize("size", ORDINARY)
def test_ordinary_pictures_are_scaled_as_a_whole(size: tuple[int, int]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    assert np.array_equal(centre_view(noise, 224), scaled_as_a_whole(noise))


@pytest.mark.parametrize("size", [(600, 4), (4, 600), (601, 4), (4, 603), (250, 2), (1, 101), (102, 1)])
def test_only_the_middle_of_extremely_long_pictures_is_scaled(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows the same: 256 / 4, 256 / 2 and 256 / 1 are whole, so nothing is rounded otherwise."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = scaled_as_a_whole(noise)
    areas = []
    resize = Image.Image.resize

    def noted(self: Image.Image, size: tuple[int, int], *arguments: object) -> Image.Image:
        areas.append(size[0] * size[1])
        return resize(self, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", noted)
    assert np.array_equal(centre_view(noise, 224), expected)
    assert max(areas) <= 256 * 256 * 101
    centre_view(Image.new("RGB", (60_000, 1)), 224)  # as a whole, 12 GB
    assert max(areas) <= 256 * 256 * 101


def test_large_pictures_are_read_without_a_word_until_pillow_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warnings are errors here. Pillow warns from its limit on, and refuses above twice as much."""
    write_folders(tmp_path, [(300, 300)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    assert load("folder", tmp_path, "train").shape == (3, 300, 300)
    images = load("imagenet", tmp_path, "train")
    assert isinstance(images, StreamedImages)
    assert images[0][0].shape == (3, 224, 224)
    images.workers = 0
    for number in range(10):  # of the parts drawn, some are above the limit too
        epoch(images, torch.arange(2), 2, number=number)
    centre_view(Image.new("RGB", (4000, 30)), 224)  # and so is the middle that is scaled, 3000 x 30
    write(tmp_path / "train" / "ant" / "0.png", encoded(smooth(400, 400)))
    refused = r"train/ant/0\.png: cannot be decoded: [^\n]*160000 pixels[^\n]* limit of 120000 pixels[^\n]*$"
    with pytest.raises(DataError, match=refused):
        images[0]
    with pytest.raises(DataError, match=refused):
        load("folder", tmp_path, "train")


def coordinates(width: int, height: int) -> Image.Image:
    """Red tells the column, green the row, as fractions of 255."""
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], 2).round().astype(np.uint8))


# The largest part of 250 x 500 pixels whose sides are at least 3:4 is 250 x 333.
@pytest.mark.parametrize(("width", "height", "largest"), [(400, 300, 1), (250, 500, 2 / 3)])
def test_the_random_view_covers_what_it_should(width: int, height: int, largest: float) -> None:
    """Where a view's corners lie in a picture of coordinates gives back the part that was cut."""
    rng = random.Random(0)
    areas, ratios, flips = [], [], 0
    picture = coordinates(width, height)
    for _ in range(300):
        view = np.asarray(random_view(picture, rng, 32)).astype(float)
        across, down = view[16, -1, 0] - view[16, 0, 0], view[-1, 16, 1] - view[0, 16, 1]
        assert down > 0  # never upside down
        flips += across < 0
        # From the centre of the first to that of the last of 32 pixels is 31/32 of the part.
        part_width, part_height = (abs(side) / 255 * 32 / 31 for side in (across, down))
        areas.append(part_width * part_height)
        ratios.append(part_width * width / (part_height * height))
    assert 0.07 < min(areas) < 0.1
    assert 0.8 * largest < max(areas) < 1.03 * largest
    assert 0.70 < min(ratios) < 0.80
    assert 1.25 < max(ratios) < 1.42
    assert abs(flips - 150) < 5 * 75**0.5


@pytest.mark.parametrize(("width", "height", "part"), [(600, 30, 40), (30, 600, 40)])
def test_the_random_view_of_a_narrow_picture_is_its_middle(width: int, height: int, part: int) -> None:
    """Nothing that covers 8% of it has sides of 3:4 to 4:3, so the largest centred part that has is taken."""
    view = np.asarray(random_view(coordinates(width, height), random.Random(1), 40)).astype(float)
    long = 0 if width > height else 1
    assert abs(view[..., long].mean() - 127.5) < 1
    assert abs((view[..., long].max() - view[..., long].min()) / 255 * 600 - part) < 2


@pytest.mark.parametrize("folder", [".", "data"])
@pytest.mark.parametrize("stem", ["validation", "val", "test"])
def test_imagenet_parquet_is_found_where_it_may_lie(stem: str, folder: str, tmp_path: Path) -> None:
    write_imagenet(tmp_path, folder, f"{stem}-00000-of-00002.parquet", [3, 999, 0])
    write_imagenet(tmp_path, folder, f"{stem}-00001-of-00002.parquet", [5])
    images = load("imagenet", tmp_path, "test")
    assert (images.shape, images.num_classes) == ((3, 224, 224), 1000)
    assert [images[index][1] for index in (0, 1, 2, 3)] == [3, 999, 0, 5]
    for index, seed in [(3, 0), (1, 1), (2, 2), (0, 0)]:
        expected = centre_view(decode(encoded(smooth(60, 40, seed), "JPEG"), ""), 224)
        assert torch.equal((images[index][0] * 255).round().byte(), to_tensor(expected))


def test_imagenet_parquet_names_its_classes(tmp_path: Path) -> None:
    write_imagenet(tmp_path, ".", "train-00000-of-00001.parquet", [1, 0, 1])
    file = next(tmp_path.iterdir())
    description = b'{"info": {"features": {"label": {"names": ["tench", "goldfish"], "_type": "ClassLabel"}}}}'
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"huggingface": description}), file)
    assert load("imagenet", tmp_path, "train").class_names == ("tench", "goldfish")


def test_the_real_sample_of_imagenet(shared: Path) -> None:
    images = load("imagenet", shared / "data/imagenet-sample", "test")
    assert (len(images), images.num_classes, images.shape) == (48, 1000, (3, 224, 224))
    folders = sorted(each.name for each in (shared / "data/imagenet-sample/val").iterdir())
    for index in range(48):
        pixels, label = images[index]
        assert images.class_names[label] == folders[index]
        assert pixels.shape == (3, 224, 224)
        assert pixels.std() > 0.03  # a photograph, not an empty field
        assert 0 <= pixels.min() <= pixels.max() <= 1


def streamed(root: Path, workers: int, *, augmented: bool = True) -> StreamedImages:
    def view(picture: Image.Image, rng: random.Random) -> Image.Image:
        return random_view(picture, rng, 16)

    pictures = FolderPictures(root)
    return StreamedImages(
        "folder", "train", pictures, (6, 9), pictures.class_names,
        view=unchanged, training_view=view if augmented else None, workers=workers,
    )  # fmt: skip


def epoch(images: StreamedImages, order: torch.Tensor, size: int, *, seed: int = 3, number: int = 5) -> dict:
    """What training sees of each picture, by index in the data set, and in which order."""
    batches = list(images.batches(order, size, device=CPU, seed=seed, epoch=number))
    assert [len(labels) for _, labels in batches] == [len(part) for part in order.split(size)]
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert labels.tolist() == images.pictures.labels[order].tolist()
    return dict(zip(order.tolist(), pixels, strict=True))


def same(one: dict, other: dict) -> list[bool]:
    return [torch.equal(one[index], other[index]) for index in sorted(one)]


@fewer_warnings
def test_augmentation_depends_on_seed_epoch_and_picture_alone(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6)] * 6)
    alone, helped = (streamed(tmp_path / "train", workers) for workers in (0, 2))
    order, other_order = torch.arange(12), torch.arange(12).flip(0)
    first = epoch(alone, order, 5)
    assert all(same(first, epoch(helped, order, 5)))
    assert all(same(first, epoch(helped, other_order, 4)))
    assert not any(same(first, epoch(alone, order, 5, number=6)))
    assert not any(same(first, epoch(alone, order, 5, seed=4)))


@fewer_warnings
def test_streaming_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6)])
    before = torch.get_rng_state()
    for workers in (0, 2):
        epoch(streamed(tmp_path / "train", workers), torch.arange(2), 1)
    assert torch.equal(torch.get_rng_state(), before)


@fewer_warnings
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_picture_stops_training_with_one_line(workers: int, tmp_path: Path) -> None:
    write_folders(tmp_path, [(9, 6)] * 3)
    write(tmp_path / "train" / "bee" / "1.png", b"nothing")
    images = streamed(tmp_path / "train", workers, augmented=False)
    batches = images.batches(torch.arange(6), 2, device=CPU, seed=0, epoch=0)
    assert [next(batches)[1].tolist(), next(batches)[1].tolist()] == [[0, 0], [0, 1]]
    with pytest.raises(DataError, match=r"^[^\n]*train/bee/1\.png: cannot be decoded: not a picture$"):
        next(batches)


@fewer_warnings
def test_parquet_is_streamed_in_any_order_by_workers(tmp_path: Path) -> None:
    write_imagenet(tmp_path, ".", "train-00000-of-00001.parquet", [4, 3, 2, 1, 0])
    images = load("imagenet", tmp_path, "train")
    assert isinstance(images, StreamedImages)
    order = torch.tensor([4, 0, 2, 3, 1])
    images.workers = 2
    helped = epoch(images, order, 2)
    images.workers = 0
    assert all(same(helped, epoch(images, order, 5)))


INTERRUPTED = """
import signal, sys, torch
from pathlib import Path
from macer.data.folders import FolderPictures
from macer.data.pictures import unchanged
from macer.data.streaming import StreamedImages

pictures = FolderPictures(Path(sys.argv[1]))
images = StreamedImages("folder", "train", pictures, (6, 9), pictures.class_names, view=unchanged, workers=2)
order = torch.zeros(10**6, dtype=torch.int64)
for number in signal.SIGINT, signal.SIGTERM:  # a shell's background jobs start with the interrupt ignored
    signal.signal(number, signal.default_int_handler)
try:
    for step, _ in enumerate(images.batches(order, 50, device=torch.device("cpu"), seed=0, epoch=0)):
        if step == 5:
            print("running", flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_workers_without_a_word(number: signal.Signals, tmp_path: Path) -> None:
    """A terminal sends the interrupt to the main process and to its workers alike; so do job schedulers SIGTERM."""
    write_folders(tmp_path, [(9, 6)])
    command = [sys.executable, "-W", "ignore", "-c", INTERRUPTED, str(tmp_path / "train")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
