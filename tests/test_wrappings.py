"""Wrappings of one network's weights, as people's programs write them: the very same logits, or one line that helps."""

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_names import lenet, random_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from macer.data.pickles import read_pickle
from macer.errors import CheckpointError, SettingsError
from macer.models import build
from macer.pretrained.find import find_network, load_model

WEIGHTS = random_weights(lenet())
SHAPE = (1, 28, 28)
IMAGES = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def logits(weights: dict[str, Tensor]) -> Tensor:
    network = build("lenet", 10, SHAPE).eval()
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network(IMAGES)


OTHER = {name: value + 0.01 if value.is_floating_point() else value for name, value in WEIGHTS.items()}
"""Weights of another network of the same names."""
HALF = {name: value.half() if value.is_floating_point() else value for name, value in WEIGHTS.items()}
ONE = torch.zeros(1)
NUMPY = {name: value.numpy() for name, value in WEIGHTS.items()}


def named(*prefixes: str, weights: dict[str, Any] = WEIGHTS) -> dict[str, Any]:
    return collections.OrderedDict(("".join(prefixes) + name, value) for name, value in weights.items())


class Omega:
    """Reduces as omegaconf's nodes do: an object with a dictionary of state."""

    def __init__(self, **content: Any) -> None:
        self.__dict__.update(_content=content, _metadata=types.SimpleNamespace(optional=True), _parent=None)


class Attributes(dict):
    """As Lightning's AttributeDict: a dictionary of a class of its own."""


class Slots:
    __slots__ = ("path",)

    def __init__(self) -> None:
        self.path = "data"


def optimizer() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(4, 4))
    adam = torch.optim.Adam([parameter])
    parameter.sum().backward()
    adam.step()
    return adam.state_dict()


