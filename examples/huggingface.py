"""Certify an image classifier of Hugging Face that lies in a local directory. Needs `pip install ".[loops]"`.

python examples/huggingface.py DIRECTORY --dataset imagenet --root DIR --sigma 0.25 --images 10

The directory is what `save_pretrained` writes: config.json, model.safetensors, preprocessor_config.json. Nothing is
downloaded. `build` returns the same network for macer's option `--network examples.huggingface:build`, with the
directory in the environment variable HUGGINGFACE_DIRECTORY.
"""

import argparse
import json
import os
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

import macer
import macer.data
from macer.models.normalization import Normalize


class HuggingFaceClassifier(nn.Module):
    """Map images in [0, 1], of the size that the classifier was trained on, to logits.

    Args:
        directory: with the classifier and its image processor.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.normalize = read_normalisation(directory / "preprocessor_config.json")
        self.classifier = AutoModelForImageClassification.from_pretrained(directory, local_files_only=True)
        self.num_classes = self.classifier.config.num_labels

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.classifier(pixel_values=self.normalize(x)).logits


def read_normalisation(file: Path) -> nn.Module:
    """Return what an image processor does to pixels, without resizing, as a layer for images in [0, 1].

    The processor computes (255 x * rescale_factor - image_mean) / image_std.
    """
    processor = json.loads(file.read_text(encoding="utf-8"))
    scale = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255
    if not processor.get("do_normalize", True):
        return Normalize((0.0,), (1 / scale,))
    mean, std = (tuple(number / scale for number in processor[name]) for name in ("image_mean", "image_std"))
    return Normalize(mean, std)


def build() -> nn.Module:
    """Return the network in the directory that HUGGINGFACE_DIRECTORY names."""
    return HuggingFaceClassifier(Path(os.environ["HUGGINGFACE_DIRECTORY"]))


def main() -> None:
    """Certify the first images of a data set and print one line per image."""
    parser = argparse.ArgumentParser(description="Certify a Hugging Face image classifier.")
    parser.add_argument("directory", type=Path, help="what save_pretrained wrote")
    parser.add_argument("--dataset", required=True, choices=macer.data.DATASETS)
    parser.add_argument("--root", help="directory of the data set")
    parser.add_argument("--sigma", type=float, required=True, help="standard deviation of the noise")
    parser.add_argument("--n", type=int, default=100_000, help="samples per certificate [100000]")
    parser.add_argument("--images", type=int, default=10, help="number of images [10]")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    network = HuggingFaceClassifier(chosen.directory).to(chosen.device)
    smoothed = macer.SmoothedClassifier(network, chosen.sigma, network.num_classes)
    images = macer.data.load(chosen.dataset, chosen.root, "test")
    for index in range(chosen.images):
        image, label = images[index]
        certificate = smoothed.certify(image, n=chosen.n, image_index=index)
        answer = "abstained" if certificate.abstained else f"{certificate.predict} within {certificate.radius:.3f}"
        print(f"image {index}, class {label}: {answer}")


if __name__ == "__main__":
    main()
