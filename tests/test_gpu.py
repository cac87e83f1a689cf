"""What the documentation says of GPUs, on one GPU. Skipped where PyTorch finds none.

Statistical tests have fixed seeds and fail correct noise with probability 1e-3 each (chosen before looking).
"""

import contextlib
import io
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data_sets import idx, write_idx
from launching import free_port, srun, together
from rich.console import Console
from scipy import stats
from torch import Tensor, distributed, nn

import macer as package
from macer import data, models
from macer.compute import local_cluster
from macer.compute.device import describe_device, exact_float32, find_device, has_fast_bfloat16, open_fabric
from macer.compute.interruption import Interrupted
from macer.compute.launchers import Launched
from macer.compute.rendezvous import Environment, Together, launch
from macer.data import InMemoryImages
from macer.data.images import digest_of_some
from macer.errors import SettingsError
from macer.models.bfloat16 import InBFloat16
from macer.models.digest import answers, probe
from macer.models.fast import ROUNDINGS, fastest, folded
from macer.objectives import OBJECTIVES, Cohen, Objective
from macer.pretrained.find import load_model
from macer.runs.checkpoint import load_checkpoint
from macer.runs.run import CertificationRun
from macer.smoothing import ABSTAIN, Hard, SmoothedClassifier, Soft, noise
from macer.smoothing.grid import LEVELS, GridNoiseSource
from macer.smoothing.noise import BLOCK, NoiseSource
from macer.smoothing.spending import scores_of
from macer.smoothing.words import Stage
from macer.training.loop import _Loop, train
from macer.training.processes import Processes
from macer.training.settings import TrainingSettings
from macer.training.state import TrainingState

pytest_plugins = ["command"]
DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit.*"),  # the compiler's own
]
CPU = torch.device("cpu")
ERROR_RATE = 1e-3
EPS = torch.finfo(torch.float32).eps
MNIST, CIFAR = "zoo:mnist-macer-0.25", "zoo:cifar10-consistency-0.25"


