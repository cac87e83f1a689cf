"""A network and images whose classes have other names, or the same names in another order."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from data_sets import encoded, smooth, write
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

import macer
from macer.cli.app import app
from macer.data.class_names import check_data_set, check_order, unlike_training
from macer.data.images import InMemoryImages
from macer.errors import CheckpointError, DataError
from macer.pretrained import exported
from macer.pretrained.exported import export, read_header
from macer.pretrained.find import find_network
from macer.runs.checkpoint import load_checkpoint
from macer.runs.run import Run

ABC = ("ant", "Bee", "cow")
TEN = tuple(map(str, range(10)))
PIXELS, LABELS = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8), torch.arange(12) % 3
TINY: dict[str, Any] = {"method": "cohen", "epochs": 1, "gauss_num": 1, "device": "cpu", "progress": False}
FEW: dict[str, Any] = {"n": 100, "num_img": 1, "device": "cpu", "progress": False}
ORDER = re.escape("its classes are in another order: label 0 is 'Bee', in the training of ")
NAMES = re.escape("label 1 is 'wasp' and was 'Bee' in the training of ")


def images(*names: str, name: str = "insects", split: str = "test") -> InMemoryImages:
    return InMemoryImages(name, split, PIXELS, LABELS % len(names), names)


def write_pictures(root: Path, *names: str) -> None:
    """Folders of the classes; they are read in the order of their names."""
    for split in ("train", "test"):
        for label, name in enumerate(names):
            write(root / split / name / "0.png", encoded(smooth(8, 8, seed=label)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on classes with names. Not to be changed."""
    out = tmp_path_factory.mktemp("names") / "run"
    return macer.train(images=images(*ABC, split="train"), network="convnet", out=out, **TINY)


@pytest.mark.parametrize(
    ("trained", "here", "dataset", "name"),
    [
        pytest.param(ABC, ABC, "insects", "insects", id="the-same"),
        pytest.param(("T-shirt/top", "ankle boot"), ("t shirt top", "Ankle_Boot"), "a", "b", id="other-spelling"),
        pytest.param(None, ABC, None, "insects", id="unknown"),
        pytest.param(TEN, TEN, "mnist", "svhn", id="digits"),
        pytest.param(("a", "A", "+", "-"), ("a", "A", "+", "-"), "a", "b", id="told-apart-by-capitals-and-signs"),
        pytest.param(("crane", "heron", "crane"), ("crane", "heron", "crane"), "a", "b", id="a-name-that-comes-twice"),
        pytest.param(ABC, ("0", "1", "2"), "insects", "own-5f", id="own-arrays-certified"),
        pytest.param(("0", "1", "2"), ABC, "own-5f", "insects", id="own-arrays-trained-on"),
    ],
)
def test_classes_that_are_the_same_or_not_known_are_not_spoken_of(trained, here, dataset, name):
    assert unlike_training(images(*here, name=name), trained, dataset, "last.pt") is None


@pytest.mark.parametrize(
    ("trained", "here", "label", "count"),
    [
        pytest.param(("cat", "automobile"), ("cat", "car"), 1, 1, id="renamed"),
        pytest.param(("airplane", "automobile"), ("0", "1"), 0, 2, id="another-data-set"),
        pytest.param(("0", "1"), ("zero", "one"), 0, 2, id="in-words"),
    ],
)
def test_other_names_are_told(trained, here, label, count):
    told = unlike_training(images(*here, name="svhn"), trained, "cifar10", "last.pt")
    first = f"label {label} is {here[label]!r} and was {trained[label]!r} in the training of last.pt"
    assert told == f"{first} ({count} of 2 names differ)"


@pytest.mark.parametrize(
    ("trained", "here", "label"),
    [
        pytest.param(("ant", "bee"), ("Bee", "ANT"), 0, id="in-another-order"),
        pytest.param(("ant", "bee", "cow"), ("ant", "cow", "dog"), 1, id="a-class-left-out"),
        pytest.param(("a", "A"), ("A", "a"), 0, id="told-apart-by-capitals"),
        pytest.param((*TEN[:2], "10", "2"), ("0", "1", "2", "3"), 2, id="folders-sorted-as-text"),
    ],
)
def test_the_same_names_in_another_order_are_refused(trained, here, label):
    order = f"another order: label {label} is {here[label]!r}, in the training of last.pt {trained[label]!r}"
    with pytest.raises(DataError, match=f"insects test: .*{order}"):
        unlike_training(images(*here), trained, "folder", "last.pt")
    with pytest.raises(DataError, match=f"label {label} is .*, in the standard order {trained[label]!r}"):
        check_order("a.parquet", here, trained)