def saved(content: Any, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(content, folder / "weights.pt", **options)
        return folder / "weights.pt"

    return write


def pickled(content: Any, protocol: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "weights.pkl").write_bytes(pickle.dumps(content, protocol))
        return folder / "weights.pkl"

    return write


def safetensors(name: str, weights: dict[str, Tensor] = WEIGHTS, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save_file(weights, folder / name, **options)
        return folder / name

    return write


def sharded(name: str, write: Callable[[dict[str, Tensor], Path], object]) -> Callable[[Path], Path]:
    """As Hugging Face's save_pretrained writes large models."""

    def write_all(folder: Path) -> Path:
        stem, suffix = name.split(".")
        shards = [dict(list(WEIGHTS.items())[part::2]) for part in range(2)]
        files = [f"{stem}-{part + 1:05d}-of-00002.{suffix}" for part in range(2)]
        for shard, file in zip(shards, files, strict=True):
            write(shard, folder / file)
        places = {key: file for shard, file in zip(shards, files, strict=True) for key in shard}
        index = folder / f"{name}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
        return index

    return write_all


def renamed(write: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    return lambda folder: write(folder).rename(folder / name)


BESIDE = {
    "Namespace": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data"), nested=argparse.Namespace(a=1)),
    "path": pathlib.PosixPath("/data"),
    "defaultdict": collections.defaultdict(list, loss=[1.0, 2.0]),
    "Counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "set": {1, 2, frozenset({3})},
    "numpy number": np.float64(0.9),
    "numpy array": np.arange(12.0).reshape(3, 4).astype(object),
    "torch types": (torch.float32, torch.device("cpu"), torch.Size([1]), torch.strided),
    "omegaconf": Omega(lr=0.1, layers=[1, 2]),
    "AttributeDict": Attributes(lr=0.1),
    "slots": Slots(),
    "a function": torch.nn.functional.relu,
    "an enum": argparse.Action,
    "numbers": {"epoch": 3, "big": 10**30, "nan": float("nan"), "complex": 1j, "bytes": b"x", "none": None},
}

LOADED: dict[str, tuple[Callable[[Path], Path], dict[str, Tensor], str]] = {
    "plain": (saved(WEIGHTS), WEIGHTS, "state dict: lenet"),
    "plain, legacy": (saved(WEIGHTS, _use_new_zipfile_serialization=False), WEIGHTS, "state dict: lenet"),
    **{
        f"protocol {protocol}, {'zip' if new else 'legacy'}": (
            saved(
                {"state_dict": named("module."), "args": BESIDE["Namespace"]},
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=new,
            ),
            WEIGHTS,
            "checkpoint: lenet",
        )
        for protocol in (2, 3, 4, 5)
        for new in (True, False)
    },
    **{
        f"pickle of tensors, protocol {protocol}": (pickled({"model": WEIGHTS}, protocol), WEIGHTS, "checkpoint")
        for protocol in (2, 5)
    },
    **{
        f"pickle of arrays, protocol {protocol}": (pickled(NUMPY, protocol), WEIGHTS, "state dict")
        for protocol in (0, 1, 2, 3, 4, 5)
    },
    "arrays by torch.save": (saved({"params": NUMPY}), WEIGHTS, "checkpoint"),
    "arrays of the other byte order": (
        saved({name: value.astype(value.dtype.newbyteorder(">")) for name, value in NUMPY.items()}),
        WEIGHTS,
        "state dict",
    ),
    **{
        f"under {key}": (saved({key: WEIGHTS, "epoch": 3}), WEIGHTS, "epoch 3")
        for key in (
            "net",
            "state_dict",
            "model",
            "model_state",
            "model_state_dict",
            "weights",
            "network",
            "params",
            "a",
        )
    },
    "nested": (saved({"model": {"state_dict": WEIGHTS}, "epoch": 1}), WEIGHTS, "checkpoint: lenet, epoch 1"),
    "in a list in a tuple": (saved(([{"x": WEIGHTS}], 3)), WEIGHTS, "checkpoint"),
    "number keys": (saved({0: {1: WEIGHTS}}), WEIGHTS, "checkpoint"),
    **{
        f"names {'+'.join(prefixes)}": (saved(named(*prefixes)), WEIGHTS, "state dict: lenet")
        for prefixes in [
            ("module.",),
            ("_orig_mod.",),
            ("model.",),
            ("net.",),
            ("backbone.",),
            ("module.", "_orig_mod."),
            ("_orig_mod.", "module."),
            ("module.", "module."),
            ("model.", "net.", "module.", "_orig_mod.", "backbone.", "model."),
        ]
    },
    "compiled inside": (
        saved({name.replace("conv2.", "conv2._orig_mod."): value for name, value in WEIGHTS.items()}),
        WEIGHTS,
        "state dict: lenet",
    ),
    "AveragedModel": (
        saved({"n_averaged": torch.tensor(3), **named("module.")}),
        WEIGHTS,
        "state dict: lenet, 10 classes",
    ),
    "non-weights among the weights": (saved({**WEIGHTS, "epoch": 3, "arch": "x", "best": 0.9}), WEIGHTS, "lenet"),
    "thop's counters": (
        saved({**WEIGHTS, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}),
        WEIGHTS,
        "",
    ),
    "a view of parameters": (
        saved({name: nn.Parameter(v, requires_grad=False) for name, v in WEIGHTS.items()}),
        WEIGHTS,
        "",
    ),
    "an optimizer beside": (saved({"model": WEIGHTS, "optimizer": optimizer(), "scaler": {"scale": 1.0}}), WEIGHTS, ""),
    "class weights beside": (saved({"model": WEIGHTS, "criterion": {"weight": torch.ones(10)}}), WEIGHTS, ""),
    "Lightning": (
        saved(
            {
                "epoch": 4,
                "global_step": 100,
                "pytorch-lightning_version": "2.6.6",
                "state_dict": named("model."),
                "loops": {"fit_loop": {"state_dict": {}}},
                "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)}},
                "optimizer_states": [optimizer()],
                "lr_schedulers": [{"last_epoch": 3}],
                "hparams_name": "args",
                "hyper_parameters": Attributes(args=BESIDE["Namespace"], config=BESIDE["omegaconf"]),
            }
        ),
        WEIGHTS,
        "checkpoint: lenet, epoch 4",
    ),
    "fp16": (saved(HALF), HALF, "lenet"),
    "float64": (saved({name: v.double() if v.is_floating_point() else v for name, v in WEIGHTS.items()}), WEIGHTS, ""),
    "shared with another key": (saved({"model": WEIGHTS, "best": WEIGHTS}), WEIGHTS, "checkpoint: lenet"),
    "slices of one storage": (saved({name: torch.stack([v, v + 1])[0] for name, v in WEIGHTS.items()}), WEIGHTS, ""),
    "channels last": (
        saved({n: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for n, v in WEIGHTS.items()}),
        WEIGHTS,
        "",
    ),
    **{
        f"beside: {name}": (saved({"state_dict": WEIGHTS, "beside": beside}), WEIGHTS, "")
        for name, beside in BESIDE.items()
    },
    "timm's moving average": (
        saved({"state_dict": OTHER, "state_dict_ema": WEIGHTS, "args": BESIDE["Namespace"]}),
        WEIGHTS,
        "the moving average 'state_dict_ema' (beside it are the weights 'state_dict')",
    ),
    "a nested moving average": (
        saved({"model": OTHER, "ema": {"module": WEIGHTS, "decay": 0.99}}),
        WEIGHTS,
        "'ema.module'",
    ),
    "a moving average among the names": (
        saved({**named("online_model.", weights=OTHER), **named("ema_model."), "initted": torch.tensor(True)}),
        WEIGHTS,
        "the moving average 'ema_model' (beside it are the weights 'online_model')",
    ),
    "safetensors": (safetensors("model.safetensors"), WEIGHTS, "safetensors file: lenet"),
    "safetensors with metadata": (safetensors("a.safetensors", metadata={"format": "pt"}), WEIGHTS, "safetensors file"),
    "safetensors in fp16": (safetensors("a.safetensors", HALF), HALF, "safetensors file"),
    "safetensors in capitals": (safetensors("MODEL.SAFETENSORS"), WEIGHTS, "safetensors file"),
    "safetensors by another name": (safetensors("model.bin"), WEIGHTS, "safetensors file"),
    "torch.save in capitals": (renamed(saved(WEIGHTS), "WEIGHTS.PTH.TAR"), WEIGHTS, "state dict"),
    "torch.save named safetensors' index's twin": (renamed(saved(WEIGHTS), "pytorch_model.bin"), WEIGHTS, "state dict"),
    "one shard of one": (safetensors("model-00001-of-00001.safetensors"), WEIGHTS, "safetensors file"),
    "shards of safetensors": (sharded("model.safetensors", save_file), WEIGHTS, "state dict: lenet"),
    "shards of torch.save": (sharded("pytorch_model.bin", torch.save), WEIGHTS, "state dict: lenet"),
}


def test_there_are_enough_wrappings() -> None:
    assert len(LOADED) >= 48


@pytest.mark.parametrize("name", LOADED)
def test_every_wrapping_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    write, weights, words = LOADED[name]
    found = find_network(write(tmp_path))
    assert words in found.description
    assert found.network == "lenet"
    assert torch.equal(found.build(10, SHAPE)(IMAGES), logits(weights))


def zipped(folder: Path) -> Path:
    inner = saved(WEIGHTS)(folder)
    with zipfile.ZipFile(folder / "weights.zip", "w") as archive:
        archive.write(inner, "release/weights.pt")
    return folder / "weights.zip"


def tarred(folder: Path) -> Path:
    inner = saved(WEIGHTS)(folder)
    with tarfile.open(folder / "weights.tar", "w") as archive:
        archive.add(inner, "weights.pt")
    return folder / "weights.tar"


def of_bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def shard(folder: Path) -> Path:
    return sharded("model.safetensors", save_file)(folder).with_name("model-00002-of-00002.safetensors")


def index_of_absent(folder: Path) -> Path:
    index = sharded("model.safetensors", save_file)(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return index


def npz(folder: Path) -> Path:
    np.savez(folder / "weights.npz", **NUMPY)
    return folder / "weights.npz"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning</title>"
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a Git LFS pointer": (of_bytes("weights.pt", LFS), "a Git LFS pointer, not the file itself: fetch it with git lfs"),
    "a pointer to safetensors": (of_bytes("model.safetensors", LFS), "a Git LFS pointer"),
    "an HTML page": (of_bytes("weights.pth", HTML), "an HTML page, not the file itself: download it again"),
    "a zip around a checkpoint": (zipped, "a zip archive of 1 files, such as 'release/weights.pt': unpack it"),
    "a tar around a checkpoint": (tarred, "a tar archive: unpack it and give the file in it"),
    "gzip": (of_bytes("weights.pt.gz", b"\x1f\x8b\x08" + bytes(100)), "compressed with gzip: unpack it"),
    "Keras": (of_bytes("weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)), "an HDF5 file"),
    "NumPy's archive": (npz, "a NumPy archive (.npz)"),
    "one of two shards": (shard, "one of 2 shards: give model.safetensors.index.json instead"),
    "an index without its shards": (index_of_absent, "model-00002-of-00002.safetensors: No such file"),
    "a pickled module": (
        saved({"model": nn.Sequential(nn.Linear(2, 2))}),
        "a pickled module, torch.nn.modules.container",
    ),
    "a pickled module, legacy": (
        saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False),
        "save its state_dict() instead, and give the function package.module:function that builds the network",
    ),
    "an optimizer alone": (saved(optimizer()), "holds no state dict of tensors"),
    "two networks": (
        saved({"generator": WEIGHTS, "discriminator": OTHER}),
        "holds several networks, 'generator' (8 tensors), 'discriminator' (8 tensors): give the key of one as",
    ),
    "sparse tensors": (saved({"fc.weight": torch.ones(2, 2).to_sparse()}), "sparse or other special tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_what_the_file_is_in_one_line(tmp_path: Path, name: str) -> None:
    write, words = REFUSED[name]
    file = write(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find_network(file)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "key", "weights"),
    [
        ({"state_dict": OTHER, "state_dict_ema": WEIGHTS}, "state_dict", OTHER),
        ({"state_dict": OTHER, "state_dict_ema": WEIGHTS}, "state_dict_ema", WEIGHTS),
        ({"generator": OTHER, "discriminator": WEIGHTS}, "discriminator", WEIGHTS),
        ({"a": {"state_dict": OTHER}, "b": {"state_dict": WEIGHTS}}, "b.state_dict", WEIGHTS),
        ({**named("online_model.", weights=OTHER), **named("ema_model.")}, "online_model", OTHER),
    ],
)
def test_one_of_several_is_chosen_by_its_key(
    tmp_path: Path, content: Any, key: str, weights: dict[str, Tensor]
) -> None:
    file = saved(content)(tmp_path)
    assert torch.equal(find_network(file, weights=key).build(10, SHAPE)(IMAGES), logits(weights))
    g = load_model(file, sigma=0.25, weights=key)
    assert torch.equal(g.network(IMAGES), logits(weights))
    with pytest.raises(CheckpointError, match=r"holds no weights under the key 'dict'; it holds '"):
        find_network(file, weights="dict")


def test_where_there_is_one_network_no_key_is_taken() -> None:
    with pytest.raises(SettingsError, match="there is no choice of weights"):
        find_network("zoo:mnist-macer-0.25", weights="network")


def test_a_network_whose_own_names_have_a_wrappers_prefix(tmp_path: Path) -> None:
    """The names of its own state dict count, with and without that prefix in the file."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.flatten(1))

    network = Wrapped()
    for prefix in ("", "module.", "_orig_mod.model."):
        weights = {f"{prefix}{name.removeprefix('model.')}": value for name, value in network.state_dict().items()}
        found = find_network(saved({"x": weights})(tmp_path), Wrapped())
        assert torch.equal(found.build(3, (1, 2, 2))(torch.ones(1, 1, 2, 2)), network(torch.ones(1, 1, 2, 2)))


class Runs:
    """A pickle of it calls a function with arguments of its choice."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "hostile",
    [
        lambda file: Runs(os.mkdir, file),
        lambda file: Runs(os.system, f"mkdir {file}"),
        lambda file: Runs(eval, f"__import__('os').mkdir({file!r})"),
        lambda file: {Runs(os.mkdir, file): 1},
    ],
)
def test_code_beside_the_weights_does_not_run(tmp_path: Path, hostile: Any, legacy: bool) -> None:
    target = tmp_path / "executed"
    content = {"state_dict": WEIGHTS, "beside": hostile(str(target))}
    file = saved(content, _use_new_zipfile_serialization=not legacy)(tmp_path)
    found = find_network(file)
    assert torch.equal(found.weights["fc2.bias"], WEIGHTS["fc2.bias"])  # type: ignore[attr-defined]
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()  # it would have been made


FLOATS = ("storage", torch.FloatStorage, "0", "cpu", 4)


@pytest.mark.parametrize(
    ("storage", "offset", "size", "stride"),
    [
        ((*FLOATS[:4], 2**40), 0, (1,), (1,)),  # more numbers than the file has
        ((*FLOATS[:4], 5), 0, (1,), (1,)),
        ((*FLOATS[:4], -1), 0, (1,), (1,)),
        (("storage", torch.FloatStorage, "../data.pkl", "cpu", 1), 0, (1,), (1,)),
        (FLOATS, 0, (5,), (1,)),
        (FLOATS, 1, (2, 2), (2, 1)),
        (FLOATS, 4, (1,), (1,)),
        (FLOATS, -1, (1,), (1,)),
        (FLOATS, 3, (4,), (-1,)),
        (FLOATS, 0, (2**62, 4), (0, 1)),
    ],
)
def test_what_a_file_states_about_its_tensors_is_checked(
    tmp_path: Path, storage: Any, offset: int, size: Any, stride: Any
) -> None:
    """PyTorch itself believes the sizes, and reads what lies behind in memory."""

    class Stated:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (STORAGE, offset, size, stride, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return storage if obj is STORAGE else None

    stream, file = io.BytesIO(), tmp_path / "weights.pt"
    Pickler(stream, 2).dump({"x": Stated()})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", stream.getvalue())
        archive.writestr("a/data/0", bytes(16))
    with pytest.raises(CheckpointError, match="damaged, cut off, or not a checkpoint"):
        find_network(file)


STORAGE = object()


def test_a_checkpoint_that_inflates_is_refused_before_it_does(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(10**7))
    with pytest.raises(
        CheckpointError, match=r"bytes that would inflate to 10,000,005; PyTorch does not compress weights"
    ):
        find_network(file)


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    """Python's unpickler in C would make room for 2^32 objects here, in 64 GiB."""
    file = tmp_path / "weights.pt"
    file.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(CheckpointError, match="holds no state dict of tensors"):
        find_network(file)
    assert read_pickle(file.read_bytes(), "here") == {}