@pytest.fixture
def unchecked_shapes():
    """Compilers pass what only stands for a tensor."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed)).float() / 255


def handwritten(count: int = 8) -> tuple[Tensor, Tensor]:
    """Digits of 8 x 8 pixels, enlarged to those of MNIST."""
    digits = data.load("digits", None, "test")
    assert isinstance(digits, InMemoryImages)
    large = F.interpolate(digits.images[:count].float(), size=20, mode="bilinear")
    return F.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).byte(), digits.labels[:count]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mnist")
    images, labels = handwritten()
    write_idx(root, idx(images.squeeze(1).numpy()), idx(labels.numpy().astype(np.uint8)))
    return root


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


# Devices


def test_devices_are_named_by_their_models():
    assert find_device("auto") == find_device("cuda") == DEVICE
    assert describe_device(DEVICE) == f"cuda ({torch.cuda.get_device_name()})"
    assert has_fast_bfloat16("cuda") == (torch.cuda.get_device_capability() >= (8, 0))


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


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize("kind", ["convolution", "product"])
def test_float32_is_computed_as_float32(kind):
    torch.manual_seed(0)
    layer, batch = nn.Linear(512, 512), torch.rand(256, 512)
    if kind == "convolution":
        layer, batch = nn.Conv2d(64, 64, 3), torch.rand(64, 64, 16, 16)
    expected = layer.double()(batch.double())
    layer, batch = layer.float().to(DEVICE), batch.to(DEVICE)

    def error() -> float:
        with torch.no_grad():
            return float((layer(batch).cpu() - expected).abs().max() / expected.abs().max())

    with in_tf32():
        settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        fast = error()
        with exact_float32(DEVICE):
            exact = error()
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == settings
        assert error() == fast
    assert exact < 1e-5
    if torch.cuda.get_device_capability() >= (8, 0):
        assert fast > 3e-5  # 10 bits: TF32 was on


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
def test_answers_to_probes_do_not_depend_on_tf32():
    network, _ = network_of(CIFAR)
    here = probe(network, 10, (3, 32, 32))
    with in_tf32():
        assert torch.equal(probe(network, 10, (3, 32, 32)), here)
    there = probe(network.cpu(), 10, (3, 32, 32))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert answers(here) is not None


# Noise


@pytest.mark.parametrize("sigma", [0.0625, 0.25, 1.0])
@pytest.mark.parametrize(
    ("shape", "seed", "index", "stage", "first", "count"),
    [
        ((1, 8, 8), 0, 0, Stage.SELECTION, 0, 1),
        ((3, 32, 32), 1, 7, Stage.ESTIMATION, 3, 2),
        ((1, 28, 28), 2**63 - 1, 9_999, Stage.ESTIMATION, 999, 3),
        ((1, 3, 5), 12345, 49_999, Stage.PREDICTION, 2**20, 10),
        ((3, 64, 64), 5, 2**22, Stage.COMPARISON, 0, 1),
        ((1, 1, 1), 6, 1, Stage.ESTIMATION, 17, 1),
    ],
)
def test_grid_noise_is_that_of_the_cpu_bit_for_bit(sigma, shape, seed, index, stage, first, count):
    source, image = GridNoiseSource(sigma, seed), picture(*shape, seed=index)
    there = source.blocks(image, index, stage, first, count)
    here = source.blocks(image.to(DEVICE), index, stage, first, count)
    assert here.device.type == DEVICE.type
    assert torch.equal(here.cpu(), there)


@pytest.mark.parametrize(
    ("shape", "seed", "index", "first", "count"),
    [((1, 8, 8), 0, 0, 0, 1), ((3, 32, 32), 2**62 + 3, 77, 123, 3), ((1, 2, 3), 9, 2**22, 5, 20)],
)
def test_float_noise_is_that_of_the_cpu_but_for_rounding(shape, seed, index, first, count):
    source, image = NoiseSource(1.0, seed), picture(*shape)
    there = source.blocks(image, index, Stage.ESTIMATION, first, count)
    here = source.blocks(image.to(DEVICE), index, Stage.ESTIMATION, first, count).cpu()
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_float_noise_is_standard_normal():
    """The mean of N values has standard deviation N^-1/2, their variance (2/N)^1/2."""
    values = NoiseSource(1.0, 0).blocks(torch.zeros(3, 32, 32, device=DEVICE), 0, Stage.ESTIMATION, 0, 20)
    values, limit = values.double().flatten(), stats.norm.isf(ERROR_RATE / 4)
    count = len(values)
    assert abs(float(values.mean())) * count**0.5 < limit
    assert abs(float(values.var()) - 1) * (count / 2) ** 0.5 < limit


@pytest.mark.parametrize("sigma", [0.01, 0.25])
def test_grid_noise_has_its_exact_probabilities(sigma):
    """Chi-square of 6 million values, in cells with at least 20 expected."""
    image = torch.full((3, 32, 32), 128 / LEVELS, device=DEVICE)
    noisy = GridNoiseSource(sigma, 1).blocks(image, 3, Stage.ESTIMATION, 0, 20)
    levels = (noisy.double() * LEVELS).round().long().flatten().cpu() - 128
    bound, total = int(levels.abs().max()) + 1, len(levels)
    edges = (np.arange(-bound, bound) + 0.5) / (LEVELS * sigma)
    expected = np.diff(stats.norm.cdf(edges), prepend=0, append=1) * total
    found = np.bincount(levels.numpy() + bound, minlength=2 * bound + 1)
    rare = expected < 20
    pooled = [np.append(each[~rare], each[rare].sum()) for each in (found, expected)]
    statistic = ((pooled[0] - pooled[1]) ** 2 / pooled[1]).sum()
    assert stats.chi2.sf(statistic, len(pooled[0]) - 1) > ERROR_RATE


def test_noisy_pixels_are_whole_levels_divided_as_on_a_cpu():
    image = picture(3, 32, 32).to(DEVICE)
    noisy = GridNoiseSource(1.0, 0).blocks(image, 0, Stage.ESTIMATION, 0, 2).cpu()
    levels = (noisy.double() * LEVELS).round().float()
    assert torch.equal(noisy, levels / LEVELS)
    assert levels.min() < 0
    assert levels.max() > LEVELS
    unmoved = levels == (image.cpu() * LEVELS).round()
    assert torch.equal(noisy[unmoved], image.cpu().expand_as(noisy)[unmoved])


@pytest.mark.parametrize("source", [GridNoiseSource(0.5, 0), NoiseSource(0.5, 0)])
def test_blocks_differ_and_do_not_depend_on_how_they_are_drawn(source):
    image = picture(1, 8, 8).to(DEVICE)
    blocks = source.blocks(image, 0, Stage.ESTIMATION, 0, 4).split(BLOCK)
    for number, block in enumerate(blocks):
        assert torch.equal(source.blocks(image, 0, Stage.ESTIMATION, number, 1), block)
        assert not any(torch.equal(block, other) for other in blocks[:number])
    others = [(1, Stage.ESTIMATION), (0, Stage.SELECTION)]
    assert not any(torch.equal(source.blocks(image, *other, 0, 1), blocks[0]) for other in others)


# Evaluation


@pytest.mark.parametrize("name", [MNIST, CIFAR, "resnet20", "resnet110"])
def test_rounding_is_far_less_than_what_counts_as_a_near_tie(name):
    """Batch size, folding and memory format change logits by less than half of a near-tie: 1000 roundings."""
    network, image = network_of(name)
    batch = NoiseSource(0.25, 0).blocks(image.to(DEVICE), 0, Stage.ESTIMATION, 0, 10)
    with torch.inference_mode(), exact_float32(DEVICE):
        alone = torch.cat([network(block) for block in batch.split(BLOCK)])
        found = {"whole": network(batch), "folded": folded(network)(batch)}
    limit = EPS * alone.abs().max()
    roundings = {how: float((logits - alone).abs().max() / limit) for how, logits in found.items()}
    print(name, roundings)
    assert roundings["whole"] < 500
    assert roundings["folded"] < ROUNDINGS


def own_votes(network: nn.Module, image: Tensor, n: int) -> list[int]:
    """The votes of a network on the estimation samples, block by block, without any of `SmoothedClassifier`."""
    votes = torch.zeros(10, dtype=torch.int64)
    with torch.inference_mode(), exact_float32(DEVICE):
        for block in range(n // BLOCK):
            noisy = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 0, Stage.ESTIMATION, block, 1)
            votes += network(noisy).argmax(1).cpu().bincount(minlength=10)
    return votes.tolist()


@pytest.mark.filterwarnings("ignore:Please use the new API settings")
@pytest.mark.parametrize("name", [MNIST, CIFAR])
def test_votes_are_the_networks_own_for_every_batch_size(name):
    network, image = network_of(name)
    expected = own_votes(network, image, 3000)
    assert max(expected) < 3000, "an image without doubt would test nothing"
    for size in (100, 300, 1000, None):
        classifier = SmoothedClassifier(network, 0.25, 10, batch_size=size, seed=0)
        with in_tf32():
            (votes,) = classifier.sums(image, 0, Stage.ESTIMATION, 3000, [scores_of(Hard())])
        assert votes.tolist() == expected
    assert classifier.batch_size == 1000


def test_certificates_are_those_of_the_cpu():
    """The noise is the same, and networks differ by rounding: the same classes and, but for near-ties, votes."""
    images = handwritten()[0] / 255
    found = []
    for device in ("cpu", DEVICE.type):
        classifier = load_model(MNIST, device=device)
        classifier.given_seed = 0
        found.append([classifier.certify(image, n=2000, image_index=at) for at, image in enumerate(images)])
    for there, here in zip(*found, strict=True):
        assert ABSTAIN in (there.predict, here.predict) or there.predict == here.predict
        assert abs(there.count - here.count) <= 1
    assert any(here.radius > 0 for here in found[1])


def test_a_batch_of_images_is_certified_and_predicted():
    classifier = load_model(MNIST, device=DEVICE.type)
    images, labels = handwritten()
    for kind in (Hard(), Soft(beta=16.0)):
        certificates = classifier.certify(images.to(DEVICE) / 255, n=1000, kind=kind, image_index=0)
        predicted = classifier.predict(images / 255, kind=kind, image_index=0)
        both = (certificates.predict != ABSTAIN) & (predicted != ABSTAIN)
        assert both.sum() >= 4
        assert (certificates.predict == predicted)[both].all()
    assert (predicted == labels.numpy()).sum() >= 4


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", [MNIST, CIFAR, "resnet20", "resnet110"])
def test_compiled_votes_are_the_networks_own(name, unchecked_shapes):
    network, image = network_of(name)
    classifier = SmoothedClassifier(network, 0.25, 10, batch_size=1000, seed=0)
    expected = own_votes(network, image, 2500)
    batch = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 1, Stage.ESTIMATION, 0, 10)
    with exact_float32(DEVICE):
        evaluation, description = fastest(network, batch, compile=True)
    assert description == "folded, channels last, compiled" if "mnist" not in name else "compiled" in description
    with torch.no_grad(), exact_float32(DEVICE):  # a CUDA graph writes to one place: earlier logits must stay
        first = evaluation(batch)
        kept = first.clone()
        evaluation(batch.flip(0))
        assert torch.equal(first, kept)
    classifier.evaluate_with(evaluation)
    (votes,) = classifier.sums(image, 0, Stage.ESTIMATION, 2500, [scores_of(Hard())])
    assert votes.tolist() == expected


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_evaluation_works_in_another_thread(unchecked_shapes):
    network, image = network_of(MNIST)
    classifier = SmoothedClassifier(network, 0.25, 10, batch_size=200, seed=0)
    batch = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 1, Stage.ESTIMATION, 0, 2)
    with exact_float32(DEVICE):
        classifier.evaluate_with(fastest(network, batch, compile=True)[0])
    found = [classifier.certify(image, n=1000, image_index=0)]
    thread = threading.Thread(target=lambda: found.append(classifier.certify(image, n=1000, image_index=0)))
    thread.start()
    thread.join()
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_is_the_network_but_for_rounding_to_8_bits(compile, unchecked_shapes):
    network, image = network_of(CIFAR)
    batch = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 1, Stage.ESTIMATION, 0, 2)
    rounded = InBFloat16(network)
    with torch.no_grad():
        expected = network(batch)
        if compile:
            rounded.compile_for(batch)
        found = rounded(batch)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()
        assert torch.equal(rounded(batch), found)
        if compile:
            assert torch.equal(rounded(batch[:30]), found[:30])
    first, again = (SmoothedClassifier(rounded, 0.25, 10, batch_size=200, seed=0) for _ in range(2))
    assert first.certify(image, n=1000, image_index=0) == again.certify(image, n=1000, image_index=0)
    if compile:
        with torch.no_grad():
            next(rounded.parameters()).mul_(2)
        with pytest.raises(SettingsError, match="changed after compile_for"):
            rounded(batch)


# Commands


def rows(directory: Path, kind: str = "hard") -> list[list[str]]:
    """The lines of a journal without time, checksum and fingerprint of the settings."""
    lines = (directory / f"{kind}.tsv").read_text().splitlines()
    drop = {lines[0].split("\t").index(name) for name in ("time", "seconds") if name in lines[0].split("\t")}
    cells = [line.split("\t")[:-1] for line in lines]
    return [[cell for at, cell in enumerate(line) if at not in drop] for line in cells]


CASES = {
    "float32": ("--mode", "both", "--beta", 16),
    "float32 compiled": ("--compile", "yes"),
    "bfloat16": ("--precision", "bf16-true", "--compile", "no"),
    "bfloat16 compiled": ("--precision", "bf16-true", "--compile", "yes", "--mode", "both", "--beta", 16),
    "auto": ("--precision", "auto"),
}


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("case", CASES)
def test_certificates_are_made_gone_on_with_and_verified(macer, mnist, tmp_path, case, unchecked_shapes):
    device = ("--device", "auto")
    few = ("--dataset", "mnist", "--root", mnist, "--n", 2000, "--seed", 3, *device, *CASES[case])
    for name, numbers in (("whole", (6,)), ("parts", (2, 6))):
        for number in numbers:
            result = macer("certify", MNIST, *few, "--num-img", number, "--out", tmp_path / name)
            assert (result.code, result.err) == (0, ""), result
    kinds = ("hard", "soft") if "both" in CASES[case] else ("hard",)
    for kind in kinds:
        assert rows(tmp_path / "parts", kind) == rows(tmp_path / "whole", kind)
    assert len(rows(tmp_path / "whole")) == 7
    assert CertificationRun(tmp_path / "whole").settings()["environment"]["device"] == describe_device(DEVICE)
    again = macer("verify", tmp_path / "whole", "--images", 6, *device)
    assert again.code == 0, again
    assert "with the same sums" in again.out
    assert again.out.splitlines()[-1] == "holds"


def test_sound_certificates_of_a_gpu_are_verified_on_a_cpu(macer, mnist, tmp_path):
    few = ("--dataset", "mnist", "--root", mnist, "--n", 2000, "--seed", 3)
    assert macer("certify", MNIST, *few, "--device", DEVICE.type, "--out", tmp_path / "c").code == 0
    there = macer("verify", tmp_path / "c", "--images", 8, "--device", "cpu")
    assert there.code == 0, there
    assert there.out.splitlines()[-1] == "holds"


def test_a_network_of_the_person_is_certified_where_it_lies():
    network, _ = network_of(MNIST)
    images, labels = handwritten()
    results = package.certify(network, (images / 255, labels), sigma=0.25, n=1000, seed=0, progress=False)
    assert len(results.frame()) == len(labels)
    assert next(network.parameters()).device.type == DEVICE.type


def test_more_devices_than_there_are_are_refused(macer, mnist, tmp_path):
    count = torch.cuda.device_count()
    more = ("--device", "cuda", "--devices", count + 1)
    line = macer.refuses("certify", MNIST, "--dataset", "mnist", "--root", mnist, *more, "--out", tmp_path / "c")
    assert line == f"macer: {count + 1} processes need a GPU each, and PyTorch finds {count} on this machine"
    assert line == macer.refuses(
        "train", "--dataset", "digits", "--network", "convnet", *more, "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # distributed's own
def test_a_worker_process_computes_as_this_one_does(macer, mnist, tmp_path, monkeypatch):
    """A Dask cluster of one worker, which has its own GPU."""
    pytest.importorskip("distributed")
    from macer.compute.cluster import Cluster, connected, quiet
    from macer.compute.engine import Engine

    @contextlib.contextmanager
    def one_worker(engine):
        with quiet(), local_cluster.local_cluster(DEVICE, 1) as cluster, connected(cluster) as client:
            yield Cluster(client, engine.device, local=True)

    few = ("--dataset", "mnist", "--root", mnist, "--n", 1000, "--seed", 3, "--device", DEVICE.type, "--num-img", 3)
    assert macer("certify", MNIST, *few, "--out", tmp_path / "here").code == 0
    monkeypatch.setattr(Engine, "open", one_worker)
    there = macer("certify", MNIST, *few, "--out", tmp_path / "there")
    assert there.code == 0, there
    assert rows(tmp_path / "there") == rows(tmp_path / "here")


def test_a_program_of_onnx_computes_on_cuda(mnist, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA here")
    pytest.importorskip("onnxscript")
    network, image = network_of(MNIST)
    file = tmp_path / "network.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(network.cpu(), (torch.rand(2, 1, 28, 28),), file, dynamic_shapes=[{0: batch}], dynamo=True)
    chosen = {"sigma": 0.25, "n": 1000, "seed": 0, "progress": False, "device": DEVICE.type}
    there = package.certify(file, (image[None], torch.tensor([0])), **chosen).frame()
    here = package.certify(network, (image[None], torch.tensor([0])), **chosen).frame()
    assert there["count"].tolist() == here["count"].tolist()


# Training

SIZE = 64
BATCH = 20  # the last step has fewer
QUICK: dict[str, dict[str, Any]] = {
    "macer": {"gauss_num": 4},
    "consistency": {"gauss_num": 2},
    "smoothadv": {"gauss_num": 2, "steps": 2, "warmup": 0},
    "smoothmix": {"gauss_num": 2, "steps": 2, "warmup": 0},
    "cat-rs": {"gauss_num": 2, "steps": 2},
    "hard-data": {"gauss_num": 2, "steps": 2, "hard_from": 1, "drop_below": 0.0, "reweigh_every": 1},
}


def method(name: str) -> Objective:
    return OBJECTIVES[name](sigma=0.25, **QUICK.get(name, {}))


def digits() -> InMemoryImages:
    found = data.load("digits", None, "train")
    assert isinstance(found, InMemoryImages)
    return InMemoryImages("digits", "train", found.images[:SIZE], found.labels[:SIZE], found.class_names)


def tiny(objective: Objective | None = None, **chosen: Any) -> TrainingSettings:
    common = {"dataset": "digits", "network": "convnet", "epochs": 2, "batch_size": BATCH, "lr": 0.02, "compile": "no"}
    objective = objective or method("macer")
    if objective.denoises:
        common |= {"network": "dncnn", "optimizer": "adam", "lr": 0.001}
    return TrainingSettings(objective=objective, **{"device": DEVICE.type, **common, **chosen})


def trained(chosen: TrainingSettings, directory: Path, **more: Any):
    """The checkpoint of a training, whose losses and weights are finite, and its log."""
    shown = io.StringIO()
    file = train(chosen, more.pop("images", None) or digits(), directory, console=Console(file=shown), **more)
    lines = [line.split("\t") for line in (directory / "metrics.tsv").read_text().splitlines()]
    log = [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:]]
    assert all(np.isfinite(list(row.values())).all() for row in log)
    checkpoint = load_checkpoint(file)
    assert all(value.isfinite().all() for value in checkpoint.network.values())
    return checkpoint, log


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_those_of_the_cpu(name, monkeypatch):
    """The same weights, images and random numbers on both devices."""
    made: list[int] = []

    def from_the_cpu(draw, empty, _generator):
        made.append(1)
        drawn = draw(torch.empty(empty.shape, dtype=empty.dtype), generator=torch.Generator().manual_seed(len(made)))
        return empty.copy_(drawn)

    monkeypatch.setattr(noise, "_filled", from_the_cpu)
    torch.manual_seed(0)
    objective = method(name)
    network = models.build("dncnn" if objective.denoises else "convnet", 10, (1, 8, 8))
    images, labels = digits().images[:16].float() / 255, digits().labels[:16]
    found = []
    for device in (CPU, DEVICE):
        made.clear()
        network = network.to(device).train()
        network.zero_grad()
        with exact_float32(device):
            loss = objective(network, images.to(device), labels.to(device))
            loss.total.backward()
        assert loss.total.device.type == device.type
        found.append((loss.total.detach().cpu(), [each.grad.cpu().clone() for each in network.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for there, here in zip(found[0][1], found[1][1], strict=True):
        assert (there - here).abs().max() <= 1e-3 * max(float(there.abs().max()), 1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_method_trains(name, precision, tmp_path):
    images = digits()
    checkpoint, log = trained(tiny(method(name), precision=precision, average=0.9), tmp_path, images=images)
    assert checkpoint.epoch == 2
    assert len(log) == 2
    assert images.images.device.type == DEVICE.type, "they move once"
    (group,) = checkpoint.optimizer["param_groups"]
    assert group["fused"] is True
    assert checkpoint.average is not None
    assert any(not torch.equal(value, checkpoint.network[key]) for key, value in checkpoint.average.items())
    assert all(value.dtype == torch.float32 for value in checkpoint.network.values() if value.is_floating_point())
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").network.keys() == checkpoint.network.keys()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("name", "precision"), [("macer", "32-true"), ("smoothadv", "bf16-mixed")])
def test_compiled_training_is_training(name, precision, tmp_path, unchecked_shapes):
    """`auto` compiles on GPUs. In float32 the losses are those without, but for rounding."""
    chosen = tiny(method(name), precision=precision, compile="auto")
    _, compiled = trained(chosen, tmp_path / "compiled")
    _, plain = trained(replace(chosen, compile="no"), tmp_path / "plain")
    for one, other in zip(compiled, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3 if precision == "32-true" else 0.05)


@dataclass
class Disturbed:
    """Takes steps, and gets a signal in one of them."""

    at: int
    step = _Loop.train_step
    steps: int = 0

    def __call__(self, loop, *batch) -> int:
        self.steps += 1
        done = Disturbed.step(loop, *batch)
        if self.steps == self.at:
            signal.raise_signal(signal.SIGINT)
        return done


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize(
    "chosen",
    [
        {"average": 0.9, "clip": 1.0},
        {"optimizer": "adam", "lr": 0.002, "noise_per": "image"},
        {"precision": "bf16-mixed", "nesterov": True},
        {"easy_fraction": 0.5, "backward_fraction": 0.5},
    ],
    ids=["average", "adam", "bfloat16", "fractions"],
)
def test_interrupted_training_goes_on(chosen, at, tmp_path, monkeypatch):
    """With deterministic kernels, to the same weights bit for bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = tiny(**chosen)
    whole, _ = trained(settings, tmp_path / "whole")
    disturbed = Disturbed(at)
    monkeypatch.setattr(_Loop, "train_step", lambda loop, *batch: disturbed(loop, *batch))
    with pytest.raises(Interrupted):
        trained(settings, tmp_path / "parts")
    kept = load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.pt")
    assert kept.epoch * 4 + kept.step == at
    resumed, _ = trained(settings, tmp_path / "parts")
    different = []
    for what in ("network", "average") if "average" in chosen else ("network",):
        for key, value in getattr(whole, what).items():
            other = getattr(resumed, what)[key]
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)
            different += [] if torch.equal(value, other) else [key]
    assert not different, f"close, but not equal: {different}"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("first", "then"), [("cpu", DEVICE.type), (DEVICE.type, "cpu")])
