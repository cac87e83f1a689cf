"""What a record says about the network: weights by their bytes, code by its text, behaviour by answers to probes."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import macer
from macer import models
from macer.errors import SettingsError
from macer.files.toml import read_toml, write_toml
from macer.models.digest import answers, code_digest, digest, probe
from macer.runs.settings import differences

SHAPE = (1, 8, 8)

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

import macer_test_helpers
from macer_test_helpers import squash

SCALE = 2.0

def activate(x):
    return F.relu(x)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        inner = lambda y: squash(y)
        return macer_test_helpers.double(inner(self.fc(activate(SCALE * x.flatten(1)))))

class Network(Block):
    bits = 8
    register = {}

    def forward(self, x):
        return super().forward(x)

def build():
    return Network()

def elsewhere():
    return 1
"""
HELPERS = """
OFFSET = 0.5

def squash(x):
    return x.tanh() + OFFSET

def double(x):
    return 2 * x
"""


@pytest.fixture
def of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The digest of the code above, with a text in it replaced by another of the same meaning or not."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest_of(old: str = "", new: str = "") -> str:
        for name, text in (("macer_test_helpers", HELPERS), ("macer_test_source", SOURCE)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return code_digest(importlib.import_module("macer_test_source").build())

    return digest_of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE * x.flatten", "SCALE + x.flatten"),
        ("F.relu(x)", "F.leaky_relu(x)"),
        ("SCALE = 2.0", "SCALE = 2.1"),
        ("x.tanh()", "x.sin()"),
        ("OFFSET = 0.5", "OFFSET = 0.6"),
        ("return 2 * x", "return 3 * x"),
        ("bits = 8", "bits = 4"),
        ("squash(y)", "squash(-y)"),
        ("return Network()", "return Block()"),
    ],
)
def test_a_change_of_the_code_changes_its_digest(of_source, old, new):
    """In the class itself, its base, its functions, its constants, and in another file that it imports."""
    assert of_source() != of_source(old, new)


def test_values_that_are_kept_elsewhere_than_in_text_count():
    def scaled(factor):
        def function(x, *, factor=factor):
            return factor * x

        return function

    assert code_digest(Mine(scaled(2.0))) == code_digest(Mine(scaled(2.0))) != code_digest(Mine(scaled(3.0)))
    words = [np.array(["cat", each]) for each in ("dog", "dog", "fish")]
    one, same, other = (code_digest(Mine(each)) for each in words)
    assert one == same != other


def test_what_the_network_does_not_refer_to_does_not_count(of_source):
    assert (
        of_source() == of_source() == of_source("return 1", "return 2") == of_source("\ndef elsewhere", "# a\n\ndef e")
    )


class Mine(nn.Module):
    """As people write them: with functions, numbers and tensors as attributes."""

    def __init__(self, change: Any = None, stride: int = 1) -> None:
        super().__init__()
        self.change = change
        self.convolution, self.fc = nn.Conv2d(1, 1, 3, stride=stride, padding=stride), nn.Linear(64, 10)
        nn.init.ones_(self.convolution.weight)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(self.convolution(x)[:, :, :8, :8].flatten(1))
        return self.change(z) if callable(self.change) else z


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda z: factor * z


def with_buffer(value: float) -> nn.Module:
    network = Mine()
    network.register_buffer("hidden", torch.tensor(value), persistent=False)
    return network


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(10, 10)


