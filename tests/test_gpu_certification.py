"""Networks are evaluated and certified on a GPU as the documentation says."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import idx, write_idx
from on_gpu import CIFAR, DEVICE, MARKS, MNIST, compiles, handwritten, in_tf32, network_of
from torch import Tensor, nn

import macer as package
from macer.compute import local_cluster
from macer.compute.device import describe_device, exact_float32
from macer.errors import SettingsError
from macer.models.bfloat16 import InBFloat16
from macer.models.fast import ROUNDINGS, fastest, folded
from macer.pretrained.find import load_model
from macer.runs.run import CertificationRun
from macer.smoothing import ABSTAIN, Hard, SmoothedClassifier, Soft
from macer.smoothing.grid import GridNoiseSource
from macer.smoothing.noise import BLOCK, NoiseSource
from macer.smoothing.spending import scores_of
from macer.smoothing.words import Stage

pytest_plugins = ["command"]
pytestmark = MARKS
EPS = torch.finfo(torch.float32).eps

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


@pytest.mark.parametrize("name", [MNIST, CIFAR, "resnet20", "resnet110"])
def test_what_bfloat16_rounds_between_batches_is_not_taken_for_dependence(name):
    """An untrained ResNet-110 changed by 5% of its largest logit on an H100."""
    network, image = network_of(name)
    batch = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 1, Stage.ESTIMATION, 0, 10)
    with exact_float32(DEVICE):
        rounded = InBFloat16(network, batch)
    assert SmoothedClassifier(rounded, 0.25, 10, batch_size=1000, seed=0).certify(image, n=2000).n == 2000


@compiles
@pytest.mark.parametrize("name", [MNIST, CIFAR, "resnet20", "resnet110"])
def test_compiled_votes_are_the_networks_own(name):
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


@compiles
def test_a_compiled_evaluation_works_in_another_thread():
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


@compiles
@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_is_the_network_but_for_rounding_to_8_bits(compile):
    network, image = network_of(CIFAR)
    batch = GridNoiseSource(0.25, 0).blocks(image.to(DEVICE), 1, Stage.ESTIMATION, 0, 2)
    rounded = InBFloat16(network, batch)
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


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mnist")
    images, labels = handwritten()
    write_idx(root, idx(images.squeeze(1).numpy()), idx(labels.numpy().astype(np.uint8)))
    return root


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


@compiles
@pytest.mark.parametrize("case", CASES)
def test_certificates_are_made_gone_on_with_and_verified(macer, mnist, tmp_path, case):
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


def test_certificates_of_a_gpu_are_carried_on_a_cpu(macer, mnist, tmp_path):
    """The same network loses none of its votes on the same samples; of others it would lose those where it doubts."""
    first, then = tmp_path / "first", tmp_path / "then"
    few = ("--dataset", "mnist", "--root", mnist, "--n", 2000, "--seed", 3, "--device", DEVICE.type)
    assert macer("certify", MNIST, *few, "--remember", "--out", first).code == 0
    made = macer("certify", MNIST, "--carry", first, "--n-z", 2000, "--device", "cpu", "--out", then)
    assert made.code == 0, made
    header, *cells = rows(then)
    lost = [float(line[header.index("second")] or 0) for line in cells]
    votes = [float(line[header.index("count")] or 0) for line in rows(first)[1:]]
    assert max(lost) <= 1
    assert any(1000 < count < 1990 for count in votes), "images without doubt would test nothing"


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
