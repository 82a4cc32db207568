"""VGG11, 13, 16 and 19 for 32x32 images: convolution, BatchNorm and ReLU in a plain chain, one linear at the end.

The networks of You et al. 2020, Section 4 (`docs/method.md` section 3), as network slimming (Liu et al. 2017) laid them
out: five stages of 3x3 convolutions without bias, a 2x2 max pool after each of the first four, a 2x2 average pool after
the last. Nothing is tied in a chain, so every BatchNorm channel may be cut by itself. Names and seeds live in
`catalog.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from earlybird.errors import ModelError

BN_SCALE_AT_START = 0.5  # network slimming's start for the scales of CIFAR nets; 1.0 is PyTorch's
STAGE_CHANNELS = (64, 128, 256, 512, 512)
CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Chain of conv-BN-ReLU for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    `features` holds the five stages, `pool` the closing 2x2 average, `classifier` the one linear layer.

    Raises:
        ModelError: a depth that is not 11, 13, 16 or 19.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if depth not in CONVS_PER_STAGE:
            raise ModelError(f"VGG depth is {depth}; choose one of {', '.join(map(str, CONVS_PER_STAGE))}")
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, (stage_channels, convs) in enumerate(zip(STAGE_CHANNELS, CONVS_PER_STAGE[depth], strict=True)):
            if stage > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convs):
                out_channels = scaled(stage_channels, width)
                layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False))
                layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
                channels = out_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(channels, num_classes)
        self.initialise_()

    def initialise_(self) -> None:
        """Draw new weights at the present widths, which may be a ticket's."""
        init_convs_and_norms_(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, in_channels, 32, 32] to logits [n, num_classes]."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return logits


def scaled(channels: int, width: float) -> int:
    """Channel count times the width multiplier, to the nearest whole channel and never below one."""
    return max(1, round(channels * width))


def init_convs_and_norms_(model: nn.Module) -> None:
    """Draw conv weights from N(0, 2 / (k*k*C_out)) (a variance), set BN scales to 0.5 and shifts to 0, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, BN_SCALE_AT_START)
            nn.init.zeros_(module.bias)
