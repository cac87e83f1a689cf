"""Arithmetic by `auto`: decided once, recorded, shared; bfloat16 is another network, with its own votes and ties."""

import copy
import random
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from journals import OPTIONS, rows
from torch import nn

import macer as package
from macer import models
from macer.certification import CertificationSettings, precision
from macer.certification.evaluation import ImageCertification, smoothed_classifier
from macer.certification.precision import with_precision
from macer.compute import device
from macer.errors import SettingsError
from macer.files.toml import read_toml
from macer.models import bfloat16
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import folded
from macer.smoothing import SmoothedClassifier
from macer.training import processes

pytest_plugins = ["command"]

SETTINGS = CertificationSettings(
    dataset="digits", checkpoint="", network="", digest="", total=500, shape=(1, 8, 8), precision="auto"
)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def machine(monkeypatch):
    """Say whether this machine has bfloat16 and a compiler."""

    def describe(*, bfloat16: bool, compiler: bool = False) -> None:
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _device: bfloat16)
        monkeypatch.setattr(precision, "_compiles", lambda _device: compiler)

    return describe


def decided(settings, directory=None, network=NETWORK):
    found = with_precision(settings, network, directory, "cpu")
    return found.precision, found.bf16_form


@pytest.mark.parametrize(
    ("bfloat16", "compiler", "chosen", "expected"),
    [
        (False, True, {}, ("32-true", None)),
        (True, True, {}, ("bf16-true", "compiled")),  # 500 images of 64 pixels, n = 100,100: 3.2e9 pixels
        (True, True, {"num_img": 100}, ("bf16-true", "folded")),  # 6.4e8
        (True, False, {}, ("bf16-true", "folded")),
        (True, True, {"compile": "no"}, ("bf16-true", "folded")),
        (True, False, {"compile": "yes"}, ("bf16-true", "compiled")),
        (True, True, {"precision": "32-true"}, ("32-true", None)),
        (False, False, {"precision": "bf16-true"}, ("bf16-true", "folded")),
    ],
)
def test_auto_takes_what_the_machine_has(machine, bfloat16, compiler, chosen, expected):
    machine(bfloat16=bfloat16, compiler=compiler)
    assert decided(replace(SETTINGS, **chosen)) == expected


def test_auto_leaves_networks_alone_that_have_an_arithmetic_of_their_own(machine):
    machine(bfloat16=True)
    for network in (nn.Linear(2, 2).half(), nn.Linear(2, 2).double(), nn.Flatten()):
        assert decided(SETTINGS, network=network) == ("32-true", None)


def test_shards_agree_whatever_their_machines_have(machine, tmp_path):
    """The first shard decides; the others follow on machines of other kinds, or are refused in one line."""
    shards = [replace(SETTINGS, shard=f"{part}/3") for part in (1, 2, 3)]
    places = [tmp_path / f"shard-{part}-of-3" for part in (1, 2, 3)]
    machine(bfloat16=True, compiler=True)
    assert decided(shards[0], places[0]) == ("bf16-true", "compiled")
    machine(bfloat16=False)
    assert decided(shards[1], places[1]) == ("bf16-true", "compiled")
    assert decided(replace(shards[2], precision="bf16-true"), places[2]) == ("bf16-true", "compiled")
    for other in ({"precision": "32-true"}, {"compile": "no"}):
        with pytest.raises(SettingsError, match="the other shards are computed in bf16-true, compiled, not"):
            decided(replace(shards[2], **other), places[2])
    assert read_toml(tmp_path / "precision.toml") == {"precision": "bf16-true", "bf16_form": "compiled"}
    assert decided(shards[0], tmp_path / "other" / "shard-1-of-3") == ("32-true", None)


def test_the_record_says_what_auto_chose_and_going_on_takes_it(macer, trained, tmp_path, monkeypatch):
    """Also where the machine changes, in both directions; the named precision is refused where it differs."""
    for fast, name, other in ((True, "bf16-true", "32-true"), (False, "32-true", "bf16-true")):
        out = tmp_path / name
        words = ("certify", trained, *OPTIONS, "--out", out)
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _device, fast=fast: fast)
        assert macer(*words, "--num-img", 2, "--precision", "auto").code == 0
        before = rows(out, "hard")
        assert read_toml(out / "settings.toml")["certification"]["precision"] == name
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _device, fast=fast: not fast)
        assert macer(*words, "--num-img", 3, "--precision", "auto").code == 0
        assert rows(out, "hard")[:3] == before
        assert len(rows(out, "hard")) == 4
        assert f"precision: {name} there, {other} here" in macer.refuses(*words, "--precision", other)
        assert macer("verify", out, "--images", 3).code == 0
    said = macer.refuses("certify", trained, *OPTIONS, "--out", tmp_path / "bf16-true", "--compile", "yes",
                         "--precision", "auto")  # fmt: skip
    assert "bf16_form: folded there, compiled here" in said


