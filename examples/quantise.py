"""Quantise a network to int8 with ONNX Runtime, calibrated on noisy training images; its certificates can be carried.

    pip install ".[onnx]"
    python examples/quantise.py zoo:mnist-macer-0.5 int8.onnx --root DIR

The ranges of all activations are fixed here (static quantisation). In dynamic quantisation they would depend on the
batch, and macer refuses networks whose logits for an image depend on other images. PyTorch's older exporter is used,
because the newer one needs onnxscript.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import macer
from macer import data


class NoisyImages(CalibrationDataReader):
    """Batches of training images with noise that no certificate uses, as ONNX Runtime asks for them."""

    def __init__(self, images: torch.Tensor, sigma: float) -> None:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        self.batches = iter((images + sigma * noise).split(100))

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


def quantise(target: str, file: Path, dataset: str, root: str | None, count: int) -> None:
    """Write the network of a run or of the zoo to an ONNX file in int8."""
    smoothed = macer.load_model(target)
    training = data.load(dataset, root, "train")
    images = torch.stack([training[index][0] for index in range(count)])
    with tempfile.TemporaryDirectory() as folder:
        exported, prepared = Path(folder, "exported.onnx"), Path(folder, "prepared.onnx")
        sizes = {"images": {0: "batch"}}
        torch.onnx.export(
            smoothed.network.eval(), (images[:2],), exported, input_names=["images"], dynamic_axes=sizes, dynamo=False
        )
        quant_pre_process(exported, prepared)
        reader = NoisyImages(images, smoothed.sigma)
        quantize_static(prepared, file, reader, per_channel=True, weight_type=QuantType.QInt8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="a run, or zoo:NAME")
    parser.add_argument("file", type=Path, help="the file to write")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--root", help="directory of the data set")
    parser.add_argument("--images", type=int, default=1000, help="training images to calibrate on")
    given = parser.parse_args()
    quantise(given.target, given.file, given.dataset, given.root, given.images)