def test_training_goes_on_on_another_device(optimizer, first, then, tmp_path):
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    settings = tiny(optimizer=optimizer, lr=0.002, device=first)
    with pytest.raises(Stop):
        trained(settings, tmp_path, after_epoch=stop)
    checkpoint, log = trained(replace(settings, device=then), tmp_path)
    assert checkpoint.epoch == len(log) == 2


def test_batch_norm_validation_and_synchronised_statistics(tmp_path):
    chosen = {"network": "resnet20", "validation_images": 4, "num_images": 40, "sync_batch_norm": True}
    checkpoint, log = trained(tiny(**chosen), tmp_path)
    assert log[-1]["acr_estimate"] >= 0
    tracked = [key for key in checkpoint.network if key.endswith("num_batches_tracked")]
    assert tracked
    assert all(int(checkpoint.network[key]) == 4 for key in tracked)


def test_images_have_the_same_digest_wherever_they_lie():
    images = digits()
    before = digest_of_some(images)
    next(images.batches(torch.arange(4), 2, device=DEVICE, seed=0, epoch=0))
    assert images.images.device.type == DEVICE.type
    assert digest_of_some(images) == before


def test_pictures_are_decoded_for_the_device(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    for split, label in ((split, label) for split in ("train", "test") for label in ("ant", "bee")):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8, 3), 40 * number + (100 if label == "bee" else 0), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    images = data.load("folder", str(tmp_path), "train")
    batches = list(images.batches(torch.arange(len(images)), 4, device=DEVICE, seed=0, epoch=0))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert all(each.device.type == DEVICE.type for batch in batches for each in batch)
    found = torch.cat([batch for batch, _ in batches]).mean((1, 2, 3)).cpu()
    expected = torch.stack([images[at][0].mean() for at in range(len(images))])
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_run_of_the_command(macer, tmp_path, unchecked_shapes):
    """Training that certifies meanwhile, a teacher's votes, training with them, the report."""
    device = ("--device", "auto")
    common = ("--dataset", "digits", "--network", "convnet", *device, "--epochs", 2, "--num-images", 200)
    certified = ("--certify-num-img", 5, "--certify-n", 500, "--certify-from-epoch", 2)
    run = tmp_path / "run"
    first = macer("train", *common, "--method", "cohen", "--precision", "auto", *certified, "--out", run)
    assert (first.code, first.err) == (0, "")
    votes = tmp_path / "teacher.safetensors"
    assert macer("teacher", run, "--n", 10, *device, "--out", votes).code == 0
    second = ("--method", "cat-rs", "--steps", 1, "--gauss-num", 2, "--teacher", votes, "--compile", "no")
    assert macer("train", *common, *second, "--num-images", 0, "--out", tmp_path / "second").code == 0
    assert macer("certify", run, *device, "--n", 500, "--num-img", 3, "--out", tmp_path / "c").code == 0
    pytest.importorskip("plotly")
    report = macer("report", tmp_path / "c", *device, "--out", tmp_path / "report.html")
    assert report.code == 0, report


