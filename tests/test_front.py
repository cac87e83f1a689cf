"""The Python face: train, certify and load in one call each, from every form of model and images."""

import io
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import macer as package
from macer import data
from macer.certification.journals import Journals
from macer.certification.source import Places
from macer.certification.verify import verify
from macer.errors import MacerError, SettingsError
from macer.files.toml import read_toml, write_toml
from macer.results.times import read_times, times_table
from macer.runs.checkpoint import save_checkpoint
from macer.runs.run import CertificationRun, Run

DIGITS: Any = data.load("digits", None, "train")
TEST: Any = data.load("digits", None, "test")
IMAGES, LABELS = DIGITS.images[:256], DIGITS.labels[:256]
TINY: dict[str, Any] = {"epochs": 1, "gauss_num": 2, "lr": 0.05, "device": "cpu", "progress": False}
FEW: dict[str, Any] = {"n": 1000, "skip": 100, "progress": False}
COLUMNS = ["idx", "label", "predict", "radius", "correct", "n"]


class Net(nn.Module):
    """A person's own network."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def fresh() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on the digits. Not to be changed."""
    return package.train(
        images="digits", network="convnet", num_images=640, out=tmp_path_factory.mktemp("front") / "run", **TINY
    )


@pytest.fixture(scope="module")
def expected(run: Run) -> pd.DataFrame:
    """What certifying it gives."""
    frame = package.certify(run, **FEW).frame()
    assert list(frame.idx) == [0, 100, 200, 300, 400]
    return frame


def test_certified_radii_in_the_largest_change_of_a_value(run, expected, tmp_path):
    """Digits have 8 x 8 values: the L-infinity radius is an eighth of R, in memory, from files and of exported rows."""
    frame = package.certify(run, **FEW, out=tmp_path / "c").frame()
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert (expected.radius_linf * 8 <= expected.radius).all()
    assert expected.radius_linf.to_numpy() == pytest.approx(expected.radius.to_numpy() / 8, rel=1e-12)
    assert frame.radius_linf.equals(expected.radius_linf)
    assert package.load_results(tmp_path / "rows.csv").frame().radius.equals(frame.radius)
    settings = tmp_path / "c" / "settings.toml"
    recorded = read_toml(settings)
    assert recorded["certification"]["shape"] == [1, 8, 8]
    for shape in ([0, 8, 8], [8, 8]):  # no shape: no radius
        write_toml(settings, recorded | {"certification": recorded["certification"] | {"shape": shape}})
        assert "radius_linf" not in package.load_results(tmp_path / "c").frame()
    write_toml(settings, recorded | {"certification": recorded["certification"] | {"shape": [1, 1, 1]}})
    with pytest.raises(SettingsError, match=r"shape: \(1, 1, 1\) there, \(1, 8, 8\) here"):
        verify(tmp_path / "c", 1, Places(checkpoint=run.path), console=Console(quiet=True))


def same(results: Any, expected: pd.DataFrame) -> bool:
    return results.frame()[COLUMNS].equals(expected[COLUMNS])


