"""Programs (torch.export, TorchScript, ONNX) and code: certified as the network they hold, or refused in one line."""

import copy
import io
import json
import logging
import os
import pickle
import runpy
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import macer as package
from macer import data
from macer.certification.prepare import digest
from macer.errors import CheckpointError, MissingLibrary, SettingsError
from macer.files.toml import read_toml
from macer.models.programs import read_program
from macer.pretrained.find import find_network, load_model
from macer.results import read_records

pytest_plugins = ["command"]

SHAPE = (1, 8, 8)
BATCH = torch.export.Dim("batch")
OPTIONS = ("--dataset", "digits", "--device", "cpu", "--n", 600, "--skip", 25)
NAMES = ("theirs.pt2", "theirs.pt", "theirs.onnx")


class Theirs(nn.Module):
    """The digits' network, as somebody writes it who never heard of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(512, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv2(F.relu(self.conv1(x))), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def export(network: nn.Module, file: Path, batch: Any = BATCH, images: tuple[Tensor, ...] | None = None) -> Path:
    """A torch.export file; `batch` says which batches it takes, None: only batches of 4."""
    images = images or (torch.rand(4, *SHAPE),)
    free = None if batch is None else ({0: batch},) * len(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, images, dynamic_shapes=free), file)
    return file


def trace(network: nn.Module, file: Path, size: int = 8) -> Path:
    """A TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have people use torch.export
        traced = torch.jit.trace(network, torch.rand(4, 1, size, size), check_trace=False)
        torch.jit.save(traced, file)
    return file


def write_onnx(
    file: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, Tensor],
    images: tuple[Any, ...] = ("batch", *SHAPE),
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    more_inputs: tuple[str, ...] = (),
) -> Path:
    """An ONNX file of a graph from `x` to `logits`, written without torch."""
    inputs = [helper.make_tensor_value_info(name, kinds[0], images) for name in ("x", *more_inputs)]
    output = helper.make_tensor_value_info("logits", kinds[1], None)
    graph = helper.make_graph(
        nodes,
        "network",
        inputs,
        [output],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), file)
    return file


def onnx_theirs(weights: dict[str, Tensor], file: Path) -> Path:
    node = helper.make_node
    padding = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], **padding),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "conv2.weight", "conv2.bias"], ["c"], **padding),
        node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"], axis=1),
        node("Gemm", ["f", "fc1.weight", "fc1.bias"], ["g"], transB=1),
        node("Relu", ["g"], ["h"]),
        node("Gemm", ["h", "fc2.weight", "fc2.bias"], ["logits"], transB=1),
    ]
    return write_onnx(file, nodes, weights)


def onnx_linear(file: Path, **choices: Any) -> Path:
    """Ten sums of pixels."""
    nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["logits"])]
    return write_onnx(file, nodes, {"w": torch.ones(64, 10)}, **choices)


@pytest.fixture(scope="module")
def theirs(trained: Path) -> nn.Module:
    network = Theirs().eval()
    network.load_state_dict(find_network(trained).build(10, SHAPE).state_dict())
    return network


