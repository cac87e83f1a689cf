"""hf:NAME: what the library `datasets` reads. Names on the Hub take the same path, but tests have no network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from data_sets import encoded, png, smooth, write
from PIL import Image

from macer.data import load
from macer.errors import DataError, SettingsError

LABELS = [2, 0, 1, 1, 2, 0]
CLASSES = datasets.ClassLabel(names=["ant", "bee", "cow"])
Make = Callable[[Path], str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pixels(split: str, grey: bool = False) -> list[np.ndarray]:
    pictures = [smooth(6, 5, seed=index + 10 * (split == "test")) for index in range(6)]
    return [np.asarray(picture.convert("L") if grey else picture) for picture in pictures]


def rows(split: str, image: str = "image", label: str = "label", labels: Any = LABELS, grey: bool = False) -> dict:
    return {image: [Image.fromarray(each) for each in pixels(split, grey)], label: labels}


def saved(*splits: str, feature: Any = CLASSES, **changes: Any) -> Make:
    """What `save_to_disk` writes."""

    def make(root: Path) -> str:
        made = {}
        for split in splits:
            columns = rows(split, **changes)
            features = datasets.Features(dict(zip(columns, [datasets.Image(), feature], strict=True)))
            made[split] = datasets.Dataset.from_dict(columns, features)
        datasets.DatasetDict(made).save_to_disk(root / "saved")
        return f"hf:{root / 'saved'}"

    return make


def saved_with_other_classes(root: Path) -> str:
    """Splits of which each was made by itself: the labels of one are not those of the other."""
    features = [
        datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        for names in (["ant", "bee", "cow"], ["bee", "cow", "ant"])
    ]
    made = {
        split: datasets.Dataset.from_dict(rows(split), each)
        for split, each in zip(("train", "test"), features, strict=True)
    }
    datasets.DatasetDict(made).save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def parquet(root: Path, binary: bool = False) -> None:
    for split in ("train", "test"):
        columns: dict[str, Any] = (
            rows(split) if not binary else {"image": [png(each) for each in pixels(split)], "label": LABELS}
        )
        features = None if binary else datasets.Features({"image": datasets.Image(), "label": CLASSES})
        target = root / "parquet/data" / f"{split}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features).to_parquet(target)


def parquet_folder(root: Path) -> str:
    parquet(root)
    return f"hf:{root / 'parquet'}"


def parquet_of_bytes(root: Path) -> str:
    parquet(root, binary=True)
    return f"hf:{root / 'parquet'}"


def image_folder(root: Path) -> str:
    for split in ("train", "test"):
        for index, (picture, label) in enumerate(zip(pixels(split), LABELS, strict=True)):
            # In the order of the rows: classes first, then names.
            write(root / "pictures" / split / CLASSES.names[label] / f"{index}.png", png(picture))
    return f"hf:{root / 'pictures'}"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "make",
    [
        saved("train", "test"),
        saved("train", "validation", "test"),
        saved("train", "test", image="img", label="labels"),
        saved("train", "test", image="photo", label="kind"),
        saved("train", "test", feature=datasets.Value("int64")),
        saved("train", "test", feature=datasets.Value("string"), labels=[CLASSES.names[label] for label in LABELS]),
        parquet_folder,
        parquet_of_bytes,
    ],
)
def test_each_form_gives_the_same_images(make: Make, split: str, tmp_path: Path) -> None:
    images = load(make(tmp_path), None, split)
    assert (len(images), images.shape, images.num_classes, images.eight_bit) == (6, (3, 5, 6), 3, True)
    for index, picture in enumerate(pixels(split)):
        image, label = images[index]
        assert label == LABELS[index]
        assert np.array_equal((image * 255).numpy(), picture.transpose(2, 0, 1))


def test_a_folder_of_pictures_has_their_names_and_classes(tmp_path: Path) -> None:
    images = load(image_folder(tmp_path), None, "test")
    order = sorted(range(6), key=lambda index: (LABELS[index], index))
    assert images.class_names == ("ant", "bee", "cow")
    assert [images[position][1] for position in range(6)] == [LABELS[index] for index in order]
    assert [images.file_name(position) for position in range(6)] == [f"{index}.png" for index in order]
    for position, index in enumerate(order):
        assert np.array_equal((images[position][0] * 255).numpy(), pixels("test")[index].transpose(2, 0, 1))


def test_one_parquet_file_is_divided_and_its_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    datasets.Dataset.from_dict({"pixels": [png(each) for each in pixels("train")], "id": LABELS}).to_parquet(file)
    options = {"image_column": "pixels", "label_column": "id", "split_share": 0.5}
    train, test = (load(f"hf:{file}", None, split, **options) for split in ("train", "test"))
    assert [image[1] for image in (train[index] for index in range(3))] == [2, 0, 1]
    assert [test[index][1] for index in range(3)] == [1, 2, 0]
    assert np.array_equal((test[0][0] * 255).numpy(), pixels("train")[3].transpose(2, 0, 1))


def test_grey_pictures_and_sizes_are_as_for_folders(tmp_path: Path) -> None:
    name = saved("train", "test", grey=True)(tmp_path)
    images = load(name, None, "train")
    assert images.shape == (1, 5, 6)
    assert np.array_equal((images[2][0] * 255).numpy(), pixels("train", grey=True)[2][None])
    assert load(name, None, "train", image_size=4).shape == (1, 4, 4)


def test_splits_whose_classes_are_secret_are_passed_over(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    made = {
        split: datasets.Dataset.from_dict(rows(split, labels=[-1] * 6 if split == "test" else LABELS), features)
        for split in ("train", "test", "validation")
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    images = load(f"hf:{tmp_path / 'saved'}", None, "test")
    assert np.array_equal((images[0][0] * 255).numpy(), pixels("validation")[0].transpose(2, 0, 1))
    assert images[0][1] == LABELS[0]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda root: f"hf:{root / 'nothing'}", {}, "datasets cannot load it: "),
        (lambda root: "hf:nobody/nothing", {}, "hf:nobody/nothing: datasets cannot load it: "),
        (saved("train"), {}, "no labelled split test or val or validation or valid, but train: give `split_share`"),
        (saved("test"), {}, "no labelled split train, but test"),
        (saved("train", "test"), {"split_share": 0.5}, "leave `split_share` out"),
        (saved("train", "test"), {"label_column": "kind"}, "no column 'kind': give label_column, one of image, label"),
        (saved("train", "test"), {"image_column": "label"}, "column 'label' holds no pictures"),
        (saved("train", "test"), {"label_column": "image"}, "column 'image' holds no classes"),
        (saved("train", "test", label="y", feature=datasets.Value("int8")), {}, "its column of labels is not known"),
        (saved("train", "test", feature=datasets.Value("float32"), labels=[0.5] * 6), {}, "holds no classes"),
        (saved("train", "test", labels=[None, 0, 1, 1, 2, 0]), {}, "holds no classes"),
        (saved("train", "test", labels=[-1, 0, 1, 1, 2, 0]), {}, "labels from -1 to 2"),
        (saved_with_other_classes, {}, "in another order .train: ant, bee, cow; test: bee, cow, ant."),
    ],
)
def test_what_is_missing_is_one_line(make: Make, options: dict, words: str, tmp_path: Path) -> None:
    name = make(tmp_path)
    with pytest.raises(DataError, match=words) as error:
        load(name, None, "train", **options)
    assert "\n" not in str(error.value)


def test_data_sets_without_an_option_say_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="digits has no image_size"):
        load("digits", None, "test", image_size=32)
    with pytest.raises(SettingsError, match="folder has no label_column"):
        load("folder", tmp_path, "test", label_column="x")
    with pytest.raises(DataError, match="leave root out"):
        load("hf:anything", tmp_path, "test")


def test_a_damaged_picture_is_named_by_its_row(tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    good = encoded(smooth(6, 5))
    datasets.Dataset.from_dict({"image": [good, good, good[:60], good], "label": [0, 0, 1, 1]}).to_parquet(file)
    with pytest.raises(DataError, match=r"all\.parquet train, row 2: cannot be decoded"):
        load(f"hf:{file}", None, "train", split_share=0.5)[1]
