"""Checkpoints of other projects: recognised, loaded as they are, or refused in one line."""

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import published_names
import pytest
import torch
from published_names import cifar, lenet, random_weights, resnet50
from safetensors.torch import save_file
from torch import Tensor, nn

from macer.certification import prepare
from macer.data.images import InMemoryImages
from macer.errors import CheckpointError, SettingsError
from macer.models import build
from macer.models.normalization import NORMALISATIONS, assumed, recorded_name, with_normalisation
from macer.models.published import Published, recognise
from macer.models.weights import load_weights, read_weights_file
from macer.pretrained.find import find_network, load_model


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return OrderedDict((prefix + name, value) for name, value in weights.items())


def save(file: Path, content: Any, *, legacy: bool = False) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)  # the published files are of the old kind
    return file


def cohen(arch: str, weights: dict[str, Tensor], epoch: int = 90) -> dict[str, Any]:
    """As locuslab/smoothing's train.py writes it, with an optimizer's state."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(3)
    optimizer.step()
    return {"epoch": epoch, "arch": arch, "state_dict": weights, "optimizer": optimizer.state_dict()}


def hollow(shapes: published_names.Shapes) -> dict[str, Tensor]:
    """Weights of those names and shapes that take no room in a file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


CIFAR10 = "CIFAR-10 normalisation (assumed)"
IMAGENET = "ImageNet normalisation (assumed)"
R110, R20, R20_PADDED, R50, LENET = cifar(110), cifar(20), cifar(20, padded=True), resnet50(), lenet()
FORMATS = {
    "MACER's CIFAR-10": (
        lambda: {"net": hollow(R110), "epoch": 440},
        "checkpoint of the original MACER code: resnet110, epoch 440, 10 classes",
    ),
    "MACER's MNIST": (
        lambda: {"net": hollow(LENET), "epoch": 440},
        "checkpoint of the original MACER code: lenet, epoch 440, 10 classes",
    ),
    "MACER's, saved from DataParallel": (
        lambda: {"net": prefixed(hollow(R110), "module."), "epoch": 5},
        "checkpoint of the original MACER code: resnet110, epoch 5, 10 classes",
    ),
    "Cohen's CIFAR-10": (
        lambda: cohen("cifar_resnet110", prefixed(hollow(R110), "1.")),
        f"Cohen/Salman checkpoint 'cifar_resnet110': resnet110 behind {CIFAR10}, epoch 90, 10 classes",
    ),
    "Cohen's ImageNet": (
        lambda: cohen("resnet50", prefixed(hollow(R50), "1.module.")),
        f"Cohen/Salman checkpoint 'resnet50': resnet50 behind {IMAGENET}, epoch 90, 1000 classes",
    ),
    "Salman's ImageNet 32 x 32": (
        lambda: cohen("imagenet32_resnet110", prefixed(hollow(cifar(110, 1000)), "1.")),
        f"Cohen/Salman checkpoint 'imagenet32_resnet110': resnet110 behind {CIFAR10}, epoch 90, 1000 classes",
    ),
    "Jeong's CIFAR-100": (
        lambda: cohen("cifar100_resnet110", prefixed(hollow(cifar(110, 100)), "1."), 150),
        "Cohen/Salman checkpoint 'cifar100_resnet110': resnet110 behind CIFAR-100 normalisation (assumed), epoch 150, "
        "100 classes",
    ),
    "Jeong's MNIST": (
        lambda: cohen("lenet", prefixed(hollow(LENET), "1.")),
        "Cohen/Salman checkpoint 'lenet': lenet, epoch 90, 10 classes",
    ),
    "all of it in DataParallel": (
        lambda: cohen("cifar_resnet20", prefixed(hollow(R20), "module.1.")),
        f"Cohen/Salman checkpoint 'cifar_resnet20': resnet20 behind {CIFAR10}, epoch 90, 10 classes",
    ),
    "no layer in front": (
        lambda: cohen("cifar_resnet20", hollow(R20)),
        "Cohen/Salman checkpoint 'cifar_resnet20': resnet20, epoch 90, 10 classes",
    ),
    "zero-padded": (
        lambda: {"state_dict": prefixed(hollow(R20_PADDED), "module."), "best_prec1": 91.7},
        "checkpoint: resnet20-padded, 10 classes",
    ),
    "a plain state dict": (lambda: hollow(R50), "state dict: resnet50, 1000 classes"),
    "a state dict from before batch counters": (
        lambda: {name: value for name, value in hollow(R50).items() if "num_batches" not in name},
        "state dict: resnet50, 1000 classes",
    ),
}