@pytest.fixture(scope="module")
def files(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in the three formats."""
    folder = tmp_path_factory.mktemp("programs")
    export(theirs, folder / "theirs.pt2")
    trace(theirs, folder / "theirs.pt")
    onnx_theirs(theirs.state_dict(), folder / "theirs.onnx")
    return folder


def rows(directory: Path) -> list[list[str]]:
    """The lines of a journal, header first, without the time, the settings and the checksum."""
    lines = (directory / "hard.tsv").read_text().splitlines()
    return [[*cells[:5], *cells[6:-2]] for cells in (line.split("\t") for line in lines)]


@pytest.fixture(scope="module")
def expected(macer: Any, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    directory = tmp_path_factory.mktemp("expected") / "certificates"
    assert macer("certify", trained, *OPTIONS, "--out", directory).code == 0
    found = rows(directory)
    assert {row[4] for row in found[1:]} == {"0", "1"}, "this network is to be right and wrong"
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_program_gets_the_certificates_of_its_network(macer, files, expected, tmp_path, name):
    result = macer("certify", files / name, *OPTIONS, "--sigma", 0.25, "--out", tmp_path / "c")
    assert (result.code, result.err) == (0, "")
    kind = {"pt2": "torch.export", "pt": "TorchScript", "onnx": "ONNX"}[name.split(".")[1]]
    assert f"found {kind} program" in result.out
    told = read_toml(tmp_path / "c" / "settings.toml")["certification"]
    assert (told["network"], told["checkpoint"]) == (kind, str(files / name))
    found = rows(tmp_path / "c")
    assert len(found) == 21
    if kind != "ONNX":  # the same arithmetic
        assert found == expected
        return
    for ours, theirs in zip(expected[1:], found[1:], strict=True):
        votes = [int(row[6]) for row in (ours, theirs)]
        assert abs(votes[0] - votes[1]) <= 2  # another library rounds otherwise
        assert ours[2] == theirs[2] or "-1" in (ours[2], theirs[2])


def test_they_say_nothing_of_data_and_noise(macer, files):
    file = files / "theirs.pt2"
    said = macer.refuses("certify", file, "--device", "cpu")
    assert said == f"macer: {file} does not say what it was trained on: give images, or --dataset"
    said = macer.refuses("certify", file, *OPTIONS)
    assert said == f"macer: {file} does not say with which sigma it was trained: give --sigma"


@pytest.mark.parametrize("name", NAMES)
def test_load_smoothed_is_the_network(files, theirs, name):
    """Shape and classes are in the file, but for TorchScript."""
    if name == "theirs.pt":
        with pytest.raises(CheckpointError, match="TorchScript program: give `num_classes` and `shape`"):
            load_model(files / name, sigma=0.25)
        smoothed = load_model(files / name, sigma=0.25, num_classes=10, shape=SHAPE)
    else:
        smoothed = load_model(files / name, sigma=0.25)
    assert (smoothed.sigma, smoothed.num_classes) == (0.25, 10)
    x = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(smoothed.network(x), theirs(x))
    image, _ = data.load("digits", None, "test")[0]
    assert smoothed.predict(image) == package.SmoothedClassifier(theirs, 0.25, 10).predict(image)
    with pytest.raises(SettingsError, match="does not say with which sigma"):
        load_model(files / name)


def test_a_layer_in_front_of_a_program(files, theirs, tmp_path):
    red = nn.Conv2d(3, 1, 1, bias=False)
    red.weight.data = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    file = export(nn.Sequential(red, theirs).eval(), tmp_path / "rgb.pt2", images=(torch.rand(4, 3, 8, 8),))
    found = find_network(file, normalisation="cifar10")
    assert found.description == "torch.export program behind CIFAR-10 normalisation"
    network = found.build(10, (3, 8, 8))
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), theirs((x[:, :1] - 0.4914) / 0.2023))
    assert digest(network.state_dict()) != digest(find_network(file).build(10, (3, 8, 8)).state_dict())
    with pytest.raises(SettingsError, match="for 3 channels, the images have 1"):
        find_network(files / "theirs.pt2", normalisation="cifar10").build(10, SHAPE)


def test_the_digest_is_that_of_the_file(macer, files, theirs, tmp_path):
    """The same bytes elsewhere are the same program; a weight changed in the last bit makes another."""

    def of(file: Path) -> str:
        return digest(find_network(file).build(10, SHAPE).state_dict())

    digests = {name: of(files / name) for name in NAMES}
    assert len(set(digests.values())) == 3
    for name in NAMES:
        moved = tmp_path / name
        moved.write_bytes((files / name).read_bytes())
        assert of(moved) == digests[name]
    weights = {name: value.clone() for name, value in theirs.state_dict().items()}
    weights["fc2.bias"][0] = torch.nextafter(weights["fc2.bias"][0], torch.tensor(9.0))
    changed = Theirs().eval()
    changed.load_state_dict(weights)
    export(changed, tmp_path / "theirs.pt2")
    trace(changed, tmp_path / "theirs.pt")
    onnx_theirs(weights, tmp_path / "theirs.onnx")
    for name in NAMES:
        assert of(tmp_path / name) != digests[name]


@pytest.mark.parametrize("suffix", [".pt", ".pt3", ".pth.pt", ""])
def test_torchscript_is_known_by_its_content(files, tmp_path, suffix):
    file = tmp_path / f"network{suffix}"
    file.write_bytes((files / "theirs.pt").read_bytes())
    assert find_network(file).description == "TorchScript program"


@pytest.mark.parametrize("suffix", [".pth", ".PTH", ".pth.tar", ".tar", ".ckpt"])
def test_torchscript_is_not_run_under_a_checkpoints_name(macer, files, tmp_path, suffix):
    file = tmp_path / f"network{suffix}"
    file.write_bytes((files / "theirs.pt").read_bytes())
    said = f"{file}: a TorchScript program, which runs code: rename it to end in .pt"
    with pytest.raises(CheckpointError) as caught:
        find_network(file)
    assert str(caught.value) == said
    if suffix == ".pth":
        assert macer.refuses("certify", file, *OPTIONS, "--sigma", 0.25) == f"macer: {said}"


def test_torchscript_is_not_run_in_a_runs_directory(files, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes((files / "theirs.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"last\.pt: a TorchScript program, which is code and not weights"):
        find_network(tmp_path)
    assert find_network(tmp_path / "checkpoints" / "last.pt").description == "TorchScript program"


def test_training_says_behind_which_layer_it_starts(macer, theirs, tmp_path):
    """The layer is for three channels, so that nothing is trained here."""
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    words = ("--init", tmp_path / "theirs.pt", "--normalisation", "cifar10-center", "--out", tmp_path / "run")
    result = macer("train", "--dataset", "digits", "--network", "convnet", "--device", "cpu", *words)
    assert result.code == 2
    assert "for 3 channels, the images have 1" in result.err
    assert result.out.startswith("starting from state dict: unknown network behind CIFAR-10 centring, 8 tensors")


def test_a_program_is_placed_where_its_images_are(files):
    """On the meta device there are shapes without numbers: enough to see weights and constants move."""
    network = find_network(files / "theirs.pt2").build(10, SHAPE).to("meta")
    assert next(network.parameters()).device.type == "meta"
    x = torch.rand(7, *SHAPE, device="meta", requires_grad=True)
    with torch.inference_mode():  # as certification does it
        logits = network(x)
    assert (logits.device.type, logits.shape) == ("meta", (7, 10))
    (gradient,) = torch.autograd.grad(network(x).sum(), x)  # as an attack does it later
    assert gradient.shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_network(files, name):
    network = find_network(files / name).build(10, SHAPE)
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):  # the latter is sent to workers
        assert torch.equal(copied(x), network(x))
        assert digest(copied.state_dict()) == digest(network.state_dict())
    assert next(copy.deepcopy(network.to("meta")).parameters()).device.type == "meta"


def test_gradients_pass_through_torch_programs(files, theirs):
    """Attacks need them."""
    for name in ("theirs.pt2", "theirs.pt"):
        smoothed = load_model(files / name, sigma=0.25, num_classes=10, shape=SHAPE)
        x = torch.rand(2, *SHAPE, requires_grad=True)
        smoothed.certify(x[0].detach(), n=100)
        (found,) = torch.autograd.grad(smoothed.network(x).square().sum(), x)
        (expected,) = torch.autograd.grad(theirs(x).square().sum(), x)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_onnx_is_evaluated_where_compiling_would_pay(tmp_path):
    """Traced by the compiler, it failed at the first batch in inference mode: work of more than five minutes ended."""
    program = read_program(onnx_linear(tmp_path / "linear.onnx"))
    assert program is not None
    place = program.place(torch.device("cpu"))
    evaluate = torch.compile(lambda images: place(images), backend="eager", dynamic=False)
    batch = torch.rand(2, *SHAPE)
    evaluate(batch)
    with torch.inference_mode():
        torch.testing.assert_close(evaluate(batch), batch.flatten(1).sum(1, keepdim=True).expand(2, 10))


def test_onnx_computes_on_cuda_where_onnxruntime_can(files, monkeypatch):
    import onnxruntime

    asked = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "set_providers", lambda _, providers: asked.append(providers))
    program = read_program(files / "theirs.onnx")
    assert program is not None
    program.place(torch.device("cpu"))
    assert asked == []
    program.place(torch.device("cuda", 1))
    assert asked == [[("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})]]


class Parts(nn.Module):
    """Linear, and what `change` makes of it."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.norm, self.fc, self.change = nn.BatchNorm2d(1), nn.Linear(64, 10), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.fc(self.norm(x).flatten(1)))


class Pairs(Parts):
    """A network of two images."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return super().forward(x) + super().forward(y)


def dropout(logits: Tensor) -> Tensor:
    return F.dropout(logits, training=True)


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a fixed batch": (
        lambda folder: export(Parts().eval(), folder / "x.pt2", None),
        "the network takes batches of exactly 4: export it with a dynamic batch dimension",
    ),
    "a fixed batch, ONNX": (
        lambda folder: onnx_linear(folder / "x.onnx", images=(4, *SHAPE)),
        "the network takes batches of exactly 4: export it with a dynamic batch dimension",
    ),
    "a fixed batch, TorchScript": (
        lambda folder: trace(Parts(lambda y: y.reshape(4, 10)), folder / "x.pt"),
        "the network fails on images of shape (2, 1, 8, 8): RuntimeError: shape '[4, 10]' is invalid for input",
    ),
    "batches of 4 and more": (
        lambda folder: export(Parts().eval(), folder / "x.pt2", torch.export.Dim("batch", min=4)),
        "the network fails on images of shape (2, 1, 8, 8): Guard failed: x.size()[0] >= 4",
    ),
    "images of another size": (
        lambda folder: export(Parts().eval(), folder / "x.pt2", images=(torch.rand(4, 1, 4, 16),)),
        "x.pt2 is a network of images of shape (1, 4, 16), the data have (1, 8, 8)",
    ),
    "images of another size, ONNX": (
        lambda folder: onnx_linear(folder / "x.onnx", images=("batch", 4, 4, 4)),
        "x.onnx is a network of images of shape (4, 4, 4), the data have (1, 8, 8)",
    ),
    "images of another size, TorchScript": (
        lambda folder: trace(nn.Conv2d(1, 10, 9), folder / "x.pt", size=9),
        "the network fails on images of shape (2, 1, 8, 8): RuntimeError: Calculated padded input size",
    ),
    "vectors": (
        lambda folder: export(nn.Linear(64, 10), folder / "x.pt2", images=(torch.rand(4, 64),)),
        "the network takes inputs of 2 dimensions, not (batch, channels, height, width)",
    ),
    "other classes": (
        lambda folder: export(Parts(lambda y: y[:, :7]).eval(), folder / "x.pt2"),
        "x.pt2 is a network of 7 classes, the data have 10",
    ),
    "other classes, TorchScript": (
        lambda folder: trace(Parts(lambda y: y[:, :7]).eval(), folder / "x.pt"),
        "the network returns 7 logits per image, the data have 10 classes",
    ),
    "a class instead of logits": (
        lambda folder: trace(Parts(lambda y: y.argmax(1)).eval(), folder / "x.pt"),
        "the network returns numbers of type torch.int64, not floating-point logits",
    ),
    "a tuple": (
        lambda folder: trace(Parts(lambda y: (y, y)).eval(), folder / "x.pt"),
        "the network returns tuple, not a tensor of logits",
    ),
    "two outputs": (
        lambda folder: export(Parts(lambda y: (y, 2 * y)).eval(), folder / "x.pt2"),
        "the network has 2 outputs, not one",
    ),
    "two inputs": (
        lambda folder: export(Pairs().eval(), folder / "x.pt2", images=(torch.rand(4, *SHAPE),) * 2),
        "the network has 2 inputs, not one",
    ),
    "two inputs, ONNX": (
        lambda folder: onnx_linear(folder / "x.onnx", more_inputs=("y",)),
        "the network has 2 inputs, not one",
    ),
    "one logit for all": (
        lambda folder: trace(Parts(lambda y: y.mean()).eval(), folder / "x.pt"),
        "the network returns shape () for 2 images, not (2, classes)",
    ),
    "half precision": (
        lambda folder: write_onnx(
            folder / "x.onnx",
            [helper.make_node("Flatten", ["x"], ["logits"])],
            {},
            kinds=(TensorProto.FLOAT16, TensorProto.FLOAT16),
        ),
        "the network takes tensor(float16), not images of 32-bit floating-point numbers",
    ),
}


def beside(file: Path) -> Path:
    """The same ONNX model with its weights in a second file."""
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights", size_threshold=0)
    assert (file.parent / "weights").stat().st_size == 64 * 10 * 4
    return file


def test_onnx_weights_in_another_file_are_part_of_what_is_certified(tmp_path, monkeypatch):
    """Whatever the working directory holds under that name, and with their bytes in the digest."""
    file = beside(onnx_linear(tmp_path / "x.onnx"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").write_bytes(torch.full((640,), 7.0).numpy().tobytes())
    monkeypatch.chdir(tmp_path / "elsewhere")
    network = find_network(file).build(10, SHAPE)
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(network(x), x.flatten(1).sum(1, keepdim=True).expand(3, 10))
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))
    before = digest(network.state_dict())
    assert digest(find_network(file).build(10, SHAPE).state_dict()) == before
    content = bytearray((tmp_path / "weights").read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights").write_bytes(content)
    assert digest(find_network(file).build(10, SHAPE).state_dict()) != before


def test_bytes_that_look_like_another_file_are_none(tmp_path):
    """A weight may hold what the format writes before a file's name."""
    weight = torch.ones(64, 10)
    weight.view(torch.uint8)[0, :10] = torch.tensor(list(b"\n\x08location"), dtype=torch.uint8)
    nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["logits"])]
    file = write_onnx(tmp_path / "x.onnx", nodes, {"w": weight})
    program = read_program(file)
    assert program is not None
    assert program.content == file.read_bytes()


