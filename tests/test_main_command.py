"""`macer main`: the original's command line, with its defaults, its files and its way to go on from a checkpoint."""

import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat

from macer.certification import CertificationDuringTraining, prepare
from macer.cli import original as cli
from macer.errors import DataError
from macer.experiments import original
from macer.files.toml import read_toml
from macer.models.convnet import ConvNet
from macer.training.loop import _Loop

pytest_plugins = ["command"]

DIGITS = ("main", "--dataset", "digits")
TRAIN = (*DIGITS, "--task", "train", "--epochs", 201, "--batch_size", 700, "--gauss_num", 1)
TEST = (*DIGITS, "--task", "test", "--start_img", 1, "--num_img", 2, "--skip", 3, "--matdir", "mat")


@pytest.fixture
def few_samples(monkeypatch):
    """All certificates from 200 samples."""

    def few(found, *, chosen, **words):
        return prepare(found, chosen={**chosen, "n": 200}, **words)

    monkeypatch.setattr(cli, "CertificationDuringTraining", functools.partial(CertificationDuringTraining, n=200))
    monkeypatch.setattr(original, "prepare", few)


def stop_in(monkeypatch, epoch):
    """Ask to stop in an epoch, counted from 0."""
    step = _Loop.train_step

    def stop(loop, *words):
        if loop.state.epoch == epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return step(loop, *words)

    monkeypatch.setattr(_Loop, "train_step", stop)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(seed=0):
    torch.manual_seed(seed)
    return ConvNet().state_dict()


def save(file, seed=0, epoch=198):
    """A checkpoint as main.py writes it."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"net": weights(seed), "epoch": epoch}, file)
    return file


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def last(run):
    return torch.load(Path(run, "checkpoints", "last.pt"), weights_only=True)["network"]


def rows(journal):
    """The lines of a journal, without the seconds they took, by their columns' names."""
    names, *lines = (line.split("\t") for line in Path(journal).read_text().splitlines())
    return [{name: cell for name, cell in zip(names, line, strict=True) if name != "time"} for line in lines]


@pytest.fixture
def shown(macer, monkeypatch):
    """Run a command; return its settings in place of the work."""

    def show(*words):
        def instead(told, *_words, **_more):
            tables.update(getattr(told, "settings", told).tables())
            sys.exit(0)

        tables = {}
        with monkeypatch.context() as patch:
            for name in ("train", "certify_images"):
                patch.setattr(original, name, instead)
            assert macer(*words).code == 0
        return tables

    return show


# What the options mean