# Processes


def torchrun(size: int, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m"]
    return subprocess.run([*command, "macer", *map(str, words)], capture_output=True, text=True, timeout=120)


TRAIN = ("train", "--dataset", "digits", "--network", "convnet", "--device", DEVICE.type, "--epochs", 1, "--compile")
TRAIN = (*TRAIN, "no", "--num-images", 64, "--gauss-num", 2, "--certify-num-img", 1, "--certify-n", 100)


def test_torchrun_with_one_process(tmp_path):
    found = torchrun(1, *TRAIN, "--out", tmp_path / "run")
    assert found.returncode == 0, found
    assert "Warning" not in found.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").epoch == 1


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason="is about one GPU")
def test_torchrun_with_more_processes_than_gpus_is_refused(tmp_path):
    found = torchrun(2, *TRAIN, "--out", tmp_path / "run")
    print(found.stdout, found.stderr)
    said = [line for line in found.stderr.splitlines() if line.startswith("macer: ")]
    assert 1 <= len(said) <= 2
    assert set(said) == {"macer: 2 processes need a GPU each, and PyTorch finds 1 on this machine"}
    assert found.stderr.count("Traceback") <= 1, "torchrun has its own"
    assert not (tmp_path / "run").exists()


def test_two_processes_on_one_gpu_end(macer, tmp_path):
    """As two machines of Slurm whose tasks see the same GPU, which NCCL refuses. What they say is printed."""
    results = together(macer, 2, *TRAIN, "--out", tmp_path / "run", launcher=srun, before="signal.alarm(40)")
    print(results)
    assert all(each.code != 0 for each in results)