def look(file: Path) -> Published:
    return recognise(read_weights_file(file), file)


def load_published(
    file: Path,
    network: str | None = None,
    num_classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    *,
    normalisation: str | None = None,
) -> tuple[nn.Module, Published]:
    """The network that certification gets, and what was found in the file."""
    found = find_network(file, network, normalisation)
    classes, images = num_classes or found.num_classes, shape or found.shape
    assert classes is not None
    assert images is not None
    return found.build(classes, images), look(file)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_recognised(tmp_path: Path, name: str, legacy: bool) -> None:
    content, description = FORMATS[name]
    found = look(save(tmp_path / "checkpoint.pth.tar", content(), legacy=legacy))
    assert found.description == description
    assert found.network is not None
    expected = set(published_names.NETWORKS[found.network])
    assert set(found.state_dict) in (expected, {name for name in expected if "num_batches" not in name})


@pytest.mark.parametrize("name", ["lenet", "resnet20", "resnet20-padded", "resnet18"])
def test_weights_arrive_unchanged(tmp_path: Path, name: str) -> None:
    weights = random_weights(published_names.NETWORKS[name])
    network, found = load_published(save(tmp_path / "weights.pt", weights))
    assert found.network == name
    assert found.normalisation is None
    for key, value in network.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("name", ["resnet56", "resnet110", "resnet56-padded", "resnet110-padded", "resnet50"])
def test_the_larger_networks_load(tmp_path: Path, name: str) -> None:
    file = save(tmp_path / "weights.pt", prefixed(hollow(published_names.NETWORKS[name]), "module."))
    network, found = load_published(file)
    assert found.network == name
    assert all(not value.any() for value in network.state_dict().values())


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    weights = {name: value for name, value in random_weights(R20).items() if "num_batches" not in name}
    network, _ = load_published(save(tmp_path / "weights.pt", weights))
    assert torch.equal(network.state_dict()["layer3.2.bn2.running_var"], weights["layer3.2.bn2.running_var"])


def test_a_published_network_computes_the_same_behind_its_normalisation(tmp_path: Path) -> None:
    weights = random_weights(R20)
    file = save(tmp_path / "c.pth.tar", cohen("cifar_resnet20", prefixed(weights, "1.")))
    bare = build("resnet20", 10, (3, 32, 32)).eval()
    bare.load_state_dict(weights)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    network, found = load_published(file)
    torch.testing.assert_close(network.eval()(x), bare((x - mean) / std))
    assert found.shape == (3, 32, 32)
    # Salman's networks that were trained behind centring alone cannot be told apart by the file: one says so.
    network, _ = load_published(file, normalisation="cifar10-center")
    torch.testing.assert_close(network.eval()(x), bare(x - mean))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            lambda: cohen("x", prefixed(hollow(R20), "1.")),
            "Cohen/Salman checkpoint 'x': resnet20{}, epoch 90, 10 classes",
        ),
        (
            lambda: {"net": hollow(R20), "epoch": 5},
            "checkpoint of the original MACER code: resnet20{}, epoch 5, 10 classes",
        ),
        (
            lambda: with_normalisation(build("resnet20", 10, (3, 32, 32)), NORMALISATIONS["imagenet"]).state_dict(),
            "state dict: resnet20{}, 10 classes",
        ),
    ],
    ids=["a layer without numbers", "no layer", "a layer with numbers"],
)
def test_the_line_names_the_layer_that_is_used(tmp_path: Path, content: Any, found: str) -> None:
    """Not the one that would be assumed, where a person names another."""
    file = save(tmp_path / "c.pth.tar", content())
    centred = find_network(file, normalisation="cifar10-center")
    assert centred.description == found.format(" behind CIFAR-10 centring")
    mean = centred.build(10, (3, 32, 32)).state_dict()["0.mean"]
    assert mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])


