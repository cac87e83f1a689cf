"""The nine-layer residual network that made fast training of CIFAR-10 known, for machines with little time.

David Page, How to Train Your ResNet (2018), https://github.com/davidcpage/cifar10-fast.
"""

from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions of the same width with a shortcut around them.

    Args:
        width: channels of the input and of the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _convolution(width, width)
        self.conv2 = _convolution(width, width)

    def forward(self, x: Float[Tensor, "batch width height width_"]) -> Float[Tensor, "batch width height width_"]:
        return x + self.conv2(self.conv1(x))


class ResNet9(nn.Module):
    """Eight 3 x 3 convolutions, each with batch norm, and a linear layer: prep, layer1, layer2, layer3, fc.

    Each layer doubles the width and halves the size; the first and the third end with a residual block.

    Args:
        num_classes: number of logits.
        channels: channels of the images.
        width: channels of the first convolution: 64 in Page's network. The cost grows with its square.
    """

    def __init__(self, num_classes: int, channels: int, *, width: int) -> None:
        super().__init__()
        self.prep = _convolution(channels, width)
        self.layer1 = nn.Sequential(_convolution(width, 2 * width, halved=True), Residual(2 * width))
        self.layer2 = nn.Sequential(_convolution(2 * width, 4 * width, halved=True))
        self.layer3 = nn.Sequential(_convolution(4 * width, 8 * width, halved=True), Residual(8 * width))
        self.fc = nn.Linear(8 * width, num_classes, bias=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.fc(x.amax((2, 3))) * 0.125  # Page's scale, with which the cross-entropy starts near log(classes)


def _convolution(inputs: int, outputs: int, *, halved: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if halved else []))