def test_a_run_and_what_is_exported_of_it_have_the_names(run, tmp_path):
    assert run.checkpoint().class_names == list(ABC)
    export(run.path, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert header is not None
    assert header["network"]["class_names"] == list(ABC)
    for model in (run, run.checkpoint_file, tmp_path / "a.safetensors"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            macer.certify(model, images("Ant", "bee", "cow"), **FEW)
        with pytest.warns(UserWarning, match=f"{NAMES}.*: results mean something only if these are the same classes"):
            macer.certify(model, images("ant", "wasp", "cow"), **FEW)
        with pytest.raises(DataError, match=f"insects test: {ORDER}"):
            macer.certify(model, images("Bee", "ant", "cow"), **FEW)


@pytest.mark.parametrize("digits", [False, True])
def test_numbers_that_are_sorted_as_text_are_said_to_be(digits):
    """As folders are, by torchvision as well; nobody tells a person whose network takes the number for the label."""
    names = list(map(str, range(10))) if digits else sorted(map(str, range(12)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS[0].numel(), len(names)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        macer.certify(network, images(*names), sigma=0.25, **FEW)
    said = ["the classes are numbers, sorted as text: class 10 has label 2"]
    assert [str(each.message) for each in caught] == ([] if digits else said)


@pytest.mark.parametrize(
    ("labels", "choice", "warned"),
    [
        ([0] * 12 + [1] * 12, {"num_img": 8}, True),
        ([0] * 12 + [1] * 12, {"num_img": 8, "start_img": 8}, False),
        ([0] * 12 + [1] * 12, {"num_img": 8, "skip": 3}, False),
        ([0] * 12 + [1] * 12, {"num_img": 4}, False),  # so few are looked at one by one
        ([0, 1] * 12, {"num_img": 8}, False),
        ([0] * 12, {}, False),
    ],
)
def test_images_that_are_all_of_one_class_because_they_are_sorted_are_said_to_be(labels, choice, warned):
    """The first images of folders of classes are such, and their accuracy is that of one class."""
    data = InMemoryImages("insects", "test", torch.rand(len(labels), 1, 4, 4), torch.tensor(labels), ("ant", "bee"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        macer.certify(network, data, sigma=0.25, **{**FEW, "num_img": None, **choice})
    said = [str(each.message) for each in caught if "of class" in str(each.message)]
    assert said == (
        ["the 8 chosen images are all of class 'ant', as far as 5 of them show: skip 3 spreads as many over all images"]
        if warned
        else []
    )


def test_files_without_names_are_compared_with_nothing():
    found = find_network("zoo:mnist-cohen-0.25")
    assert found.class_names is None
    assert found.classes_unlike(images("Bee", "ant", "cow")) == []


class Named(nn.Linear):
    """A network with names of its classes where those of Hugging Face have them."""

    def __init__(self, id2label: Any) -> None:
        super().__init__(64, 3)
        self.config = SimpleNamespace(id2label=id2label)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: nn.Sequential(nn.Identity(), network)])
def test_a_hugging_face_classifier_names_its_classes(wrap):
    """As JSON writes labels, in any order, or as transformers reads them."""
    for names in ({"1": "bee", "0": "ant", "2": "cow"}, {0: "Ant", 1: "bee", 2: "cow"}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            macer.certify(wrap(Named(names)), images(*ABC), sigma=0.25, **FEW)
        with pytest.raises(DataError, match=r"another order: label 0 is 'Bee', in the training of .*'[Aa]nt'"):
            macer.certify(wrap(Named(names)), images("Bee", "ant", "cow"), sigma=0.25, **FEW)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({label: f"LABEL_{label}" for label in range(3)}, id="placeholders"),
        pytest.param({0: "Bee", 1: "ant"}, id="of-another-head"),
        pytest.param({1: "Bee", 2: "ant", 3: "cow"}, id="other-labels"),
        pytest.param(["Bee", "ant", "cow"], id="a-list"),
    ],
)
def test_a_classifier_without_names_of_its_own_is_compared_with_nothing(names):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        macer.certify(Named(names), images(*ABC), sigma=0.25, **FEW)


@pytest.mark.parametrize("names", ["abc", ["ant", "bee"], ["ant", "bee", 3], {"ant": 0}])
def test_names_in_a_file_that_are_none_are_refused(names, run, tmp_path):
    content = torch.load(run.checkpoint_file, weights_only=True)
    torch.save(content | {"class_names": names}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: its class names are not one text per class"):
        load_checkpoint(tmp_path / "a.pt")
    export(run.path, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert header is not None
    header["network"]["class_names"] = names
    exported.write(tmp_path / "a.safetensors", {}, header)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: its header is not one that macer writes"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("ant", "wasp", "cow"), CheckpointError, f"{NAMES}.*: give the same data, or train in another directory"),
        (("Bee", "ant", "cow"), DataError, f"insects train: {ORDER}"),
    ],
)
def test_a_training_goes_on_only_with_the_same_classes(names, error, message, run):
    before = run.checkpoint_file.read_bytes()
    asked = {**TINY, "network": "convnet", "out": run.path}
    with pytest.raises(error, match=message):
        macer.train(images=images(*names, split="train"), **asked)
    macer.train(images=images("ANT", "bee", "cow", split="train"), **asked)
    assert run.checkpoint_file.read_bytes() == before


def test_names_of_your_own_images_may_be_left_out_when_a_training_goes_on(tmp_path):
    asked = {**TINY, "images": (PIXELS, LABELS), "network": "convnet", "out": tmp_path}
    assert macer.train(class_names=ABC, **asked).checkpoint().class_names == list(ABC)
    macer.train(**asked)
    with pytest.raises(DataError, match=ORDER):
        macer.train(class_names=("Bee", "ant", "cow"), **asked)


def test_training_may_start_from_weights_for_other_classes(run, tmp_path):
    started = macer.train(
        images=images("cow", "ant", "Bee", split="train"), network="convnet", init=run.path, out=tmp_path, **TINY
    )
    assert started.checkpoint().class_names == ["cow", "ant", "Bee"]


def test_a_denoiser_learns_behind_a_classifier_of_the_same_classes(run, tmp_path):
    asked: dict[str, Any] = {"network": "dncnn", "classifier": str(run.path), "method": "denoiser", "epochs": 1}
    asked |= {"device": "cpu", "out": tmp_path}
    with pytest.raises(DataError, match=ORDER):
        macer.train(images=images("Bee", "ant", "cow", split="train"), progress=False, **asked)
    with (console := Console(quiet=False, width=300)).capture() as said:
        macer.train(images=images("ant", "wasp", "cow", split="train"), progress=console, **asked)
    assert re.search(f"warning: {NAMES}", said.get())


@pytest.mark.parametrize("command", ["certify", "teacher"])
def test_commands_warn_and_refuse(command, tmp_path, monkeypatch):
    """The classes of folders are sorted by name: a renamed folder moves the labels of all behind it."""
    monkeypatch.chdir(tmp_path)
    for root, names in {"abc": "ant bee cow", "renamed": "ant bee kine", "moved": "bee cow zebu"}.items():
        write_pictures(Path(root), *names.split())
    macer.train(images="folder", root="abc", network="resnet9-24", out="run", batch_size=3, **TINY)
    counts = ("--n", "100", "--num-img", "1") if command == "certify" else ("--n", "1")

    def said(root: str) -> str:
        out = f"{root}.safetensors"
        words = [command, "run", "--dataset", "folder", "--root", root, "--device", "cpu", "--out", out, *counts]
        return " ".join(CliRunner().invoke(app, words, catch_exceptions=False).output.split())

    assert "warning" not in said("abc")
    assert "warning: label 2 is 'kine' and was 'cow' in the training of" in said("renamed")
    with pytest.raises(DataError, match=f"folder t[a-z]*: {ORDER.replace('Bee', 'bee')}"):
        said("moved")
    assert not Path("moved.safetensors").exists()


def test_files_of_another_data_set_are_refused_and_other_spellings_are_not():
    cifar10, digits = ("airplane", "automobile", "bird", "cat"), ("0", "1", "2", "3")
    for found in (cifar10, digits, ("Airplane", "auto", "bird", "cat"), ("plane", "car", "bird", "cat")):
        check_data_set("a.parquet", found, "cifar10", cifar10)
    with pytest.raises(DataError, match=r"^a\.parquet: not svhn: its classes are airplane, automobile, bird, \.\.\.$"):
        check_data_set("a.parquet", cifar10, "svhn", digits)
