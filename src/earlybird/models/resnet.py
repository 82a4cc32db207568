"""ResNet18 for 32x32 images: torchvision's basic blocks behind a 3x3 stem without pooling (`docs/method.md` section 3).

The ImageNet forms are torchvision's own: `torchvision:resnet18`, `torchvision:resnet50`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from earlybird.errors import ModelError
from earlybird.models.vgg import init_convs_and_norms_, scaled

STAGE_CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """Post-activation ResNet for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    Raises:
        ModelError: a depth that is not 18 or 34.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ModelError(f"ResNet depth is {depth}; choose one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        channels = scaled(STAGE_CHANNELS[0], width)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for stage, (wide, blocks) in enumerate(zip(STAGE_CHANNELS, BLOCKS_PER_STAGE[depth], strict=True)):
            out_channels = scaled(wide, width)
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            inputs = [channels] + [out_channels] * (blocks - 1)
            stages.append(nn.Sequential(*map(BasicBlock, inputs, [out_channels] * blocks, strides)))
            channels = out_channels
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, num_classes)
        self.initialise_()

    def initialise_(self) -> None:
        """Draw new weights at the present widths: conv N(0, 2 / (k*k*C_out)), scales 0.5, shifts 0."""
        init_convs_and_norms_(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, in_channels, 32, 32] to logits [n, num_classes]."""
        x = self.layers(functional.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: the input, or a 1x1 convolution with norm if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, in_channels, h, w] to [n, out_channels, h / stride, w / stride]."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))