def test_training_defaults_are_the_originals(macer, shown):
    tables = shown(*DIGITS, "--start_img", 0, "--num_img", 1)
    told = {**tables["training"], **tables["objective"]}
    assert "init" not in told
    expected = {"name": "macer", "epochs": 440, "batch_size": 64, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    expected |= {"sigma": 0.25, "gauss_num": 16, "lbd": 12.0, "gamma": 8.0, "beta": 16.0, "root": "data"}
    assert {name: told[name] for name in expected} == expected
    assert "cifar10: root data is not a directory" in macer.refuses("main")
    assert "start_img 500" in macer.refuses(*DIGITS)
    assert "start_img 1, num_img 500 and skip 1 reach image 500" in macer.refuses(*DIGITS, "--start_img", 1)


def test_test_defaults_are_the_originals(macer, shown):
    words = (*DIGITS, "--task", "test", "--resume_ckpt", save("198.pth"))
    told = shown(*words, "--start_img", 0, "--num_img", 1)["certification"]
    expected = {"mode": "both", "sigma": 0.25, "beta": 16.0, "n0": 100, "n": 100_000, "alpha": 0.001, "skip": 1}
    assert {name: told[name] for name in expected} == expected
    assert "start_img 500" in macer.refuses(*words)
    assert "start_img 1, num_img 500 and skip 1 reach image 500" in macer.refuses(*words, "--start_img", 1)


OPTIONS = {
    "epochs": 3,
    "gauss_num": 2,
    "batch_size": 32,
    "lr": 0.5,
    "sigma": 0.5,
    "lbd": 2.0,
    "gamma": 4.0,
    "beta": 8.0,
}


@pytest.mark.parametrize(("between", "joined"), [("_", True), ("-", False)], ids=["underscores", "dashes"])
def test_options_are_spelt_as_in_the_original_or_with_dashes(shown, between, joined):
    def spelt(options):
        pairs = [(f"--{name.replace('_', between)}", value) for name, value in options.items()]
        return [f"{name}={value}" for name, value in pairs] if joined else [word for pair in pairs for word in pair]

    tables = shown(*DIGITS, *spelt({"task": "train", **OPTIONS}))
    told = {**tables["training"], **tables["objective"]}
    assert {name: told[name] for name in OPTIONS} == OPTIONS
    images = {"start_img": 7, "num_img": 2, "skip": 3}
    words = spelt({"task": "test", "resume_ckpt": save("198.pth"), **images, "sigma": 0.5, "beta": 8.0})
    told = shown(*DIGITS, *words)["certification"]
    assert {name: told[name] for name in (*images, "sigma", "beta")} == {**images, "sigma": 0.5, "beta": 8.0}


def test_none_is_as_if_left_out(macer):
    nothing = ("--resume_ckpt", "none", "--ckptdir", "none", "--matdir", "none")
    assert macer(*TRAIN, "--epochs", 1, *nothing).code == 0
    assert [file.name for file in Path().iterdir()] == ["runs"]
    assert Path("runs/main-digits-0.25/checkpoints/last.pt").exists()
    assert "--task test needs --resume_ckpt FILE" in macer.refuses(*TEST, "--resume_ckpt", "none")


def test_mistakes_are_one_line(macer):
    assert "'both' is not one of" in macer.refuses(*DIGITS, "--task", "both")
    assert "missing.pth: no checkpoint there" in macer.refuses(*TRAIN, "--resume_ckpt", "missing.pth")
    assert "missing.pth: no checkpoint there" in macer.refuses(*TEST, "--resume_ckpt", "missing.pth")
    Path("a-file").touch()
    said = macer.refuses(*TRAIN, "--start_img", 0, "--num_img", 1, "--ckptdir", "ckpt", "--matdir", "a-file")
    assert "a-file" in said
    assert not Path("runs").exists()


# Going on from a checkpoint


FROM_198 = (*TRAIN, "--resume_ckpt", "198.pth", "--ckptdir", "ckpt", "--start_img", 3, "--num_img", 2)


def test_training_goes_on_with_the_checkpoints_weights_epoch_and_rate(macer, few_samples):
    """The rate drops after epoch 200, as the original's option says."""
    save("198.pth")
    result = macer(*FROM_198, "--matdir", "mat", "--lr", 1e-30)
    assert result.code == 0, result
    assert "starting from 198.pth (checkpoint of the original MACER code: " in result.out
    assert "epoch 198" in result.out
    header, *lines = [line.split("\t") for line in Path("ckpt/run/metrics.tsv").read_text().splitlines()]
    rates = [float(line[header.index("learning_rate")]) for line in lines]
    assert rates == [1e-30, 1e-30, 1e-31]  # of epochs 199, 200 and 201
    assert same(last("ckpt/run"), weights())
    assert [file.name for file in sorted(Path("ckpt").iterdir())] == ["200.pth", "run"]
    content = torch.load("ckpt/200.pth", weights_only=True)
    assert content["epoch"] == 200
    assert same(content["net"], weights())
    journal = rows("ckpt/run/certificates/epoch-0200/hard.tsv")
    assert [row["idx"] for row in journal] == ["3", "4"]
    assert [file.name for file in Path("mat").iterdir()] == ["200.mat"]
    assert loadmat("mat/200.mat")["hard"].shape == (1, 2)
    assert read_toml(Path("ckpt/run/settings.toml"))["training"]["init"] == "198.pth"


def test_a_stopped_run_goes_on_by_itself(macer, few_samples, monkeypatch):
    """Also where the checkpoint is one that it wrote itself, which holds less than its own records."""
    save("198.pth")
    whole = macer(*FROM_198, "--ckptdir", "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, 200)
        stopped = macer(*FROM_198)
    assert (whole.code, stopped.code) == (0, 128 + signal.SIGINT)
    assert not same(last("ckpt/run"), last("whole/run"))
    said = macer.refuses(*FROM_198, "--resume_ckpt", save("other/198.pth", seed=1))
    assert "ckpt/run was made with other settings (init: 198.pth there, other/198.pth here)" in said
    assert said.endswith("; in another directory, `init=ckpt/run` starts from its weights")
    shutil.copytree("ckpt", "copy")
    Path("198.pth").unlink()  # nothing of it is needed any more
    for directory, more in (("ckpt", ()), ("copy", ("--resume_ckpt", "copy/200.pth"))):
        again = macer(*FROM_198, "--ckptdir", directory, *more)
        assert again.code == 0, again
        assert f"going on from {directory}/run after epoch 200" in again.out
        assert same(last(f"{directory}/run"), last("whole/run"))


def test_a_checkpoint_whose_epoch_is_not_known_is_refused(macer):
    """The file does not say it, or counts from where its run started."""
    words = ("train", *DIGITS[1:], "--network", "convnet", "--epochs", 1, "--gauss-num", 1, "--device", "cpu")
    assert macer(*words, "--init", save("198.pth"), "--out", "run").code == 0
    own = ("--resume_ckpt", "run/checkpoints/last.pt")
    for command in ((*TRAIN, *own, "--ckptdir", "ckpt2"), (*TEST, *own)):
        assert "counts epochs from where it started, 198.pth: give one of the EPOCH.pth" in macer.refuses(*command)
    torch.save({"net": weights()}, "without.pth")
    for command in (TRAIN, TEST):
        assert "without.pth does not say its epoch" in macer.refuses(*command, "--resume_ckpt", "without.pth")


@pytest.mark.parametrize("epoch", [201, -1])
def test_a_checkpoint_that_leaves_nothing_to_train_is_refused(macer, epoch):
    save("198.pth", epoch=epoch)
    assert f"198.pth is of epoch {epoch}: epochs 201 leaves none to train" in macer.refuses(*FROM_198)
    assert not Path("ckpt").exists()


# Certification during training


def test_images_that_do_not_exist_are_refused_before_training(macer):
    assert "reach image 500" in macer.refuses(*TRAIN, "--start_img", 499, "--num_img", 2)
    during = ("--certify-from-epoch", 2, "--certify-every", 2, "--certify-start-img", 500)
    train = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", "--epochs", 2)
    assert "start_img 500" in macer.refuses(*train, *during)
    assert not list(Path().iterdir())


def test_images_are_not_asked_for_where_no_epoch_is_certified(macer):
    assert macer(*TRAIN, "--epochs", 1, "--start_img", 500).code == 0
    during = ("--certify-from-epoch", 2, "--certify-every", 2, "--certify-start-img", 500)
    train = ("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", "--epochs", 1, "--gauss-num", 1)
    assert macer(*train, *during).code == 0


def test_a_missing_test_split_is_noticed_before_training(macer):
    header = bytes((0, 0, 8))
    images = header + b"\3" + b"".join(size.to_bytes(4, "big") for size in (70, 28, 28)) + bytes(70 * 28 * 28)
    Path("train-images-idx3-ubyte").write_bytes(images)
    Path("train-labels-idx1-ubyte").write_bytes(header + b"\1" + (70).to_bytes(4, "big") + bytes(70))
    words = ("--dataset", "mnist", "--root", ".", "--epochs", 200)
    assert "found no t10k-images-idx3-ubyte" in macer.refuses("main", *words)
    during = ("--network", "lenet", "--certify-from-epoch", 200)
    assert "found no t10k-images-idx3-ubyte" in macer.refuses("train", *words, *during)
    assert not Path("runs").exists()


def test_a_certification_that_fails_does_not_cost_the_network(macer, few_samples, monkeypatch):

    def fail(*_words, **_more):
        raise DataError("the disk went away")

    save("198.pth")
    words = (*FROM_198, "--matdir", "mat")
    with monkeypatch.context() as patch:
        patch.setattr("macer.certification.during_training.certify_run", fail)
        assert "the disk went away" in macer.refuses(*words)
    assert torch.load("ckpt/200.pth", weights_only=True)["epoch"] == 200
    assert not list(Path("mat").iterdir())
    assert macer(*words).code == 0
    assert Path("mat/200.mat").exists()


# Certifying


def test_test_leaves_the_originals_mat(macer, few_samples):
    result = macer(*TEST, "--resume_ckpt", save("net.pth"))
    assert result.code == 0, result
    found = loadmat("mat/198.mat")
    (run,) = Path("mat").glob("test-net-*")
    for kind in ("hard", "soft"):
        journal = rows(run / f"{kind}.tsv")
        assert [row["idx"] for row in journal] == ["1", "4"]
        radii = [float(row["radius"]) if row["correct"] == "1" else -1 for row in journal]
        np.testing.assert_array_equal(found[kind].ravel(), radii)
    assert macer(*TEST[:-2], "--resume_ckpt", "net.pth").code == 0
    assert [file.name for file in Path("runs").iterdir()] == [run.name]


def test_another_question_leaves_earlier_certificates_as_they_are(macer, few_samples):
    """Another sigma, other images, another network whose file has the same name; EPOCH.mat is the last one's."""
    first = ("--resume_ckpt", save("198.pth"))
    others = [
        (*first, "--sigma", 0.5),
        (*first, "--start_img", 2),
        ("--resume_ckpt", save("other/198.pth", seed=1)),
    ]
    before: dict[Path, bytes] = {}
    for number, words in enumerate((first, *others), start=1):
        result = macer(*TEST, *words)
        assert result.code == 0, result
        now = {file: file.read_bytes() for file in Path("mat").glob("test-*/*")}
        assert {file: now[file] for file in before} == before
        assert len({file.parent for file in now}) == number
        (made,) = {file.parent for file in now} - {file.parent for file in before}
        assert loadmat("mat/198.mat")["soft"].tolist() == loadmat(made / "certificates.mat")["soft"].tolist()
        before = now
    assert macer(*TEST, *first).code == 0
    journals = {file: content for file, content in before.items() if file.suffix != ".mat"}
    assert {file: file.read_bytes() for file in Path("mat").glob("test-*/*.t*")} == journals