@pytest.mark.parametrize(
    ("named", "recorded"), [("cifar10-center", "CIFAR-10 centring"), (None, "CIFAR-10 normalisation (assumed)")]
)
def test_the_record_names_the_layer_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, recorded: str
) -> None:
    images = InMemoryImages(
        "cifar10",
        "test",
        torch.zeros(3, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(3, dtype=torch.long),
        tuple("0123456789"),
    )
    monkeypatch.setattr("macer.data.load", lambda *_, **__: images)
    file = save(tmp_path / "c.pth.tar", cohen("x", prefixed(hollow(R20), "1.")))
    plan = prepare(find_network(file, normalisation=named), dataset="cifar10", chosen={"sigma": 0.25})
    assert plan.settings.tables()["certification"]["normalisation"] == recorded
    assert "normalisation" in plan.settings.machine_settings  # the digest tells layers apart, in older records as well


def test_a_model_for_python_says_which_layer_it_assumes(tmp_path: Path) -> None:
    file = save(tmp_path / "c.pth.tar", cohen("x", prefixed(build("resnet20", 10, (3, 32, 32)).state_dict(), "1.")))
    with pytest.warns(UserWarning, match=r"behind CIFAR-10 normalisation \(assumed\).*: if it is another, give `norm"):
        load_model(file, sigma=0.25)
    centred = load_model(file, sigma=0.25, normalisation="cifar10-center").network.state_dict()  # no warning
    assert set(centred["0.std"].flatten().tolist()) == {1.0}


def test_weights_without_a_layer_are_asked_about_it(tmp_path: Path) -> None:
    bare = save(tmp_path / "c.pt", build("resnet20", 10, (3, 32, 32)).state_dict())
    with pytest.warns(UserWarning, match="no layer normalises the images of resnet20: if it was trained behind one"):
        load_model(bare, sigma=0.25)
    load_model(bare, sigma=0.25, normalisation="cifar10-center")  # no warning
    load_model(save(tmp_path / "l.pt", build("lenet", 10, (1, 28, 28)).state_dict()), sigma=0.25)  # nor here


def test_the_layer_in_front_of_an_unknown_network_is_named(tmp_path: Path) -> None:
    file = save(tmp_path / "theirs.pt", {"1.weight": torch.ones(3, 4)})
    centred = find_network(file, "theirs:build", "cifar10-center")
    assert centred.description == "state dict: unknown network behind CIFAR-10 centring, 1 tensors from '1.weight' on"


def test_training_starts_behind_the_layer_that_is_named(tmp_path: Path) -> None:
    weights = random_weights(R20)
    file = save(tmp_path / "c.pth.tar", cohen("cifar_resnet20", prefixed(weights, "1.")))
    found = find_network(file)
    start = build("resnet20", 10, (3, 32, 32), "cifar10")
    load_weights(start, found.to_start_from("cifar10"), "resnet20")
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(start.eval()(x), found.build(10, (3, 32, 32))(x))
    with pytest.raises(SettingsError, match=r"behind CIFAR-10 normalisation .* give the same `normalisation`"):
        found.to_start_from(None)
    plain = find_network(save(tmp_path / "plain.pt", weights))
    assert plain.to_start_from(None) is plain.weights


def test_a_layer_whose_numbers_are_in_the_file_keeps_them(tmp_path: Path) -> None:
    source = with_normalisation(build("resnet20", 10, (3, 32, 32)), NORMALISATIONS["imagenet"]).eval()
    file = save(tmp_path / "ours.pt", source.state_dict())
    network, found = load_published(file)
    assert found.description == "state dict: resnet20 behind the file's normalisation, 10 classes"
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(x), source(x))