def around(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda z: network(z)


DIFFERENT: list[tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = [
    (lambda: Mine(torch.relu), lambda: Mine(torch.sigmoid)),
    (lambda: Mine(lambda z: z + 1), lambda: Mine(lambda z: z + 2)),
    (lambda: Mine(scaled(1.0)), lambda: Mine(scaled(2.0))),
    (lambda: Mine(partial(F.leaky_relu, negative_slope=0.1)), lambda: Mine(partial(F.leaky_relu, negative_slope=0.2))),
    (lambda: Mine(8), lambda: Mine(4)),
    (lambda: Mine({"a": [1, (2, torch.zeros(2))]}), lambda: Mine({"a": [1, (2, torch.ones(2))]})),
    (lambda: with_buffer(1.0), lambda: with_buffer(2.0)),
    (lambda: Mine([linear(0)]), lambda: Mine([linear(1)])),  # no parts of the network, as PyTorch sees it
    (lambda: Mine(linear(0).forward), lambda: Mine(linear(1).forward)),
    (lambda: Mine(around(linear(0))), lambda: Mine(around(linear(1)))),
    (lambda: Mine([nn.LeakyReLU(0.1)]), lambda: Mine([nn.LeakyReLU(0.2)])),
    (lambda: nn.Sequential(Mine(), nn.ReLU()), lambda: nn.Sequential(Mine(), nn.Tanh())),
    (lambda: nn.Sequential(nn.LeakyReLU(0.1)), lambda: nn.Sequential(nn.LeakyReLU(0.2))),
    (lambda: nn.Conv2d(1, 1, 3, padding=1), lambda: nn.Conv2d(1, 1, 3, padding=0)),
    (lambda: nn.MultiheadAttention(8, 2), lambda: nn.MultiheadAttention(8, 4)),
]


@pytest.mark.parametrize("place", range(len(DIFFERENT)))
def test_what_the_state_dict_does_not_hold_counts(place):
    one, other = DIFFERENT[place]
    assert one().state_dict().keys() == other().state_dict().keys()
    assert code_digest(one()) != code_digest(other())
    assert code_digest(one()) == code_digest(one())


def test_code_made_at_a_prompt_counts_by_its_instructions():
    def of(expression: str) -> str:
        names: dict[str, Any] = {"__name__": "__nowhere__", "nn": nn}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {expression}", names)
        return code_digest(names["Net"]())

    assert of("x + 1") == of("x + 1")
    assert len({of("x + 1"), of("x + 2"), of("x - 1")}) == 3


@dataclass
class Options:
    """Its slots and methods belong to no module."""

    __slots__ = ("width",)
    width: int


def test_classes_of_every_kind_are_taken():
    for kind in (Options, Options(1), RuntimeError, str.join, Options.width):
        assert code_digest(Mine([kind])) == code_digest(Mine([kind]))


def test_weights_do_not_count_as_code():
    assert code_digest(nn.Linear(4, 2)) == code_digest(nn.Linear(4, 2))


def test_buffers_count_as_code_where_the_state_dict_lacks_them():
    """The others are weights: batch norm's statistics differ between two runs of one network."""

    def digest_of(value: float, *, persistent: bool) -> str:
        network = nn.Identity()
        network.register_buffer("numbers", torch.tensor([value]), persistent=persistent)
        return code_digest(network)

    assert digest_of(1.0, persistent=True) == digest_of(2.0, persistent=True)
    assert digest_of(1.0, persistent=False) != digest_of(2.0, persistent=False)


PROCESS = """
from dataclasses import dataclass
from macer.models.digest import class_digest, code_digest
from torch import nn

@dataclass(frozen=True)
class Mine:
    kinds: tuple = ("cpu", "cuda", "xpu", "mps")

network = nn.Identity()
network.placed = lambda x: x in {"cpu", "cuda", "xpu", "mps"}
print(code_digest(network), class_digest(Mine))
"""


def test_the_digest_of_code_is_the_same_in_every_process():
    """Sets of text come in another order in each."""
    said = {
        subprocess.run(
            [sys.executable, "-c", PROCESS], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(said) == 1


def test_values_that_refer_to_themselves_end():
    loop: list[Any] = [1]
    loop.append(loop)
    assert code_digest(Mine(loop)) != code_digest(Mine([1]))


# ---- probes


def test_answers_depend_on_every_logit_and_every_probe():
    torch.manual_seed(0)
    network = models.build("convnet", 10, SHAPE)
    network.train()
    logits = probe(network, 10, SHAPE)
    assert network.training
    assert logits.shape == (8, 10)
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits, network.eval()(images).double())
    literal = [sum(math.cos(place + 1) * z for place, z in enumerate(row)) for row in logits.tolist()]
    assert answers(logits) == pytest.approx(literal, rel=1e-5)
    for place in range(10):
        changed = logits.clone()
        changed[3, place] += 1
        moved = [a != b for a, b in zip(answers(changed), answers(logits), strict=True)]
        assert moved == [probed == 3 for probed in range(8)]
    assert answers(logits / 0) is None


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {"probes": [1.0, -2.0]}, []),  # not finite there
        ({"probes": [1.0, -2.0]}, {}, []),  # not finite here
        ({"probes": [1.0, -2.0]}, {"probes": (1.019, -2.019)}, []),  # another machine
        (
            {"probes": [1.0, -2.0]},
            {"probes": (1.03, -2.0)},
            ["probes: the network answers 2 fixed images otherwise than there"],
        ),
        (
            {"probes": [1.0]},
            {"probes": (1.0, 1.0)},
            ["probes: the network answers 2 fixed images otherwise than there"],
        ),
        ({}, {"code": "ab"}, ["code: unset there, ab here"]),
        ({"code": "ab"}, {"code": "cd"}, ["code: ab there, cd here"]),
    ],
)
def test_records_are_compared_up_to_rounding(old, new, found):
    assert differences(old, new) == found
    assert differences(old, new, ignored=frozenset({"probes"})) == found