@pytest.fixture
def one_rank():
    """A Fabric that talks to itself, by the same strategy and backends as several processes do."""
    from lightning_fabric import Fabric

    alone = Launched(
        by="test", local_rank=0, local_size=1, machine=0, machines=1, address="127.0.0.1", port=free_port()
    )
    strategy = Together(process_group_backend="cpu:gloo,cuda:nccl", timeout=timedelta(seconds=60))
    fabric = Fabric(accelerator=DEVICE.type, devices=1, strategy=strategy, plugins=[Environment(alone)])
    launch(fabric)
    yield fabric
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of one rank
def test_one_process_exchanges_gradients_by_nccl(one_rank):
    torch.manual_seed(0)
    network = models.build("convnet", 10, (1, 8, 8))
    images, labels = digits().images[:16].float().to(DEVICE) / 255, digits().labels[:16].to(DEVICE)
    alone = open_fabric(DEVICE.type).setup(network)
    F.cross_entropy(alone(images), labels).backward()
    expected = [each.grad.clone() for each in network.parameters()]
    network.zero_grad()
    wrapped = one_rank.setup(network)
    assert isinstance(wrapped._forward_module, nn.parallel.DistributedDataParallel)
    one_rank.backward(F.cross_entropy(wrapped(images), labels))
    for each, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(each.grad, gradient)
    group = distributed.new_group(backend="gloo")
    for device, which in ((DEVICE, None), (CPU, None), (CPU, group)):
        shared = torch.ones(3, device=device)
        distributed.all_reduce(shared, group=which)
        assert shared.tolist() == [1.0, 1.0, 1.0]