def test_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "resnet.safetensors"
    weights = random_weights(R20)
    save_file(weights, file)
    network, found = load_published(file, num_classes=10, shape=(3, 32, 32))
    assert found.description == "safetensors file: resnet20, 10 classes"
    assert torch.equal(network.state_dict()["layer3.2.conv2.weight"], weights["layer3.2.conv2.weight"])


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "def build(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, num_classes))\n"
    (tmp_path / "macer_test_theirs.py").write_text("from torch import nn\n" + code)
    weights = {"1.weight": torch.ones(3, 4), "1.bias": torch.zeros(3)}
    file = save(tmp_path / "theirs.pt", prefixed(weights, "module."))
    assert look(file).description == "state dict: unknown network, 2 tensors from '1.weight' on"
    network, found = load_published(file, "macer_test_theirs:build", 3, (1, 2, 2))
    assert found.network is None
    assert torch.equal(network(torch.ones(1, 1, 2, 2)), torch.full((1, 3), 4.0))
    with pytest.raises(CheckpointError, match="give its `network`"):
        load_published(file)


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def hostile(file: Path) -> None:
    save(file, {"net": Hostile(file.with_name("executed")), "epoch": 1})


def hostile_legacy(file: Path) -> None:
    save(file, {"net": Hostile(file.with_name("executed")), "epoch": 1}, legacy=True)


def hostile_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Hostile(file.with_name("executed"))))


@pytest.mark.parametrize("write", [hostile, hostile_legacy, hostile_pickle])
def test_no_code_is_executed(tmp_path: Path, write: Any) -> None:
    file = tmp_path / "checkpoint.pth"
    write(file)
    with pytest.raises(CheckpointError) as caught:
        look(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    assert "holds no state dict of tensors, but objects such as posix.mkdir, which were not made" in str(caught.value)
    torch.load(file, weights_only=False) if write is not hostile_pickle else pickle.loads(file.read_bytes())
    assert (tmp_path / "executed").exists()  # it would have been


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, module: str) -> None:
    """As NumPy 2 and 1 write them: a best accuracy that was computed with it."""
    content = {"state_dict": hollow(R20), "best_acc": np.float64(91.5), "epoch": np.int64(7)}
    file = save(tmp_path / "c.pth.tar", content, legacy=True)
    names = re.compile(rb"cnumpy\._?core\.multiarray\nscalar\n")
    assert names.search(file.read_bytes())
    file.write_bytes(names.sub(f"c{module}\nscalar\n".encode(), file.read_bytes()))
    assert look(file).description == "checkpoint: resnet20, 10 classes"
    assert "numpy" not in str(torch.serialization.get_safe_globals())


class Odd:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("no such type",), "no such state"


