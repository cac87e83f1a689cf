"""LeNet for 28 x 28 images, with the layer names of the original's MNIST checkpoints."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LeNet(nn.Module):
    """conv 20, conv 50, fc 500, fc: the network that MACER and its successors use on MNIST.

    Args:
        num_classes: number of logits.
        channels: channels of the images.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Float[Tensor, "batch channels 28 28"]) -> Float[Tensor, "batch classes"]:
        # Pooling before the rectifier gives the same result, for a quarter of the work.
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
