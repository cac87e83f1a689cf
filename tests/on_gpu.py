"""What the tests on a GPU share: the device, networks and images. See CONTRIBUTING.md for how to run them."""

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from macer import data, models
from macer.data import InMemoryImages
from macer.objectives import OBJECTIVES, Objective
from macer.pretrained.find import load_model
from macer.training.settings import TrainingSettings

CPU, DEVICE = torch.device("cpu"), torch.device("cuda")
MARKS = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.*"),  # the compiler's own
]
MNIST, CIFAR = "zoo:mnist-macer-0.25", "zoo:cifar10-consistency-0.25"
QUICK: dict[str, dict[str, Any]] = {
    "macer": {"gauss_num": 4},
    "consistency": {"gauss_num": 2},
    "smoothadv": {"gauss_num": 2, "steps": 2, "warmup": 0},
    "smoothmix": {"gauss_num": 2, "steps": 2, "warmup": 0},
    "cat-rs": {"gauss_num": 2, "steps": 2},
    "hard-data": {"gauss_num": 2, "steps": 2, "hard_from": 1, "drop_below": 0.0, "reweigh_every": 1},
}


def compiles(test):
    """Mark a test that compiles: compilers warn, and pass what only stands for a tensor."""
    return pytest.mark.filterwarnings("ignore")(pytest.mark.usefixtures("unchecked_shapes")(test))


@contextlib.contextmanager
def in_tf32():
    """PyTorch as a person may have set it: fast and imprecise."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [(place, place.fp32_precision) for place in (conv, matmul)]
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for place, precision in before:
            place.fp32_precision = precision


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).float() / 255


def handwritten(count: int = 8) -> tuple[Tensor, Tensor]:
    """Digits of 8 x 8 pixels, enlarged to those of MNIST."""
    digits = data.load("digits", None, "test")
    assert isinstance(digits, InMemoryImages)
    large = F.interpolate(digits.images[:count].float(), size=20, mode="bilinear")
    return F.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).byte(), digits.labels[:count]


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """A network with statistics of batch norm, on the device, and an image for it."""
    if name.startswith("zoo:"):
        network = load_model(name, device=DEVICE.type).network
        return network, handwritten()[0][0] / 255 if name == MNIST else picture(3, 32, 32)
    torch.manual_seed(0)
    network, image = models.build(name, 10, (3, 32, 32)).to(DEVICE), picture(3, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(100, 3, 32, 32, device=DEVICE))
    return network.eval(), image


def method(name: str) -> Objective:
    return OBJECTIVES[name](sigma=0.25, **QUICK.get(name, {}))


def digits(kind: type[InMemoryImages] = InMemoryImages) -> InMemoryImages:
    """The first training images of the digits."""
    found = data.load("digits", None, "train")
    assert isinstance(found, InMemoryImages)
    return kind("digits", "train", found.images[:64], found.labels[:64], found.class_names)


def tiny(objective: Objective | None = None, **chosen: Any) -> TrainingSettings:
    """Settings of 4 steps per epoch, the last one on fewer images than the others."""
    common = {"dataset": "digits", "network": "convnet", "epochs": 2, "batch_size": 20, "lr": 0.02, "compile": "no"}
    objective = objective or method("macer")
    if objective.denoises:
        common |= {"network": "dncnn", "optimizer": "adam", "lr": 0.001}
    return TrainingSettings(objective=objective, **{"device": DEVICE.type, **common, **chosen})
