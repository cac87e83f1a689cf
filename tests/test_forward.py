"""Faster evaluation of a network: the same function but for rounding, and the same certificates."""

import random

import pytest
import torch
from torch import Tensor, fx, nn

from macer import models
from macer.certification.evaluation import evaluate_fast
from macer.errors import SettingsError
from macer.models import fast
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import fastest, folded, is_the_same
from macer.smoothing import SmoothedClassifier

# Tracing passes what only stands for a tensor.
pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def with_statistics(name: str, shape: tuple[int, ...]) -> nn.Module:
    """A network whose batch norms are far from the identity that they start as."""
    torch.manual_seed(7)
    network = models.build(name, 10, shape).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.25, 4)
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias)
    return network


@pytest.mark.parametrize(("name", "shape"), [("resnet20", (3, 32, 32)), ("resnet18", (3, 64, 64))])
def test_folding_leaves_no_batch_norm_and_the_same_function(name, shape):
    """In float64, where rounding is out of the way: projections and residual branches included."""
    network = with_statistics(name, shape).double()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fast = folded(network)
    kinds = [type(module) for module in fast.modules()]
    assert nn.Conv2d in kinds
    assert nn.BatchNorm2d not in kinds
    images = torch.rand(8, *shape, dtype=torch.float64)
    torch.testing.assert_close(fast(images), network(images), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class SharedConvolution(nn.Module):
    """A convolution that is followed by batch norm once, and once by nothing."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.convolution, self.norm, self.twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), twice
        self.norm.running_mean.fill_(3.0)

    def forward(self, x: Tensor) -> Tensor:
        first = self.convolution(x)
        return (self.norm(first) + (self.convolution(2 * x) if self.twice else first)).mean((2, 3))


class DependsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))


@pytest.mark.parametrize(
    "network", [SharedConvolution(twice=True), SharedConvolution(twice=False), DependsOnData()], ids=str
)
def test_what_cannot_be_folded_is_evaluated_as_it_is(network):
    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(folded(network.eval())(images), network(images))


class OwnCode(nn.Module):
    """Convolution and batch norm, of two names each, with code before them that a trace drops or makes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])
        self.convolution, self.norm = self.layers
        self.norm.running_mean.fill_(0.5)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = 1 - x if isinstance(x, Tensor) else x
        return self.norm(self.convolution(x)).mean((2, 3))


def with_own_code(where: str) -> nn.Module:
    """The network with a hook of its own or of a layer, or with its forward replaced."""
    torch.manual_seed(0)
    network = OwnCode().eval()
    if where == "forward":
        network.forward = lambda x: OwnCode.forward(network, x) + 3
    hooked = {"hook": network, "norm": network.norm, "convolution": network.convolution}.get(where)
    if hooked is not None:
        hooked.register_forward_pre_hook(lambda _, images: (2 * images[0],))
        hooked.register_forward_hook(lambda _, __, output: output + 3)
    return network


@pytest.mark.parametrize("where", ["code", "hook", "norm", "convolution", "forward"])
def test_a_folded_network_runs_its_own_code(where):
    network, images = with_own_code(where), torch.rand(20, 3, 5, 5)
    copied = folded(network)
    assert is_the_same(copied, network, images)
    kept = where in ("norm", "convolution")  # whose hooks stand between the two
    assert any(isinstance(module, nn.BatchNorm2d) for module in copied.modules()) == kept


def test_randomness_is_not_frozen_by_folding():
    class Random(OwnCode):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + random.random()

    copied, images = folded(Random().eval()), torch.rand(20, 3, 5, 5)
    assert not torch.equal(copied(images), copied(images))


