"""Mistakes in a training method of one's own: one line that names the class and what is missing."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import macer as package
from macer.errors import MacerError, SettingsError
from macer.objectives import Cohen, Loss, Objective
from macer.objectives.base import cross_entropy, option
from macer.objectives.listing import by_name
from macer.pretrained.exported import export
from macer.runs.run import Run

pytest_plugins = ["command"]


@dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    """A method without a mistake."""

    name = "mine"
    steepness: float = option(2.0, "How steep.")

    @property
    def samples(self) -> int:
        return 1

    def loss(self, network, images, labels, *, generator, progress) -> Loss:
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Nameless(Objective):
    samples = 1  # type: ignore[assignment]
    loss = Mine.loss


@dataclass(frozen=True, kw_only=True)
class Uncounted(Objective):
    name = "uncounted"
    loss = Mine.loss


@dataclass(frozen=True, kw_only=True)
class Lossless(Objective):
    name = "lossless"
    samples = Mine.samples


@dataclass(frozen=True, kw_only=True)
class Misnamed(Mine):
    name = "../up"


@dataclass(frozen=True, kw_only=True)
class Unoffered(Mine):
    width: int = 3


class Undecorated(Mine):
    width: int = option(3, "How wide.")


# Without the decorator @property.
Counting = dataclass(frozen=True, kw_only=True)(type("Counting", (Mine,), {"samples": lambda _self: 1}))


def test_a_method_without_a_mistake_is_listed():
    assert by_name(Cohen, Mine) == {"cohen": Cohen, "mine": Mine}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Nameless, 'Nameless lacks its name for --method, such as name = "mine"'),
        (Uncounted, "Uncounted lacks the property samples, the passes per image"),
        (Counting, "Counting lacks the property samples, the passes per image"),
        (Lossless, "Lossless lacks the method loss"),
        (Misnamed, "Misnamed: its name is of small letters and digits, with hyphens between, not '../up'"),
        (Unoffered, "Unoffered: make its field width with option(default, help)"),
        (Undecorated, "Undecorated lacks @dataclass(frozen=True, kw_only=True) above it"),
    ],
)
def test_a_class_that_lacks_something_is_not_listed(method, message):
    with pytest.raises(SettingsError) as error:
        by_name(Cohen, method)
    assert str(error.value) == f"the training method {message}"


def test_two_methods_of_one_name_are_not_listed():
    @dataclass(frozen=True, kw_only=True)
    class Other(Mine):
        name = "cohen"

    with pytest.raises(SettingsError, match=r"^Cohen and .*Other are both named 'cohen': rename one$"):
        by_name(Cohen, Other)


def loss_of(total: Any, **terms: Any) -> Any:
    """A loss without the checks of types that tests add to its class."""
    loss = object.__new__(Loss)
    vars(loss).update(total=total, terms=terms)
    return loss


X = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (X, " must return Loss(total, terms), not a tensor of shape () and type torch.float32"),
        (loss_of(X.expand(3)), ": total must be a scalar tensor, not a tensor of shape (3,) and type torch.float32"),
        (loss_of(X, error=0.5), ": error must be a scalar tensor, not a float"),
        (loss_of(X, error=X), ": term error must be detached: error.detach()"),
        (loss_of(X, seconds=X.detach()), ": rename its term seconds, which metrics.tsv has"),
    ],
)
def test_a_loss_that_training_cannot_use_is_refused(monkeypatch, loss, message):
    monkeypatch.setattr(Mine, "loss", lambda *_, **__: loss)
    with pytest.raises(SettingsError) as error:
        Mine()(nn.Identity(), torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64))
    assert str(error.value) == f"the training method Mine{message}"


SCRIPT = """
from dataclasses import dataclass
from macer import objectives
from macer.cli import main

@dataclass(frozen=True, kw_only=True)
class Mine(objectives.Cohen):
    name = "mine"
    lr: float = objectives.base.option(0.1, "A rate of its own.")