def constant_outside(file: Path, location: str) -> Path:
    """A weight in a node's attribute, in another order of its keys: no search for bytes at one place finds it."""
    tensor = numpy_helper.from_array(np.ones((64, 10), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("length", "2560"), ("location", location)):
        entry = tensor.external_data.add()
        entry.value, entry.key = value, key
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", *SHAPE))]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 10))
    graph = helper.make_graph(nodes, "network", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def test_onnx_weights_in_attributes_are_found_as_well(tmp_path):
    file = constant_outside(tmp_path / "x.onnx", "w.bin")
    with pytest.raises(
        CheckpointError, match=r"x\.onnx: its weights in another file cannot be read: .*w\.bin"
    ) as caught:
        find_network(file)
    assert "\n" not in str(caught.value)
    (tmp_path / "w.bin").write_bytes(np.full((64, 10), 2, np.float32).tobytes())
    network, x = find_network(file).build(10, SHAPE), torch.rand(3, *SHAPE)
    torch.testing.assert_close(network(x), 2 * x.flatten(1).sum(1, keepdim=True).expand(3, 10))


@pytest.mark.parametrize("location", ["../w.bin", "/dev/zero", "link", "large"])
def test_onnx_weights_that_lead_elsewhere_are_refused(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(bytes(2560))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "w.bin")
    with (folder / "large").open("wb") as stream:
        stream.truncate(2**31)
    with pytest.raises(CheckpointError, match=r"x\.onnx: its weights in (another|other) file") as caught:
        find_network(constant_outside(folder / "x.onnx", location))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_classifier_of_single_images(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    write, message = REFUSED[what]
    file = write(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find_network(file).build(10, SHAPE)
    said = str(caught.value)
    assert said.startswith(str(file))
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: export(Parts().train(), folder / "x.pt2"), "depend on the other images of the batch"),
        (lambda folder: trace(Parts().train(), folder / "x.pt"), "depend on the other images of the batch"),
        (lambda folder: trace(Parts(dropout).eval(), folder / "x.pt"), "change when the same batch is evaluated again"),
    ],
)
def test_a_program_exported_in_training_mode_gets_no_certificate(macer, tmp_path, write, message):
    file = write(tmp_path)
    said = macer.refuses("certify", file, *OPTIONS, "--sigma", 0.25, "--out", tmp_path / "c")
    assert message in said
    assert said.endswith("a network that was exported in training mode does this, too")
    assert len(rows(tmp_path / "c")) == 1
    with pytest.raises(SettingsError, match=message):
        load_model(file, sigma=0.25, num_classes=10, shape=SHAPE).predict(torch.rand(SHAPE))


def test_the_command_refuses_in_one_line(macer, files, theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    certify = ("certify", *OPTIONS, "--sigma", 0.25)
    fixed = export(theirs, tmp_path / "fixed.pt2", None)
    assert macer.refuses(*certify, fixed).endswith("export it with a dynamic batch dimension")
    few = export(
        theirs, tmp_path / "few.pt2", torch.export.Dim("batch", max=64)
    )  # noise comes in batches of 100 and more
    assert macer.refuses(*certify, few).endswith("8, 8): Guard failed: x.size()[0] <= 64")
    for name in NAMES:
        cut = tmp_path / f"cut{Path(name).suffix}"
        cut.write_bytes((files / name).read_bytes()[:-200])
        assert f"{cut}: damaged, cut off" in macer.refuses(*certify, cut)
    onnx_file = files / "theirs.onnx"
    not_weights = f"macer: {onnx_file}: ONNX program, which contains its network: leave 'resnet20' out"
    assert macer.refuses(*certify, onnx_file, "--network", "resnet20") == not_weights
    train = ("train", "--dataset", "digits", "--network", "resnet20", "--out", "run", "--init", onnx_file)
    assert macer.refuses(*train) == not_weights


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_off_or_damaged_anywhere(files, tmp_path, name, caplog):
    good = (files / name).read_bytes()
    file = tmp_path / name
    noise = bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).tolist())
    lengths = [*range(0, 100, 11), *range(100, len(good), len(good) // 15), len(good) - 1]
    for content in [*(good[:length] for length in lengths), noise, b"idx\tlabel\n"]:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"^{file}: damaged, cut off, or no") as caught:
            find_network(file)
        assert "\n" not in str(caught.value)
    assert not caplog.records
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("name", ["theirs.pt2", "theirs.pt"])
def test_weights_that_changed_on_the_disk_are_refused(files, theirs, tmp_path, name):
    content = bytearray((files / name).read_bytes())
    place = content.find(theirs.state_dict()["fc2.weight"].numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged: the checksum of .* is wrong"):
        find_network(tmp_path / name)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_torch_export_file_runs_nothing_under_another_name(files, tmp_path, monkeypatch):
    """torch unpickles what is in it, so the name has to say that it is a program."""
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    torch.save(((Hostile(),), {}), stream)
    with zipfile.ZipFile(files / "theirs.pt2") as good, zipfile.ZipFile("hostile.pth", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, stream.getvalue() if name.endswith("sample_inputs/model.pt") else good.read(name))
    with pytest.raises(CheckpointError, match=r"hostile\.pth: a torch\.export program, which runs code when opened"):
        find_network("hostile.pth")
    assert not Path("executed").exists()
    Path("hostile.pth").rename("hostile.pt2")
    find_network("hostile.pt2")
    assert Path("executed").exists()  # as docs/any-network.md says


def test_without_onnxruntime_the_line_says_how_to_get_it(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibrary, match=r"onnxruntime is not installed.* pip install \"\.\[onnx\]\""):
        find_network(files / "theirs.onnx")


def test_a_network_that_code_returns_with_its_weights(trained, theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = ModuleType("macer_test_code")
    code.build = lambda: Theirs().train()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "macer_test_code", code)
    torch.manual_seed(0)
    found = find_network(None, "macer_test_code:build")
    assert (found.source, found.description) == ("macer_test_code:build", "the network of macer_test_code:build")
    network = found.build(10, SHAPE)
    assert not network.training
    code.build = lambda: theirs  # type: ignore[attr-defined]
    assert digest(found.build(10, SHAPE).state_dict()) == digest(find_network(trained).build(10, SHAPE).state_dict())
    smoothed = load_model(None, network="macer_test_code:build", sigma=0.25, num_classes=10, shape=SHAPE)
    assert smoothed.network is theirs
    assert load_model("macer_test_code:build", sigma=0.25, num_classes=10, shape=SHAPE).network is theirs
    for nothing in (None, "resnet20"):
        with pytest.raises(SettingsError, match="give a run, a file, or package"):
            find_network(None, nothing)
    with pytest.raises(CheckpointError, match="start from a file of weights"):
        found.to_start_from(None)


def test_code_is_certified_by_its_path_alone_with_option_or_without(macer, theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = ModuleType("macer_test_code")
    code.build = lambda: theirs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "macer_test_code", code)
    options = ("--dataset", "digits", "--sigma", 0.25, "--n", 100, "--skip", 100, "--device", "cpu", "--seed", 1)
    for place, words in {
        "by path": ("macer_test_code:build",),
        "by option": ("--network", "macer_test_code:build"),
    }.items():
        result = macer("certify", *words, *options, "--out", place)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("found the network of macer_test_code:build\n")
    one, other = (read_records(Path(place, "hard.tsv"))[0] for place in ("by path", "by option"))
    assert one.radius.tolist() == other.radius.tolist()
    said = macer.refuses("certify", "macer_test_code:wrong", *options)  # nothing is found before that
    assert (
        said
        == "macer: network macer_test_code:wrong: AttributeError: module 'macer_test_code' has no attribute 'wrong'"
    )


def test_code_finds_what_it_imports_only_when_it_is_evaluated(tmp_path):
    """In a process of its own, because an installed command does not search the current directory by itself."""
    (tmp_path / "macer_test_late.py").write_text("SCALE = 2.0\n")
    (tmp_path / "macer_test_lazy.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Lazy(nn.Linear):\n    def forward(self, images):\n"
        "        from macer_test_late import SCALE\n\n        return SCALE * super().forward(images.flatten(1))\n"
        "\n\ndef build():\n    torch.manual_seed(0)\n    return Lazy(64, 10)\n"
    )
    command = "import sys; sys.path = [each for each in sys.path if each]; from macer.cli import main; main()"
    words = ("macer_test_lazy:build", "--dataset", "digits", "--sigma", "0.5", "--n", "100", "--num-img", "1")
    done = subprocess.run(
        [sys.executable, "-c", command, "certify", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_certificates_of_files_and_of_a_runs_file_have_places_of_their_own(macer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--dataset", "digits", "--network", "convnet", "--device", "cpu", "--method", "cohen", "--epochs", 1)
    assert macer("train", *words, "--num-images", 64, "--out", "run").code == 0
    for file in ("one.safetensors", "two.safetensors"):
        assert macer("export", "run", file).code == 0
    few = ("--n", 100, "--num-img", 1, "--device", "cpu")
    for place, home in (
        ("one.safetensors", "one.safetensors.certificates"),
        ("two.safetensors", "two.safetensors.certificates"),
        ("run/checkpoints/last.pt", "run/certificates"),
    ):
        assert f"certificates: {home}\n" in macer("certify", place, *few).out


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What examples/huggingface.py defines."""
    return runpy.run_path(str(Path(__file__).parents[1] / "examples" / "huggingface.py"))


def test_a_directory_of_hugging_face_is_said_to_be_one(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(
        CheckpointError, match=r"a Hugging Face model: docs/your-classifier\.md shows how to certify it"
    ):
        find_network(tmp_path)


@pytest.mark.parametrize("network", ["vit", "resnet"])
def test_the_example_computes_what_hugging_face_computes(example, tmp_path, monkeypatch, network):
    """An 8-bit picture through their image processor, without resizing, against ours of the same pixels in [0, 1]."""
    import transformers
    from PIL import Image

    torch.manual_seed(0)
    if network == "vit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=5)
        classifier = transformers.ViTForImageClassification(config)
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
        classifier = transformers.ResNetForImageClassification(config)
    classifier.eval().save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        **{"do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2},
        **{"do_rescale": True, "rescale_factor": 1 / 127.5},
        **{"do_normalize": True, "image_mean": [0.9, 1.0, 1.1], "image_std": [0.5, 0.25, 1.0]},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = theirs(images=Image.fromarray(picture), do_resize=False, return_tensors="pt")["pixel_values"]
    monkeypatch.setenv("HUGGINGFACE_DIRECTORY", str(tmp_path))
    ours = example["build"]().eval()
    assert ours.num_classes == 5
    image = torch.from_numpy(picture).permute(2, 0, 1) / 255
    with torch.no_grad():
        torch.testing.assert_close(ours(image.unsqueeze(0)), classifier(pixel_values=pixels).logits)
    certificate = package.SmoothedClassifier(ours, 0.25, 5).certify(image, n=200)
    assert certificate.n == 200