class Liar(OwnCode):
    """Traced, its layers follow each other otherwise than when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return self.norm(x if isinstance(x, fx.Proxy) else x.relu()).mean((2, 3))


def test_a_faster_evaluation_that_is_another_function_is_not_used():
    network, images = Liar().eval(), torch.rand(100, 3, 4, 4)
    assert not is_the_same(folded(network), network, images)
    fast, description = fastest(network, images)
    assert fast is network
    assert description == "as given"
    with pytest.raises(SettingsError, match="folded, which bfloat16 needs, is another function or returns"):
        InBFloat16(network, images)


@pytest.mark.parametrize("sound", [False, True])
def test_faster_evaluations_are_compared_on_the_noise_itself(monkeypatch, sound):
    """One that clips pixels to [0, 1] is right on images and wrong on noisy ones."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    classifier = SmoothedClassifier(network, 0.25, 3, sound=sound)
    monkeypatch.setattr(fast, "folded", lambda network: lambda images: network(images.clamp(0, 1)))
    assert is_the_same(fast.folded(network), network, torch.rand(100, 1, 8, 8))
    assert evaluate_fast(classifier, (1, 8, 8), compile="no", samples=10_000) == "as given"


def test_logits_of_a_compiled_network_stay_when_it_is_evaluated_again(monkeypatch):
    """A CUDA graph writes its output to one place, as this program does."""
    place = torch.zeros(3, 2)
    monkeypatch.setattr(torch, "compile", lambda network, **_: lambda images: place.copy_(network(images)))
    evaluate = fast.compiled(nn.Flatten(), torch.zeros(3, 1, 1, 2))
    logits = evaluate(torch.ones(3, 1, 1, 2))
    evaluate(torch.zeros(3, 1, 1, 2))
    assert torch.equal(logits, torch.ones(3, 2))


def test_a_network_is_compiled_for_the_tensors_that_certifying_has(monkeypatch):
    """It is compiled anew for each kind of tensor, which takes up to a minute: inside inference mode and outside."""
    kinds: list[bool] = []
    network = with_statistics("convnet", (1, 8, 8))

    def compile(network: nn.Module, **_: object):
        def program(images: Tensor) -> Tensor:
            kinds.append(images.is_inference())
            return network(images)

        return program

    monkeypatch.setattr(torch, "compile", compile)
    classifier = SmoothedClassifier(network, 0.25, 10, seed=0)
    classifier.evaluate_with(fastest(network, torch.rand(200, 1, 8, 8), compile=True)[0])
    classifier.certify(torch.zeros(1, 8, 8), n=400)
    assert kinds == [True] * len(kinds)
    assert len(kinds) >= 5


@pytest.mark.parametrize("compile", [False, True])
def test_certificates_are_those_of_the_network_as_given(compile):
    """Votes must not differ at all, though sigma is so large that many samples lie near a class's boundary."""
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    ).eval()
    network[1].running_var.fill_(0.3)
    images = torch.rand(4, 1, 8, 8)
    forward, description = fastest(network, torch.rand(200, 1, 8, 8), compile=compile)
    assert description == ("folded, channels last, compiled" if compile else "folded, channels last")
    plain = SmoothedClassifier(network, 1.0, 3, batch_size=200)
    fast = SmoothedClassifier(network, 1.0, 3, batch_size=200)
    fast.evaluate_with(forward)
    for index, image in enumerate(images):
        assert fast.certify(image, 100, 1950, image_index=index) == plain.certify(image, 100, 1950, image_index=index)


def test_without_a_compiler_the_network_is_folded_only(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    network = with_statistics("resnet20", (3, 32, 32))
    fast, description = fastest(network, torch.rand(100, 3, 32, 32), compile=True)
    assert description == "folded, channels last"
    assert fast is not network


@pytest.mark.parametrize(("samples", "at_most"), [(100, 20), (100_000, 1000)])
def test_trying_out_costs_little_beside_the_work(samples, at_most):
    """A few samples of a large network: finding the fastest way must not take longer than the slowest one."""
    evaluated = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    network.register_forward_hook(lambda module, inputs, output: evaluated.append(len(output)))
    classifier = SmoothedClassifier(network, 0.25, 3, batch_size=200)
    assert evaluate_fast(classifier, (1, 8, 8), compile="auto", samples=samples) == "folded, channels last"
    assert 0 < sum(evaluated) <= at_most
    assert max(evaluated) == min(200, samples // 20)