def test_going_on_needs_the_same_network(tmp_path, monkeypatch):
    options: dict[str, Any] = {"sigma": 0.25, "n": 100, "skip": 100, "progress": False, "out": tmp_path / "c"}
    first = macer.certify(Mine(scaled(1.0)), "digits", **options)
    file = tmp_path / "c" / "settings.toml"
    tables = read_toml(file)
    told = tables["certification"]
    assert (len(told["code"]), len(told["probes"])) == (64, 8)
    assert told["digest"] == digest(Mine().state_dict())
    tables["certification"]["probes"] = [1.0001 * each for each in told["probes"]]  # as another machine rounds
    write_toml(file, tables)
    again = macer.certify(Mine(scaled(1.0)), "digits", **options)
    assert again.frame().equals(first.frame())
    with pytest.raises(SettingsError, match=r"was made with other settings \(code: \w+ there, \w+ here; probes"):
        macer.certify(Mine(scaled(2.0)), "digits", **options)
    # The same code, as far as Python shows it, that reads another number from somewhere.
    preparing = sys.modules["macer.certification.prepare"]
    monkeypatch.setattr(preparing, "code_digest", lambda network: told["code"])
    with pytest.raises(SettingsError, match=r"\(probes: the network answers 8 fixed images otherwise than there\)"):
        macer.certify(Mine(scaled(2.0)), "digits", **options)


def test_networks_by_name_are_known_by_their_weights_and_answers(tmp_path):
    torch.save(models.build("convnet", 10, SHAPE).state_dict(), tmp_path / "weights.pt")
    options: dict[str, Any] = {"sigma": 0.25, "n": 100, "skip": 100, "progress": False, "out": tmp_path / "c"}
    macer.certify(tmp_path / "weights.pt", "digits", network="convnet", **options)
    told = read_toml(tmp_path / "c" / "settings.toml")["certification"]
    assert "code" not in told
    assert len(told["probes"]) == 8


# ---- soft certificates of probabilities


def test_soft_certificates_of_a_network_that_ends_in_softmax_warn(recwarn):
    network = nn.Sequential(Mine(), nn.Softmax(1))
    options: dict[str, Any] = {"sigma": 0.25, "n": 100, "skip": 100, "progress": False}
    with pytest.warns(UserWarning, match="outputs are probabilities already .each row sums to 1."):
        macer.certify(network, "digits", mode="soft", **options)
    macer.certify(network, "digits", mode="hard", **options)
    macer.certify(Mine(), "digits", mode="both", **options)
    assert not recwarn.list
