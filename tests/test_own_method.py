"""Mistakes in a training method of one's own: one line that names the class and what is missing."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from macer.errors import SettingsError
from macer.objectives import Cohen, Loss, Objective
from macer.objectives.base import option
from macer.objectives.listing import by_name


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
