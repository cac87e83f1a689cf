"""Names, shapes, numbers of parameters and outputs of the networks, against what was published."""

import sys
from pathlib import Path

import published_names
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from macer.errors import SettingsError
from macer.models import NETWORKS, build
from macer.models.lenet import LeNet
from macer.models.normalization import NORMALISATIONS, with_normalisation
from macer.models.weights import load_weights

SHAPES = {"lenet": (1, 28, 28), "resnet18": (3, 224, 224), "resnet50": (3, 224, 224)}


def fresh(name: str) -> torch.nn.Module:
    return build(name, 1000 if name in ("resnet18", "resnet50") else 10, SHAPES.get(name, (3, 32, 32)))


@pytest.mark.parametrize("name", published_names.NETWORKS)
def test_names_and_shapes_are_those_of_the_published_checkpoints(name: str) -> None:
    found = {key: tuple(value.shape) for key, value in fresh(name).state_dict().items()}
    assert list(found.items()) == list(published_names.NETWORKS[name].items())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet", 431_080),  # 520 + 25,050 + 400,500 + 5,010; Caffe's LeNet, "431K" in the pruning literature
        ("resnet9", 6_573_120),  # Page's network, usually given as 6.57M
        ("resnet9-24", 927_000),  # w = 24: 27 w + 9 w^2 (2 + 8 + 8 + 32 + 128) + 2 (35 w) of batch norm + 80 w
        ("resnet9-36", 2_082_564),  # likewise, w = 36
        ("resnet20", 272_474),  # facebookresearch/open_lth issue 7
        ("resnet20-padded", 269_722),  # the paper's 0.27M; 576 + 2,176 fewer than with two projections
        ("resnet56", 855_770),  # the next but one + 2,752
        ("resnet56-padded", 853_018),  # the paper's 0.85M
        ("resnet110", 1_730_714),  # + 2,752
        ("resnet110-padded", 1_727_962),  # the paper's 1.7M
        ("resnet18", 11_689_512),  # torchvision's documentation, num_params
        ("resnet50", 25_557_032),  # likewise
    ],
)
def test_numbers_of_parameters(name: str, parameters: int) -> None:
    assert sum(value.numel() for value in fresh(name).parameters()) == parameters


def batch_norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Ioffe and Szegedy 2015, algorithm 2, with PyTorch's epsilon."""
    mean, var, gain, bias = (
        weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def conv(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution as a sum over the positions of its window, with zeros around the image."""
    kernel = weights[f"{name}.weight"]
    size = kernel.shape[-1]
    margin = size // 2
    height, width = ((length - 1) // stride + 1 for length in x.shape[2:])
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 2 * margin, x.shape[3] + 2 * margin, dtype=x.dtype)
    padded[:, :, margin : margin + x.shape[2], margin : margin + x.shape[3]] = x
    total = torch.zeros((), dtype=x.dtype)
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
            total = total + torch.einsum("bihw,oi->bohw", window, kernel[:, :, i, j])
    return total


def residual_network(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits from a state dict, step by step as the papers say; the layout follows from the names alone."""
    imagenet = weights["conv1.weight"].shape[-1] == 7
    x = batch_norm(weights, "bn1", conv(weights, "conv1", x, 2 if imagenet else 1)).clamp(min=0)
    if imagenet:
        x = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        block = 0
        while f"{layer}.{block}.conv1.weight" in weights:
            name = f"{layer}.{block}"
            stride = 2 if layer != "layer1" and block == 0 else 1
            if f"{name}.conv3.weight" in weights:
                y = batch_norm(weights, f"{name}.bn1", conv(weights, f"{name}.conv1", x)).clamp(min=0)
                y = batch_norm(weights, f"{name}.bn2", conv(weights, f"{name}.conv2", y, stride)).clamp(min=0)
                y = batch_norm(weights, f"{name}.bn3", conv(weights, f"{name}.conv3", y))
            else:
                y = batch_norm(weights, f"{name}.bn1", conv(weights, f"{name}.conv1", x, stride)).clamp(min=0)
                y = batch_norm(weights, f"{name}.bn2", conv(weights, f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in weights:
                x = batch_norm(weights, f"{name}.downsample.1", conv(weights, f"{name}.downsample.0", x, stride))
            elif stride == 2:
                x = x[:, :, 0::2, 0::2]
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2])
                x = torch.cat([zeros, x, zeros], 1)
            x = (x + y).clamp(min=0)
            block += 1
    x = x.flatten(2).sum(2) / x[0, 0].numel()
    last = "fc" if "fc.weight" in weights else "linear"
    return x @ weights[f"{last}.weight"].T + weights[f"{last}.bias"]


@pytest.mark.parametrize(
    ("name", "size"), [("resnet20", 32), ("resnet20-padded", 32), ("resnet18", 40), ("resnet50", 40)]
)
def test_residual_networks_compute_what_a_literal_reference_computes(name: str, size: int) -> None:
    weights = published_names.random_weights(published_names.NETWORKS[name])
    double = {key: value.double() for key, value in weights.items()}
    network = fresh(name)
    load_weights(network, weights, name)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = network.double().eval()(x)
    expected = residual_network(double, x)
    assert expected.std() > 1e-3  # else the images would not matter
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet9-24", "resnet9-36"])
def test_resnet9_computes_what_a_literal_reference_computes(name: str) -> None:
    network = fresh(name).double()
    with torch.no_grad():
        network(torch.rand(64, 3, 32, 32, dtype=torch.float64))  # so that batch norm has statistics of its own
    weights, x = network.state_dict(), torch.rand(2, 3, 32, 32, dtype=torch.float64)

    def convolution(name: str, y: Tensor) -> Tensor:
        return batch_norm(weights, f"{name}.1", conv(weights, f"{name}.0", y)).clamp(min=0)

    def halved(y: Tensor) -> Tensor:
        return torch.stack([y[:, :, i::2, j::2] for i in range(2) for j in range(2)]).amax(0)

    y = convolution("prep", x)
    y = halved(convolution("layer1.0", y))
    y = y + convolution("layer1.1.conv2", convolution("layer1.1.conv1", y))
    y = halved(convolution("layer2.0", y))
    y = halved(convolution("layer3.0", y))
    y = y + convolution("layer3.1.conv2", convolution("layer3.1.conv1", y))
    expected = y.flatten(2).amax(2) @ weights["fc.weight"].T / 8
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-9, atol=1e-12)


def test_lenet_pools_before_the_rectifier_with_the_same_result() -> None:
    network = LeNet()
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y = F.max_pool2d(F.relu(network.conv1(x)), 2, 2)  # the original's order
    y = F.max_pool2d(F.relu(network.conv2(y)), 2, 2)
    y = network.fc2(F.relu(network.fc1(y.reshape(-1, 4 * 4 * 50))))
    assert torch.equal(network(x), y)


@pytest.mark.parametrize("name", ["convnet", "lenet", "resnet20", "resnet20-padded"])
def test_channels_last_changes_neither_logits_nor_gradients(name: str) -> None:
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    network = build(name, 10, shape).double().eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        images = x.clone(memory_format=layout).requires_grad_()
        logits = network(images)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), [images, *network.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.detach().abs().max()))


