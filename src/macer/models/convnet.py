"""A small convolutional network for very small images, such as the 8 x 8 digits."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two 3 x 3 convolutions, one pooling, two fully connected layers.

    Args:
        num_classes: number of logits.
        channels: channels of the images.
        size: height and width of the images, an even number.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * (size // 2) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