def state(network: nn.Module) -> list[Tensor]:
    return [each.clone() for each in network.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def test_a_recipe_is_trained_with_single_settings_replaced(tmp_path: Path) -> None:
    run = package.train("digits/macer-0.25", num_images=64, out=tmp_path / "run", **TINY)
    tables = run.settings()
    assert tables["training"]["dataset"] == "digits"
    assert tables["training"]["epochs"] == 1
    assert tables["objective"]["name"] == "macer"
    assert tables["objective"]["gauss_num"] == 2
    assert run.checkpoint_file.is_file()
    assert Path(run) == tmp_path / "run"
    assert run == Run(tmp_path / "run")


def test_a_network_that_nobody_chose_is_named(tmp_path: Path) -> None:
    terminal = Console(file=(said := io.StringIO()), width=200)
    settings = {"images": (IMAGES[:8], LABELS[:8]), "method": "cohen", "epochs": 1, "device": "cpu", "lr": 0.01}
    package.train(**settings, network="convnet", out=tmp_path / "chosen", progress=terminal)
    assert "as in the paper" not in said.getvalue()
    package.train(**settings, out=tmp_path / "any", progress=terminal)
    assert "network resnet110, as in the paper for CIFAR-10: give another one, or a recipe" in said.getvalue()


def test_consistency_beside_macer_is_a_method_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = package.train("digits/macer-0.25", num_images=64, consistency=5.0, **TINY)
    assert run.path == Path("runs/digits-macer-consistency-0.25")
    results = package.certify(run, **FEW, out="certificates")
    assert set(results.frame()["method"]) == {"macer+consistency"}
    assert "MACER + Consistency" in str(package.load_results("certificates").table())
    assert "MACER + Consistency" in str(times_table([read_times(run.path)]))


def test_your_own_module_is_trained_on_your_own_images(tmp_path: Path) -> None:
    network = fresh()
    before = state(network)
    asked = {**TINY, "images": (IMAGES, LABELS), "average": 0.5, "out": tmp_path / "run"}
    run = package.train(network=network, **asked)
    assert equal(state(network), before)
    assert run.network is not None
    trained = state(run.network)
    assert not equal(before, trained)
    assert equal(trained, list(run.checkpoint().weights.values()))  # the average
    assert network.training
    assert run.network.training
    training = run.settings()["training"]
    assert training["network"] == f"{Net.__module__}:Net"
    assert training["dataset"].startswith("own-")

    again = package.train(network=fresh(), **asked).network  # nothing is left to do
    assert again is not None
    assert equal(state(again), trained)
    with pytest.raises(MacerError, match=r"network: .*:Net there, .*:Sequential here"):
        package.train(network=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), **asked)
    with pytest.raises(MacerError, match="do not fit"):
        package.train(network=Net(width=16), **asked)
    with pytest.raises(MacerError, match=r"dataset: own-.* there, own-.* here"):
        package.train(network=fresh(), **{**asked, "images": (IMAGES.flip(0), LABELS.flip(0))})

    results = package.certify(run, (TEST.images, TEST.labels), **FEW)
    assert same(package.certify(run.network, TEST, sigma=0.25, **FEW), results.frame())
    with pytest.raises(MacerError, match=r"own-.*in Python: give them again to train, and others than these to cer"):
        package.certify(run, **FEW)
    with pytest.raises(
        MacerError, match=r":Net': .* give the module in Python, or package.module:function, .* as `network`"
    ):
        package.certify(run.path, "digits", **FEW)
    table = str(package.certify(run, (IMAGES, LABELS), **FEW).table())  # those that it was trained on
    assert f"data: {training['dataset']} (training images)" in table
    assert "(training images)" not in str(results.table())


def test_a_training_interrupted_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class Breaks(Dataset):
        reads = 0

        def __len__(self) -> int:
            return 256

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.reads += 1
            if self.reads == self.limit:
                raise KeyboardInterrupt
            return IMAGES[index], int(LABELS[index])

        limit = -1

    images = Breaks()
    asked = {**TINY, "images": images, "epochs": 3, "checkpoint_every": 1e-9}
    undisturbed = package.train(network=fresh(), out=tmp_path / "undisturbed", **asked)
    images.limit = images.reads + 900
    with pytest.raises(KeyboardInterrupt):
        package.train(network=fresh(), out=tmp_path / "broken", **asked)
    broken = package.train(network=fresh(), out=tmp_path / "broken", **asked)
    assert equal(*(list(run.checkpoint().weights.values()) for run in (undisturbed, broken)))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda run: run, id="run"),
        pytest.param(lambda run: run.path, id="path"),
        pytest.param(lambda run: str(run.checkpoint_file), id="checkpoint"),
        pytest.param(lambda run: package.load_model(run).network, id="module"),
        pytest.param(lambda run: package.load_model(run).network.train(), id="module-in-training"),
        pytest.param(lambda run: package.load_model(run), id="smoothed-classifier"),
    ],
)
def test_every_form_of_a_model_is_certified_alike(model: Any, run: Run, expected: pd.DataFrame) -> None:
    target = model(run)
    training = getattr(target, "training", None)
    assert same(package.certify(target, "digits", sigma=0.25, **FEW), expected)
    assert getattr(target, "training", None) == training


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(None, id="those-of-training"),
        pytest.param("digits", id="name"),
        pytest.param(TEST, id="loaded"),
        pytest.param((TEST.images, TEST.labels), id="arrays"),
        pytest.param((TEST.images.numpy() / 255, TEST.labels.numpy()), id="numpy"),
        pytest.param(TensorDataset(TEST.images, TEST.labels), id="dataset"),
        pytest.param(Subset(TensorDataset(TEST.images, TEST.labels), range(500)), id="subset"),
    ],
)
def test_every_form_of_images_is_certified_alike(images: Any, run: Run, expected: pd.DataFrame) -> None:
    assert same(package.certify(run, images, **FEW), expected)