def test_a_module_in_memory_stays_in_float32(machine):
    machine(bfloat16=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = (torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    package.certify(network, images, sigma=0.25, n=100, progress=False, precision="auto")
    assert {each.dtype for each in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_say_whether_they_have_bfloat16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device.has_fast_bfloat16.__wrapped__("cuda") is expected


@pytest.mark.parametrize(("bfloat16", "expected"), [(1.0, True), (1.25, True), (1.5, False), (3.0, False)])
def test_a_cpu_is_asked_by_measuring(monkeypatch, bfloat16, expected):
    """A clock that runs on by 2 in float32, and by a number around that in bfloat16: 1.2 times as fast is enough."""
    clock = [0.0]
    passes = nn.Conv2d.forward

    def forward(self, x):
        clock[0] += bfloat16 if x.dtype == torch.bfloat16 else 1.55
        return passes(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device.has_fast_bfloat16.__wrapped__("cpu") is expected


class Table(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("logits", "winner"),
    [
        ([1.0, 3.01, 3.02, 3.0], 2),  # only float32 tells the second from the third
        ([3.0, 1.0, 3.0, 3.0], 0),  # an exact tie in both
        ([1.0, 1.0, 5.0, 5.0], 2),
    ],
)
def test_exact_ties_in_bfloat16_are_decided_alike_everywhere(logits, winner):
    """By the first of the largest logits: in certificates, in predictions, for every n, and without a second pass."""
    network = Table(logits)
    image = torch.randint(256, (1, 8, 8)) / 255
    in_float32 = SmoothedClassifier(network, 0.25, 4, seed=0)
    assert in_float32.predict(image) == in_float32.certify(image, n=1000).predict == winner
    rounded = torch.tensor(logits).bfloat16()
    first = next(place for place, each in enumerate(rounded.tolist()) if each == rounded.max())
    assert (rounded == rounded.max()).sum() > 1
    settings = replace(SETTINGS, precision="bf16-true", bf16_form="folded", classes=4, seed=0)
    g = smoothed_classifier(settings, network, 4, (1, 8, 8))
    certificate = g.certify(image, n=1000)
    assert (certificate.predict, certificate.count) == (first, 1000)
    assert g.predict(image, n=1000) == first
    copy, passes = g.network.network, []
    hook = copy.register_forward_hook(lambda *_: passes.append(1))
    g.certify(image, n=1000)
    hook.remove()
    assert len(passes) == 6  # the 100 that select, and five batches of 200
    plain = SmoothedClassifier(copy, 0.25, 4, seed=0)  # a person's own network in bfloat16
    assert plain.predict(image, n=1000) == plain.certify(image, n=1000).predict == first


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_the_network_in_bfloat16_is_the_folded_one_rounded(name):
    """And so of its own rounding: as far from the network as bfloat16 is, and no further."""
    torch.manual_seed(0)
    network = models.build(name, 10, (1, 28, 28)).eval()
    x = torch.rand(100, 1, 28, 28)
    with torch.inference_mode():
        expected, found = network(x), InBFloat16(network, x)(x)
        reference = folded(network).to(torch.bfloat16)(x.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, reference.float())
    assert 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()
    assert next(network.parameters()).dtype == torch.float32


class Inverted(nn.Module):
    """A network that classifies the inverted image, by code that no trace holds; at random every other time."""

    def __init__(self, network: nn.Module, *, at_random: bool) -> None:
        super().__init__()
        self.network, self.at_random = network, at_random

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inverts = isinstance(x, torch.Tensor) and (not self.at_random or random.random() < 0.5)
        return self.network(1 - x if inverts else x)


def test_what_is_certified_in_bfloat16_is_the_networks_own_code():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        inner[1].weight.mul_(20)
    images = (np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8), np.zeros(8, np.int64))
    told: dict[str, Any] = {"sigma": 0.25, "n": 1000, "progress": False, "device": "cpu"}
    predicted = [
        package.certify(Inverted(inner, at_random=False), images, precision=arithmetic, **told).frame()["predict"]
        for arithmetic in ("32-true", "bf16-true")
    ]
    certain = (predicted[0] >= 0) & (predicted[1] >= 0)
    assert certain.sum() >= 4
    assert (predicted[0] == predicted[1])[certain].all()
    for arithmetic in ("32-true", "bf16-true"):
        with pytest.raises(SettingsError):
            package.certify(Inverted(inner, at_random=True), images, precision=arithmetic, **told)


def test_a_network_that_cannot_be_copied_is_not_changed():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    network.session = (each for each in ())  # generators cannot be copied
    with pytest.raises(SettingsError, match="cannot be copied, which bfloat16 needs"):
        InBFloat16(network, torch.rand(9, 1, 8, 8))
    assert next(network.parameters()).dtype == torch.float32


def test_compiled_it_is_evaluated_in_one_way_alone(monkeypatch):
    """In whole batches, smaller ones filled up, with the same votes; and refused where it is not the same."""
    sizes = []

    def compile(network, _batch, shift=0.0):
        def program(images):
            sizes.append(len(images))
            return network(images) + shift * torch.arange(10)

        return program

    monkeypatch.setattr(bfloat16, "compiled", compile)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = replace(SETTINGS, precision="bf16-true", bf16_form="compiled", n0=100, n=700, seed=0, num_img=1)
    parts = {"network": network, "spending": settings.spending, "num_classes": 10, "shape": (1, 8, 8)}
    work = ImageCertification(settings=settings, samples=800, **parts)
    image = torch.randint(256, (1, 8, 8)) / 255
    compiled = work.start(torch.device("cpu"))((0, image, 0)).certificates
    assert set(sizes) == {200}
    as_folded = replace(settings, bf16_form="folded")
    assert replace(work, settings=as_folded).start(torch.device("cpu"))((0, image, 0)).certificates == compiled
    monkeypatch.setattr(bfloat16, "compiled", partial(compile, shift=0.1))
    with pytest.raises(SettingsError, match="not the same up to rounding"):
        work.start(torch.device("cpu"))
    monkeypatch.setattr(bfloat16, "compiled", lambda *_: {}["no compiler"])
    with pytest.raises(SettingsError, match=r"cannot be compiled on this machine \('no compiler'\)"):
        work.start(torch.device("cpu"))


def test_training_by_auto_records_what_it_took_and_goes_on_with_it(tmp_path, monkeypatch):
    """On a machine without bfloat16, too; the weights are those of the precision by name."""
    settings = {"images": "digits", "network": "convnet", "method": "cohen", "sigma": 0.25, "device": "cpu"}
    settings |= {"batch_size": 32, "num_images": 64, "progress": False}
    for fast, name in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(processes, "has_fast_bfloat16", lambda _device, fast=fast: fast)
        run = package.train(epochs=1, precision="auto", out=tmp_path / name, **settings)
        assert run.settings()["training"]["precision"] == name
        by_name = package.train(epochs=1, precision=name, out=tmp_path / f"{name} by name", **settings)
        pairs = zip(run.checkpoint().network.values(), by_name.checkpoint().network.values(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        monkeypatch.setattr(processes, "has_fast_bfloat16", lambda _device, fast=fast: not fast)
        package.train(epochs=1, precision="auto", out=tmp_path / name, **settings)  # else refused: other settings


def test_machines_that_choose_differently_do_not_train_together(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.Processes, "all_gather", lambda _self, _value: ["bf16-mixed", "32-true"])
    with pytest.raises(
        SettingsError, match="the machines choose 32-true and bf16-mixed: give one of them as `precision`"
    ):
        package.train(images="digits", network="convnet", epochs=1, num_images=64, out=tmp_path, progress=False)


def test_a_compiled_network_gives_an_image_the_same_logits_in_a_filled_batch():
    """By the real compiler: the votes of a last, smaller batch are of the same function as all others."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)]
    images = torch.rand(100, 1, 8, 8)
    network = InBFloat16(nn.Sequential(*layers).eval(), images)
    with torch.inference_mode():
        uncompiled = network(images)
        network.compile_for(images)
        whole = network(images)
        assert torch.equal(network(images[:40]), whole[:40])
        assert torch.equal(network(images[40:]), whole[40:])
    assert (whole - uncompiled).abs().max() <= 0.02 * uncompiled.abs().max()


def test_a_compiled_network_never_answers_with_weights_that_are_no_longer_its_own(monkeypatch):
    def compile(network, _batch):
        return copy.deepcopy(network)

    monkeypatch.setattr(bfloat16, "compiled", compile)
    images = torch.rand(4, 1, 2, 2)
    network = InBFloat16(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval(), images)
    network.compile_for(images)
    before, state = network(images), {name: value + 1 for name, value in network.state_dict().items()}
    changes = [
        lambda changed: changed.load_state_dict(state),
        lambda changed: changed.network[2].bias.zero_(),
        lambda changed: changed.network[1].running_mean.add_(1),
    ]
    with torch.no_grad():
        for change in changes:
            changed = copy.deepcopy(network)
            changed.compile_for(images)
            change(changed)
            with pytest.raises(SettingsError, match="weights were changed after compile_for: call that again"):
                changed(images)
            changed.compile_for(images)
            assert not torch.equal(changed(images), before)
            assert torch.equal(changed(images), changed.network(images.bfloat16()).float())
    assert torch.equal(network(images), before)
