"""Pre-activation bottleneck ResNets of depth 9n+2 for 32x32 images (He et al. 2016b), PreResNet101 among them.

`docs/method.md` section 3: a 3x3 stem of 16 channels, three stages of n blocks (16-64, 32-128, 64-256 channels), a
closing BN-ReLU, average pool and linear. The stream that the adds build is never normalised, only its readers are: this
is what makes channel selection (policy `select`) the way to cut it. Names and seeds live in `catalog.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from earlybird.errors import ModelError
from earlybird.models.vgg import init_convs_and_norms_, scaled

STEM_CHANNELS = 16
STAGE_PLANES = (16, 32, 64)
EXPANSION = 4  # a block writes four times as many channels as its 3x3 convolution has


class PreActBottleneck(nn.Module):
    """Bottleneck block, x + conv1x1(conv3x3(conv1x1(x))), with BN-ReLU before each convolution.

    [n, c, h, w] becomes [n, 4 * planes, h / stride, w / stride]. The first block of a stage (`downsample=True`) adds a
    strided 1x1 convolution of the raw stream instead of x.
    """

    def __init__(self, in_channels: int, planes: int, stride: int, downsample: bool) -> None:
        super().__init__()
        out_channels = planes * EXPANSION
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if downsample:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the stream [n, in_channels, h, w] to the stream after this block."""
        out: Tensor = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.conv3(self.relu(self.bn3(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = out + shortcut
        return y


class PreResNet(nn.Module):
    """PreResNet of `depth` = 9n+2 for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    Raises:
        ModelError: a depth that is not 9n+2 for some n >= 1.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 9)
        if remainder or blocks < 1:
            raise ModelError(f"PreResNet depth is {depth}; bottleneck nets have depth 9n+2, such as 20, 29, 56 or 101")
        stem = scaled(STEM_CHANNELS, width)
        planes = [scaled(channels, width) for channels in STAGE_PLANES]
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.layer1 = _stage(stem, planes[0], blocks, stride=1)
        self.layer2 = _stage(planes[0] * EXPANSION, planes[1], blocks, stride=2)
        self.layer3 = _stage(planes[1] * EXPANSION, planes[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(planes[2] * EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(8)
        self.fc = nn.Linear(planes[2] * EXPANSION, num_classes)  # PyTorch's own initialisation, as the authors left it
        init_convs_and_norms_(self)

    def initialise_(self) -> None:
        """Draw new weights at the present widths, which may be a ticket's."""
        init_convs_and_norms_(self)
        self.fc.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, in_channels, 32, 32] to logits [n, num_classes]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(self.pool(self.relu(self.bn(x))), 1))
        return logits


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBottleneck(in_channels, planes, stride, downsample=True)
    rest = [PreActBottleneck(planes * EXPANSION, planes, 1, downsample=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
