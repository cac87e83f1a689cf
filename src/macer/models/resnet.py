"""Residual networks for CIFAR and ImageNet, with the layer names of the published checkpoints.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition (arXiv 1512.03385).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them; the first one may halve the size.

    Args:
        inputs: channels of the input.
        width: channels of the convolutions, and of the output.
        stride: of the first convolution.
        downsample: maps the input to the shape of the output; None if it has this shape.
    """

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        residual = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + residual, inplace=True)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a shortcut around them; the 3 x 3 one has the stride, as in torchvision.

    Args:
        inputs: channels of the input.
        width: channels of the first two convolutions; the output has 4 * width.
        stride: of the second convolution.
        downsample: maps the input to the shape of the output; None if it has this shape.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = downsample

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        residual = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + residual, inplace=True)


class ZeroPadding(nn.Module):
    """A shortcut without weights: it takes every second pixel and adds channels of zeros, half before and half after.

    Args:
        new: number of channels to add, an even number.
    """

    def __init__(self, new: int) -> None:
        super().__init__()
        self.new = new

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))


class _Stages(nn.Module):
    """A residual network without its last layer.

    Args:
        channels: channels of the images.
        stem: size of the first convolution: 3, or 7, which halves the size, as does a pooling after it.
        block: the blocks of the stages.
        depths: number of blocks in each stage.
        padded: whether shortcuts are zero-padded instead of projected.
    """

    def __init__(
        self, channels: int, stem: int, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], padded: bool
    ) -> None:
        super().__init__()
        width = inputs = 16 if stem == 3 else 64
        self.conv1 = _convolution(channels, width, stem, stride=1 if stem == 3 else 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if stem == 3 else nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = [f"layer{number}" for number, _ in enumerate(depths, 1)]
        for number, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            stage = nn.Sequential()
            for position in range(depth):
                stride = 2 if number > 0 and position == 0 else 1
                outputs = width * block.expansion
                downsample = None
                if stride > 1 or inputs != outputs:
                    downsample = ZeroPadding(outputs - inputs) if padded else _projection(inputs, outputs, stride)
                stage.append(block(inputs, width, stride, downsample))
                inputs = outputs
            self.add_module(name, stage)
            width *= 2
        self.outputs = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the mean of the last stage over all pixels."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x.mean((2, 3))


class ResNet(_Stages):
    """A residual network with projection shortcuts: conv1, bn1, layer1 ..., fc.

    The CIFAR networks are those of the code of MACER, Cohen and Salman; the ImageNet networks are torchvision's.

    Args:
        num_classes: number of logits.
        channels: channels of the images.
        stem: size of the first convolution: 3 for CIFAR (with 16 channels), 7 for ImageNet (with 64).
        block: BasicBlock or Bottleneck.
        depths: number of blocks in each stage.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        stem: int,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
    ) -> None:
        super().__init__(channels, stem, block, depths, padded=False)
        self.fc = nn.Linear(self.outputs, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.fc(self.features(x))


class PaddedResNet(_Stages):
    """The CIFAR network of section 4.2 of the paper, with zero-padded shortcuts: conv1, bn1, layer1 ..., linear.

    The layer names are those of the checkpoints of github.com/akamaster/pytorch_resnet_cifar10.

    Args:
        num_classes: number of logits.
        channels: channels of the images.
        depths: number of blocks in each stage.
    """

    def __init__(self, num_classes: int, channels: int, *, depths: tuple[int, ...]) -> None:
        super().__init__(channels, 3, BasicBlock, depths, padded=True)
        self.linear = nn.Linear(self.outputs, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.linear(self.features(x))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