def test_the_precision_is_recorded_that_was_chosen(run: Run, tmp_path: Path) -> None:
    """In memory as in a directory."""
    there = package.certify(run, precision="auto", out=tmp_path / "out", **FEW)
    recorded = CertificationRun(tmp_path / "out").recorded("certification")["precision"]
    assert recorded in ("32-true", "bf16-true")
    here = package.certify(run, precision="auto", **FEW)
    assert [each.precision for each in (*here, *there)] == [recorded] * 2


def test_an_unfinished_training_is_told(run: Run, tmp_path: Path) -> None:
    checkpoint = run.checkpoint()
    done = checkpoint.epoch
    checkpoint.settings["training"]["epochs"] = 99
    save_checkpoint(checkpoint, tmp_path / "part.pt")
    with pytest.warns(UserWarning, match=f"its training is not finished: {done} of 99 epochs are done"):
        package.certify(tmp_path / "part.pt", "digits", **FEW)


def test_an_interruption_is_no_exception_that_scripts_swallow() -> None:
    assert not issubclass(package.Interrupted, Exception)


def test_images_drawn_at_random_are_certified_with_a_warning(run: Run) -> None:
    class Flipped(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            image, label = super().__getitem__(index)
            return image.flip(-1) if torch.rand(()) < 0.5 else image, label

    with pytest.warns(UserWarning, match="drawn at random: each certificate is about its image as it was drawn once"):
        package.certify(run, Flipped(TEST.images, TEST.labels), **FEW)


def test_the_zoo_is_certified_by_name(shared: Path) -> None:
    results = package.certify("mnist-macer-0.25", root=shared / "data" / "mnist", num_img=1, n=1000, progress=False)
    assert results.names == ["mnist-macer-0.25"]


def test_both_kinds_come_with_their_facts(run: Run) -> None:
    results = package.certify(run, mode="both", **FEW)
    assert [records.kind for records in results] == ["hard", "soft"]
    for records in results:
        assert (records.run, records.sigma, records.n, records.alpha) == ("run", 0.25, 1000, 0.001)
        assert (records.dataset, records.method, records.total) == ("digits", "macer", 500)
        assert records.images == "every 100th from 0 to 400 (5 of 500)"


def test_a_directory_is_a_journal_that_goes_on(run: Run, expected: pd.DataFrame, tmp_path: Path) -> None:
    class Breaks(TensorDataset):
        reads, limit = 0, 3  # the first times for the digest, and to know whether they are 8-bit

        def __getitem__(self, index: int) -> Any:
            self.reads += index == 300
            if index == 300 and self.reads == self.limit:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    images, out = Breaks(TEST.images, TEST.labels), tmp_path / "certificates"
    with pytest.raises(KeyboardInterrupt):
        package.certify(run, images, out=out, **FEW)
    begun = (out / "hard.tsv").read_text()
    assert begun.count("\n") == 4  # with its header
    assert same(package.certify(run, images, out=out, **FEW), expected)
    assert (out / "hard.tsv").read_text().startswith(begun)
    assert same(package.load_results(out), expected)
    with pytest.raises(MacerError, match=r"dataset: own-.* there, digits here"):
        package.certify(run, "digits", out=out, **FEW)


@pytest.mark.parametrize(
    "options",
    [{"mode": "both"}, {"mode": "both", "hard_bound": "two-class", "soft_bound": "betting"}, {"spend": "for-table"}]
    + [{"spend": "sequential", **question} for question in ({"at_least": 0.1}, {"within": 0.5})],
    ids=["fixed", "other bounds", "for-table", "at-least", "within"],
)
def test_memory_files_and_exports_tell_the_same(options: dict[str, Any], run: Run, tmp_path: Path) -> None:
    in_memory = package.certify(run, seed=3, **FEW, **options)
    read = package.certify(run, seed=3, out=tmp_path / "run", **FEW, **options)
    for one, other in zip(in_memory, read, strict=True):
        assert one.image is not None
        assert one.at_least == options.get("at_least")
        assert len(one.notes) == ("spend" in options)
        for name in {field.name for field in fields(one)} - {"place", "seconds"}:  # these differ
            np.testing.assert_equal(getattr(one, name), getattr(other, name), name)
    for suffix in (".csv", ".json", ".parquet"):
        in_memory.write(tmp_path / f"x{suffix}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes
            again = package.load_results(tmp_path / f"x{suffix}")
        for one, other in zip(in_memory, again, strict=True):
            assert (other.at_least, other.bound, other.notes) == (one.at_least, one.bound, one.notes)
            assert np.array_equal(other.image, one.image)
    if "at_least" in options:
        metrics = in_memory.metrics([0.0, 0.1])
        assert metrics[["metric", "radius"]].values.tolist() == [["certified accuracy", 0.1]]
        with pytest.raises(MacerError, match=r"a \.mat file cannot say by which rule sampling stopped"):
            in_memory.write(tmp_path / "x.mat")
    mat = tmp_path / "run" / "certificates.mat"
    assert mat.exists() == ("at_least" not in options)
    if "within" in options:
        note = in_memory.records[0].notes[0].removeprefix("run: ")
        with pytest.warns(UserWarning, match=re.escape(note)):
            package.load_results(mat)
    (tmp_path / "run" / "hard.tsv").rename(tmp_path / "run" / "noise_1.00.tsv")  # still macer's own, by its columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (renamed,) = package.load_results(tmp_path / "run" / "noise_1.00.tsv")
    assert (renamed.sigma, renamed.n, renamed.dataset) == (0.25, 1000, "digits")


def test_certificates_mat_says_which_images_it_is_of_while_others_are_certified(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of those that were finished last; the settings beside it choose others already."""
    out, few = tmp_path / "out", {"n": 1000, "num_img": 3, "progress": False}
    package.certify(run, out=out, **few)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journals, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        package.certify(run, out=out, start_img=10, **few)
    (records,) = package.load_results(out / "certificates.mat")
    assert records.idx is not None
    assert records.idx.tolist() == [0, 1, 2]


def test_a_soft_journal_of_another_name_is_soft(run: Run, tmp_path: Path) -> None:
    package.certify(run, out=tmp_path / "out", mode="both", **FEW)
    for kind in ("hard", "soft"):
        shutil.copy(tmp_path / "out" / f"{kind}.tsv", tmp_path / f"my-{kind}-ones.tsv")
    found = {kind: package.load_results(tmp_path / f"my-{kind}-ones.tsv").records[0].kind for kind in ("hard", "soft")}
    assert found == {"hard": "hard", "soft": "soft"}


def test_certificates_of_training_images_say_so(run: Run) -> None:
    results = package.certify(run, split="train", n=1000, skip=400, progress=False)
    assert ("data", "digits (training images)") in results.table().shared
    assert set(results.frame()["split"]) == {"train"}


@pytest.mark.parametrize(("dtype", "told"), [(torch.float32, None), (torch.bfloat16, "bfloat16")])
def test_the_type_of_the_weights_is_recorded(dtype: torch.dtype, told: str | None, tmp_path: Path) -> None:
    """A network in bfloat16 is one even where macer was not asked to make it so."""
    out, network = tmp_path / "out", fresh().to(dtype)
    package.certify(network, "digits", sigma=0.25, out=out, **FEW)
    settings = read_toml(out / "settings.toml")
    assert settings["certification"].get("dtype") == told


def test_nothing_is_written_without_a_directory(
    run: Run, expected: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = sorted(run.path.rglob("*"))
    assert same(package.certify(run, **FEW), expected)
    assert not list(tmp_path.iterdir())
    assert sorted(run.path.rglob("*")) == files


def test_another_sigma_than_that_of_training_warns(run: Run) -> None:
    with pytest.warns(UserWarning, match="trained with noise of sigma 0.25"):
        package.certify(run, sigma=0.5, n=1000, num_img=1, progress=False)


def test_a_sigma_on_the_scale_of_bytes_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="sigma is in units of .* from 0 to 255 is a sigma of 0.098"):
        package.certify(FLAT, TEST, sigma=25.0, sound=False, n=100, num_img=1, progress=False)
    told = Console(file=io.StringIO(), width=400)
    package.train(images="digits", network="convnet", sigma=25.0, out=tmp_path, **{**TINY, "progress": told})
    assert "sigma is in units of [0, 1] pixels" in told.file.getvalue()


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        ((TEST.images / 255 * 16).round().byte(), "bytes from 0 to 16 of 255.* divide the images by their largest"),
        (TEST.images.float() / 255 / 255, "divided by 255 twice"),
        (TEST.images * 0, "no pixel exceeds 0 "),
    ],
    ids=["16", "twice", "black"],
)
def test_images_on_a_smaller_scale_warn(pixels: Tensor, words: str) -> None:
    with pytest.warns(UserWarning, match=f"the images are nearly black: .*{words}"):
        package.certify(FLAT, (pixels, TEST.labels), sigma=0.25, sound=False, n=100, num_img=1, progress=False)


def test_a_classifier_of_one_answer_is_told() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(constant[1].weight)
    results = package.certify(constant, TEST, sigma=0.25, n=100, skip=20, progress=False)
    answer = int(constant[1].bias.argmax())
    assert f"the answer is class {answer} on every image that has one" in results.table().notes[0]
    spared = package.certify(constant, TEST, sigma=0.25, n=100, skip=20, spend="for-table", progress=False)
    assert not any("the answer is class" in note for note in spared.table().notes)  # wrong ones have no answer
    both = package.certify(constant, TEST, sigma=0.25, n=1000, skip=20, mode="both", progress=False)
    assert {note.split(":")[0] for note in both.table().notes} == {"Sequential", "Sequential soft"}
    one_class = TEST.labels == answer
    alike = package.certify(constant, (TEST.images[one_class], TEST.labels[one_class]), sigma=0.25, **FEW | {"skip": 1})
    assert not any("the answer is class" in note for note in alike.table().notes)


class Undecided(nn.Module):
    """Gives noisy copies of a grey image either class, each as often."""

    def forward(self, x: Tensor) -> Tensor:
        votes = x.flatten(1)[:, :1]
        return torch.cat([votes, 1 - votes], dim=1)


def test_a_classifier_that_always_abstains_is_told() -> None:
    images = torch.full((20, 1, 8, 8), 0.5)
    results = package.certify(Undecided(), (images, LABELS[:20] % 2), sigma=0.25, sound=False, n=100, progress=False)
    assert "it abstains on every image: are there too few samples" in results.table().notes[0]


class Tuples(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, x


FLAT = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: package.train("mnist/fast"), "no recipe .*mnist/fast"),
        (lambda: package.train(images="digits", gaus_num=3), "'gaus_num': did you mean gauss_num"),
        (lambda: package.train(images="digits", netwrk="lenet"), "'netwrk': did you mean network"),
        (lambda: package.train(images="digits", network="lenett"), "lenett"),
        (lambda: package.train(images="digit"), "digit"),
        (lambda: package.train(images="digits", method="mcer"), "mcer"),
        (lambda: package.train(images="digits", epochs=0), "epochs"),
        (lambda: package.train(images="digits", network="convnet", epsilon=3.0), "epsilon"),
        (lambda: package.train(images="mnist", network="lenet"), "mnist"),
        (lambda: package.train(images=(IMAGES, LABELS), root="here"), "root"),
        (lambda: package.train(images=(IMAGES, LABELS), network=FLAT, init="x.pt"), "init"),
        (lambda: package.train(images=(IMAGES, LABELS), network=FLAT, certify_from_epoch=1), "by name"),
        (lambda: package.train(images=(IMAGES.permute(0, 2, 3, 1), LABELS), network=FLAT), "channels last"),
        (
            lambda: package.train(images=(IMAGES.float(), LABELS), network=FLAT),
            r"from 0 to .*divide all images by 255\Z",
        ),
        (
            lambda: package.train(images=(IMAGES[:, :, 1:], LABELS), network=FLAT),
            r"fails on images of shape \(1, 7, 8\)",
        ),
        (lambda: package.train(images=(IMAGES, LABELS), network=Tuples()), "returned a tuple"),
        (lambda: package.certify(FLAT, TEST), "give `sigma`"),
        (lambda: package.certify(FLAT, sigma=0.25), "give .*images"),
        (lambda: package.certify(FLAT, TEST, sigma=0.25, alfa=0.1), "'alfa': did you mean alpha"),
        (lambda: package.certify(FLAT, TEST, sigma=0.25, outt="x"), "'outt': did you mean out"),
        (lambda: package.certify(FLAT, TEST, sigma=-1.0), "sigma"),
        (lambda: package.certify(FLAT, TEST, sigma="0.25"), "sigma must be a positive number.*not '0.25'"),
        (lambda: package.certify(FLAT, TEST, sigma=0.25, n=1), "n"),
        (lambda: package.certify(FLAT, TEST, sigma=0.25, network="lenet"), "give no `network`"),
        (
            lambda: package.certify(FLAT, (TEST.images.float(), TEST.labels), sigma=0.25),
            r"from 0 to .*divide all images by 255\Z",
        ),
        (lambda: package.certify(FLAT, TEST.images, sigma=0.25), "pair"),
        (lambda: package.certify(FLAT, [3, 4], sigma=0.25), "pair"),
        (
            lambda: package.certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), "digits", sigma=0.25),
            r"returned shape \(8, 9\) for 8 images of 10 classes",
        ),
        (lambda: package.certify(nn.Conv2d(3, 2, 3), "digits", sigma=0.25), r"fails on images of shape \(1, 8, 8\)"),
        (lambda: package.certify(Tuples(), (TEST.images, TEST.labels), sigma=0.25), "returned a tuple"),
        (lambda: package.certify("missing", TEST, sigma=0.25), "missing: no checkpoint"),
        (lambda: package.certify(FLAT, (TEST.images, TEST.labels), dataset="digits", sigma=0.25), "are one argument"),
        (lambda: package.train("digits/cohen-0.5", images="digits", dataset="mnist"), "are one argument"),
        (lambda: package.train(certify_every=5, images="digits"), "during training without `certify_from_epoch`"),
        (lambda: package.load_results("missing"), "missing"),
        (lambda: package.load_model("missing"), "missing"),
        (
            lambda: package.load_model("mnist-macer-0.25").predict(torch.rand(1, 32, 32)),
            r"must have shape \(1, 28, 28\), not \(1, 32, 32\): docs/data.md",
        ),
    ],
)
def test_wrong_use_is_one_sentence(call: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MacerError, match=words) as error:
        call()
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)  # these are no command-line options
    assert not list(tmp_path.iterdir())


def test_a_network_in_half_precision_is_certified() -> None:
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half()
    assert len(package.certify(half, TEST, sigma=0.25, n=100, num_img=2, progress=False).frame()) == 2


def test_the_package_shows_its_public_face_alone() -> None:
    assert dir(package) == sorted(package.__all__)
    assert set(package.__all__) >= {
        "train",
        "certify",
        "load_model",
        "load_results",
        "SmoothedClassifier",
        "objectives",
    }
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name.startswith("__") or getattr(package, name).__doc__ or name == "ABSTAIN"
    with pytest.raises(AttributeError, match="trian"):
        package.trian  # noqa: B018


def test_a_wrong_type_is_one_sentence_without_type_checks_at_run_time() -> None:
    code = (
        "import macer, torch\n"
        "for call in (lambda: macer.train(torch.nn.Flatten()), lambda: macer.certify(3, 'digits', sigma=1.0)):\n"
        "    try: call()\n"
        "    except macer.MacerError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert "first argument is a recipe's name" in first
    assert "not int" in second


def test_import_is_lazy() -> None:
    code = "import macer, sys; assert dir(macer); assert not {'torch', 'numpy', 'rich', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