def test_numpy_is_not_called(tmp_path: Path) -> None:
    """A file may ask for anything with these names; numpy would raise here."""
    file = save(tmp_path / "c.pth.tar", {"state_dict": hollow(R20), "best_acc": Odd()})
    assert look(file).network == "resnet20"
    save(file, {"state_dict": hollow(R20), "best_acc": np.ones(3)})
    assert look(file).network == "resnet20"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path: Path, legacy: bool) -> None:
    whole = save(tmp_path / "whole.pt", {"net": random_weights(R20), "epoch": 1}, legacy=legacy).read_bytes()
    file = tmp_path / "cut.pt"
    for length in [*range(0, 200, 7), *range(200, len(whole), len(whole) // 20), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"^{file}") as caught:
            look(file)
        assert "\n" not in str(caught.value)


def test_a_cut_off_safetensors_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file(random_weights(LENET), file)
    whole = file.read_bytes()
    for length in (0, 4, 50, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"not a safetensors file$"):
            look(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict of tensors"),
        ([1, 2], "holds no state dict of tensors"),
        (torch.ones(3), "holds no state dict of tensors"),
        ({"net": torch.ones(3)}, "holds no state dict of tensors"),
        ({"state_dict": {"fc.weight": 3}}, "holds no state dict of tensors"),
        ({1: torch.ones(3)}, "holds no state dict of tensors"),
        ({"conv1.weight": torch.ones(()), "fc.weight": torch.ones(())}, "holds no state dict of tensors"),
        (
            torch.nn.Linear(2, 2),
            r"a pickled module, torch.nn.modules.linear.Linear, .* save its state_dict",
        ),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        look(save(tmp_path / "file.pt", content))


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors", "absent.pt", "absent.safetensors", "folder.pt"])
def test_what_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    for suffix in ("pt", "safetensors"):
        (tmp_path / f"text.{suffix}").write_text("these are not the weights you are looking for\n")
    with pytest.raises(CheckpointError, match=f"^{tmp_path / name}: ") as caught:
        look(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"conv1.weight": torch.ones(16, 3, 3, 3), "fc.weight": torch.ones(0, 64)},
        {"conv1.weight": torch.ones(16, 0, 3, 3), "fc.weight": torch.ones(10, 64)},
        {"0.weight": torch.ones(3), **prefixed(random_weights(R20), "1.")},  # a layer in front that we do not know
        {"0.mean": torch.ones(2, 1, 1), "0.std": torch.ones(2, 1, 1), **prefixed(random_weights(R20), "1.")},
        {**random_weights(R20), "extra": torch.ones(3)},
        {name: value for name, value in random_weights(R20).items() if name != "layer2.0.downsample.0.weight"},
    ],
)
def test_almost_known_networks_are_not_recognised(tmp_path: Path, odd: dict[str, Tensor]) -> None:
    found = look(save(tmp_path / "odd.pt", odd))
    assert found.network is None
    assert set(found.state_dict) == set(odd)


@pytest.mark.parametrize(
    ("odd", "near"),
    [
        ({**random_weights(R20), "extra": torch.ones(3)}, "resnet20 but for extra"),
        ({**random_weights(R20), "bn1.bias": torch.ones(17), "a": torch.ones(1)}, "resnet20 but for a, bn1.bias"),
        (
            {name: value for name, value in hollow(R110).items() if name != "layer2.0.bn1.weight"},
            "resnet110 but for layer2.0.bn1.weight",
        ),
    ],
)
def test_a_network_that_is_nearly_known_says_so(tmp_path: Path, odd: dict[str, Tensor], near: str) -> None:
    found = look(save(tmp_path / "odd.pt", odd))
    assert found.network is None
    assert (
        found.description == f"state dict: unknown network, {len(odd)} tensors from 'conv1.weight' on, those of {near}"
    )


def test_disagreements_are_said_in_one_line(tmp_path: Path) -> None:
    file = save(tmp_path / "resnet20.pt", random_weights(R20))

    def message(*arguments: Any, **keywords: Any) -> str:
        with pytest.raises(CheckpointError, match=f"^{file}") as caught:
            load_published(file, *arguments, **keywords)
        return str(caught.value).removeprefix(f"{file}").removeprefix(": ")

    not_of = "these are not the weights of network"
    assert message(num_classes=100) == " is a network of 10 classes, the data have 100"
    assert message(shape=(1, 32, 32)) == " is a network of images of shape (3, 32, 32), the data have (1, 32, 32)"
    assert message("resnet56", 10, (3, 32, 32)) == f"{not_of} 'resnet56': layer1.3.conv1.weight is missing"
    assert message("resnet20-padded", 10, (3, 32, 32)) == f"{not_of} 'resnet20-padded': linear.weight is missing"
    save(file, {**random_weights(R20), "extra": torch.ones(3)})
    assert message("resnet20", 10, (3, 32, 32)) == f"{not_of} 'resnet20': it has no extra"
    save(file, random_weights(R20) | {"bn1.weight": torch.ones(17)})
    assert message("resnet20", 10, (3, 32, 32)) == (
        "these weights do not fit network 'resnet20': bn1.weight has shape (17,) instead of (16,)"
    )
    save(file, random_weights(R20) | {"fc.weight": torch.ones(10, 64).to_sparse()})
    assert "holds sparse or other special tensors (_rebuild_sparse_tensor)" in message("resnet20", 10, (3, 32, 32))
    for kind in (torch.complex64, torch.int32, torch.bool):
        save(file, random_weights(R20) | {"fc.weight": torch.ones(10, 64).to(kind)})
        assert message("resnet20", 10, (3, 32, 32)).endswith(
            f"'resnet20': fc.weight has numbers of type {kind}, not floating-point ones"
        )
    with pytest.raises(SettingsError, match="no network is named"):
        load_published(file, "resnet21", 10, (3, 32, 32))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_a_layer_is_found_by_what_settings_record_of_it(name: str) -> None:
    assert recorded_name(NORMALISATIONS[name].description) == name
    assert recorded_name(assumed(name).description) == name
    assert recorded_name(None) is None
    assert recorded_name("the file's normalisation") is None