def test_our_networks_are_channels_last() -> None:
    for name in ("convnet", "resnet20", "resnet20-padded"):
        weight = build(name, 10, (3, 32, 32)).get_parameter("conv1.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "110" not in name and "56" not in name])
def test_number_of_classes_and_channels_are_free(name: str) -> None:
    size = 28 if name == "lenet" else 32
    network = build(name, 7, (2, size, size))
    assert network(torch.rand(3, 2, size, size)).shape == (3, 7)


def test_lenet_refuses_images_of_another_size() -> None:
    with pytest.raises(SettingsError, match="28 x 28, not 32 x 32"):
        build("lenet", 10, (3, 32, 32))


def test_initial_weights_are_he_s() -> None:
    torch.manual_seed(0)
    weight = build("resnet110", 10, (3, 32, 32)).get_parameter("layer3.0.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)  # 64 outputs; standard error 0.5 %


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation_in_front_of_a_network(name: str) -> None:
    layer = NORMALISATIONS[name]
    bare = build("resnet20", 10, (3, 32, 32)).eval()
    network = with_normalisation(bare, layer)
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([(x[:, c] - layer.mean[c]) / layer.std[c] for c in range(3)], 1)
    torch.testing.assert_close(network(x), bare(by_hand))
    assert list(network.state_dict())[:3] == ["0.mean", "0.std", "1.conv1.weight"]
    assert sum(value.numel() for value in network.parameters()) == 272_474  # it learns nothing


def test_normalisation_by_name() -> None:
    network = build("lenet", 10, (3, 28, 28), "cifar10-center").eval()
    x = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    torch.testing.assert_close(network(x), network.get_submodule("1")(x - mean))
    with pytest.raises(SettingsError, match="no normalisation is named 'mnist': choose one of cifar10, "):
        build("lenet", 10, (3, 28, 28), "mnist")
    with pytest.raises(SettingsError, match="CIFAR-10 normalisation is for 3 channels, the images have 1"):
        build("lenet", 10, (1, 28, 28), "cifar10")


THEIRS = """
from torch import nn

def with_classes(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))

def with_anything(*, weights=None, **rest):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, rest["num_classes"]))

def without_arguments(width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))

class Network(nn.Linear):
    def __init__(self, num_classes=5):
        super().__init__(4, num_classes)

def asks_more(depth):
    return nn.Linear(4, depth)

def no_network():
    return 3

def fails(num_classes):
    raise ValueError("first line\\nsecond line")
"""


@pytest.fixture
def their_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "networks.py").write_text(THEIRS)
    (package / "broken.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # an installed command has no ""
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        monkeypatch.delitem(sys.modules, name)
    return "their_package.networks"


@pytest.mark.parametrize(
    ("function", "outputs"), [("with_classes", 10), ("with_anything", 10), ("Network", 10), ("without_arguments", 3)]
)
def test_import_path_from_the_current_directory(their_module: str, function: str, outputs: int) -> None:
    before = list(sys.path)
    network = build(f"{their_module}:{function}", 10, (1, 2, 2))
    assert network(torch.rand(6, 4)).shape == (6, outputs)
    assert sys.path == [*before, ""]  # last, for what the network imports when it is evaluated


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("their_package.networks:asks_more", r"TypeError: .*depth"),
        ("their_package.networks:no_network", "returned int, not a torch.nn.Module"),
        ("their_package.networks:absent", "has no attribute 'absent'"),
        ("their_package.networks:fails", "ValueError: first line$"),
        ("their_package.broken:build", "SyntaxError"),
        ("their_package.missing:build", "No module named 'their_package.missing'"),
        ("networks.py:build", "write networks:build, in the directory of the file"),
        (":", "network :: is named as Python imports it"),
        ("no-such-2024.net-work:here", "ModuleNotFoundError: No module named 'no-such-2024'"),  # files are named so
        ("resnet1001", "no network is named 'resnet1001': choose one of convnet, lenet"),
    ],
)
def test_import_paths_that_lead_nowhere_give_one_line(their_module: str, path: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        build(path, 10, (1, 2, 2))
    assert "\n" not in str(caught.value)
