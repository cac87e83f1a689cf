"""Names and shapes in published checkpoints, written down from their source code, independently of macer's networks.

MACER's model.py (RuntianZ/macer), Cohen's archs/cifar_resnet.py (locuslab/smoothing; the same layout), the zero-padded
resnet.py (akamaster/pytorch_resnet_cifar10) and torchvision's resnet.py.
"""

import torch

Shapes = dict[str, tuple[int, ...]]


def batch_norm(name: str, width: int) -> Shapes:
    vectors = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def lenet() -> Shapes:
    return {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (500, 800),
        "fc1.bias": (500,),
        "fc2.weight": (10, 500),
        "fc2.bias": (10,),
    }


def cifar(depth: int, classes: int = 10, *, padded: bool = False) -> Shapes:
    shapes: Shapes = {"conv1.weight": (16, 3, 3, 3), **batch_norm("bn1", 16)}
    inputs = 16
    for layer, width in (("layer1", 16), ("layer2", 32), ("layer3", 64)):
        for block in range((depth - 2) // 6):
            name = f"{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3), **batch_norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **batch_norm(f"{name}.bn2", width)}
            if inputs != width and not padded:
                shapes |= {f"{name}.downsample.0.weight": (width, inputs, 1, 1)}
                shapes |= batch_norm(f"{name}.downsample.1", width)
            inputs = width
    last = "linear" if padded else "fc"
    return {**shapes, f"{last}.weight": (classes, 64), f"{last}.bias": (classes,)}


def resnet18() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    inputs = 64
    for layer, width in (("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)):
        for name in (f"{layer}.0", f"{layer}.1"):
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3), **batch_norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **batch_norm(f"{name}.bn2", width)}
            if inputs != width:
                shapes |= {f"{name}.downsample.0.weight": (width, inputs, 1, 1)}
                shapes |= batch_norm(f"{name}.downsample.1", width)
            inputs = width
    return {**shapes, "fc.weight": (1000, 512), "fc.bias": (1000,)}


def resnet50() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    inputs = 64
    for layer, width, blocks in (("layer1", 64, 3), ("layer2", 128, 4), ("layer3", 256, 6), ("layer4", 512, 3)):
        for block in range(blocks):
            name = f"{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, inputs, 1, 1), **batch_norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **batch_norm(f"{name}.bn2", width)}
            shapes |= {f"{name}.conv3.weight": (4 * width, width, 1, 1), **batch_norm(f"{name}.bn3", 4 * width)}
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, inputs, 1, 1)}
                shapes |= batch_norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return {**shapes, "fc.weight": (1000, 2048), "fc.bias": (1000,)}


NETWORKS: dict[str, Shapes] = {
    "lenet": lenet(),
    "resnet20": cifar(20),
    "resnet56": cifar(56),
    "resnet110": cifar(110),
    "resnet20-padded": cifar(20, padded=True),
    "resnet56-padded": cifar(56, padded=True),
    "resnet110-padded": cifar(110, padded=True),
    "resnet18": resnet18(),
    "resnet50": resnet50(),
}


def random_weights(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a size that keeps activations near 1, in the order and types of a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5 * (0.5 if fan_in == 1 else 1)
    return weights
