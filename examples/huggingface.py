"""A Hugging Face classifier for `macer certify`, with any rescaling and normalisation. Needs `pip install ".[loops]"`.

    export HUGGINGFACE_DIRECTORY=my-classifier
    macer certify examples.huggingface:build --dataset imagenet --root DIR --sigma 0.25 --skip 100 --out certificates

The directory is what `save_pretrained` writes: config.json, model.safetensors, preprocessor_config.json. Nothing is
downloaded. Images are not resized: those of the data set must have the size that the classifier takes.
"""

import json
import os
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

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