objectives.OBJECTIVES["mine"] = Mine
main()
"""


def test_an_option_that_training_has_is_refused_by_every_command_in_one_line():
    command = subprocess.run(
        [sys.executable, "-c", SCRIPT, "recipes"], capture_output=True, text=True, check=False, timeout=120
    )
    message = "macer: the training method Mine: rename lr, which training itself has\n"
    assert (command.returncode, command.stdout, command.stderr) == (2, "", message)


@dataclass(frozen=True, kw_only=True)
class Sharp(Objective):
    """Cross-entropy of sharpened logits: a method outside the package."""

    name = "sharp"
    gauss_num: int = option(2, "Copies.", least=1)
    sharpness: float = option(1.0, "Factor of the logits.", above=0)

    @property
    def samples(self) -> int:
        return self.gauss_num

    def loss(self, network, images, labels, *, generator, progress) -> Loss:
        total = cross_entropy(self.noisy_logits(network, images, self.gauss_num, generator) * self.sharpness, labels)
        return Loss(total, {"classification": total.detach()})


@dataclass(frozen=True, kw_only=True)
class Changing(Sharp):
    """One whose terms grow in number in the second epoch."""

    name = "changing"

    def loss(self, network, images, labels, *, generator, progress) -> Loss:
        loss = super().loss(network, images, labels, generator=generator, progress=progress)
        return loss if progress.epoch < 1 else Loss(loss.total, {**loss.terms, "late": loss.total.detach()})


def test_terms_that_change_are_refused_in_one_line(tmp_path):
    asked = {**DIGITS, "epochs": 2, "method": Changing, "out": tmp_path / "run", "progress": False}
    with pytest.raises(
        SettingsError, match=r"changing has other terms \(loss, classification, late\) than in the first"
    ):
        package.train(**asked)
    with pytest.raises(
        SettingsError, match="columns are epoch, learning_rate, loss, classification, seconds, noisy_im"
    ):
        package.train(**asked)  # goes on from the first epoch
    assert len(Run(tmp_path / "run").metrics()["epoch"]) == 1


NETWORK = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


def test_a_training_does_not_go_on_with_changed_code(macer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "macer_test_changing.py"
    file.write_text(NETWORK)
    words = ("train", "--dataset", "digits", "--num-images", 64, "--epochs", 1, "--method", "cohen", "--out", "run")
    network = ("--network", "macer_test_changing:build")
    certify = ("certify", "run", *network, "--n", 100, "--num-img", 2, "--skip", 100)
    assert macer(*words, *network).code == 0
    assert "changed" not in macer(*certify).out
    assert macer(*words, *network).code == 0  # the same code
    file.write_text(NETWORK.replace("ReLU", "GELU"))
    sys.modules.pop("macer_test_changing")
    assert "the code of its network has changed since: train in another directory" in macer.refuses(*words, *network)
    said = macer(*certify, "--out", "other").out
    assert "warning: the code of macer_test_changing:build has changed since these weights were trained in it" in said


DIGITS: dict[str, Any] = {"images": "digits", "network": "convnet", "num_images": 64, "epochs": 1, "device": "cpu"}


def test_a_class_outside_the_package_trains_goes_on_and_is_certified(tmp_path):
    asked = {**DIGITS, "method": Sharp, "out": tmp_path / "run", "progress": False}
    run = package.train(sharpness=3.0, gauss_num=3, **asked)
    objective = run.settings()["objective"]
    assert objective == {
        "name": "sharp", "class": f"{__name__}:Sharp", "sigma": 0.25, "gauss_num": 3, "sharpness": 3.0
    }  # fmt: skip
    before = run.checkpoint_file.read_bytes()
    assert package.train(sharpness=3.0, gauss_num=3, **asked).checkpoint_file.read_bytes() == before
    with pytest.raises(SettingsError, match=r"sharpness: 3\.0 there, 1\.0 here"):
        package.train(gauss_num=3, **asked)
    with pytest.raises(MacerError, match="did you mean sharpness"):
        package.train(sharpnes=3.0, **asked)
    with pytest.raises(SettingsError, match="lbd is no setting of sharp, which has sigma, gauss_num, sharpness"):
        package.train(lbd=3.0, **asked)
    results = package.certify(run, num_img=5, n=100, device="cpu", progress=False)
    assert results.records[0].method == "sharp"


def test_the_weights_of_such_a_method_say_how_they_were_trained_without_its_code(tmp_path):
    path = f"{__name__}:Sharp"
    run = package.train("digits/cohen-0.5", **{**DIGITS, "method": path, "out": tmp_path / "run", "progress": False})
    assert run.settings()["objective"]["sigma"] == 0.5  # the recipe's; its other numbers are its method's
    file = tmp_path / "sharp.safetensors"
    export(run.path, file)
    code = f"import macer; print(macer.certify({str(file)!r}, num_img=3, n=100, device='cpu').records[0].method)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout == "sharp\n"


def test_the_command_takes_a_method_by_its_import_path(macer, tmp_path):
    words = ("train", "--dataset", "digits", "--network", "convnet", "--epochs", 1, "--num-images", 64)
    path = f"{__name__}:Sharp"
    assert macer(*words, "--method", path, "--gauss-num", 3, "--out", tmp_path / "run").code == 0
    for method, says in {
        f"{__name__}:Blunt": "has no attribute 'Blunt'",
        "no_such_module:Sharp": "no_such_module:Sharp: ModuleNotFoundError: No module named 'no_such_module', inst",
        "sharp.py:Sharp": "a module is named without .py: write sharp:Sharp",
        "torch.nn:Linear": "a training method is a class that extends macer.objectives.Objective, not <class",
        f"{__name__}:Lossless": "Lossless lacks the method loss",
        f"{__name__}:Greedy": "Greedy: rename lr, which training itself has",
        f"{__name__}:Posing": "Cohen and Posing are both named 'cohen': rename one",
        "sharp": "no training method is named 'sharp': choose one of cohen, ",
    }.items():
        assert says in macer.refuses(*words, "--method", method, "--out", tmp_path / "other")


@dataclass(frozen=True, kw_only=True)
class Greedy(Sharp):
    name = "greedy"
    lr: float = option(0.1, "A rate of its own.")


@dataclass(frozen=True, kw_only=True)
class Posing(Sharp):
    name = "cohen"