class Second(Processes):
    """The second of two processes, which gets from the first what that restored."""

    def __init__(self) -> None:
        self.rank, self.size = 1, 2

    def all_gather(self, value: object) -> list[Any]:
        return [[0, 1, [], ["exp_avg", "exp_avg_sq", "step"], False]]

    def broadcast(self, tensors: Any) -> None:
        list(tensors)


def test_a_process_that_restored_nothing_takes_steps_of_fused_adam(tmp_path):
    state = TrainingState(tiny(optimizer="adam"), digits(), open_fabric(DEVICE.type), tmp_path / "last.pt")
    state.start(Second(), None)
    for each in state.module.parameters():
        each.grad = torch.ones_like(each)
    state.optimizer.step()
    assert {int(kept["step"]) for kept in state.optimizer.state.values()} == {1}


def test_a_plain_loop_of_the_person():
    """docs/your-own-loop.md: on a GPU, move network, images and labels, and give a generator of it."""
    torch.manual_seed(0)
    network = models.build("convnet", 10, (1, 8, 8)).to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    images, labels = digits().images.to(DEVICE).float() / 255, digits().labels.to(DEVICE)
    losses = []
    for step in range(20):
        generator = torch.Generator(DEVICE).manual_seed(step)
        loss = Cohen(sigma=0.1)(network, images, labels, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
