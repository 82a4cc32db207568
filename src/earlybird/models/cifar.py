"""The networks for 32x32 images of `docs/method.md` section 3: VGG, ResNet and PreResNet; seeds live in `catalog.py`.

The ImageNet forms are torchvision's own: `torchvision:resnet18`, `torchvision:resnet50`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional

from earlybird.errors import ModelError

WHOLE_SIDE = 32  # of the images that the closing pools are made for
BN_SCALE_AT_START = 0.5  # network slimming's start for the scales of CIFAR nets; 1.0 is PyTorch's

VGG_STAGE_CHANNELS = (64, 128, 256, 512, 512)
CONVS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

RESNET_STAGE_CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

PRERESNET_STEM_CHANNELS = 16
PRERESNET_STAGE_PLANES = (16, 32, 64)
EXPANSION = 4  # a block writes four times as many channels as its 3x3 convolution has


class VGG(nn.Module):
    """Chain of conv-BN-ReLU for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    `features` holds the five stages as network slimming (Liu et al. 2017) laid them out, with a 2x2 max pool after each
    of the first four; `pool` is the closing 2x2 average (of smaller images, the average of what is left), `classifier`
    the one linear layer. Nothing is tied in a chain, so every BatchNorm channel may be cut by itself.

    Raises:
        ModelError: a depth that is not 11, 13, 16 or 19.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if depth not in CONVS_PER_STAGE:
            raise ModelError(f"VGG depth is {depth}; choose one of {', '.join(map(str, CONVS_PER_STAGE))}")
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, (stage_channels, convs) in enumerate(zip(VGG_STAGE_CHANNELS, CONVS_PER_STAGE[depth], strict=True)):
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
        logits: Tensor = self.classifier(torch.flatten(_pool_for(x, self.pool)(self.features(x)), 1))
        return logits


class ResNet(nn.Module):
    """Basic blocks behind a 3x3 stem, no pooling, for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    Raises:
        ModelError: a depth that is not 18 or 34.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ModelError(f"ResNet depth is {depth}; choose one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        channels = scaled(RESNET_STAGE_CHANNELS[0], width)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for stage, (wide, blocks) in enumerate(zip(RESNET_STAGE_CHANNELS, BLOCKS_PER_STAGE[depth], strict=True)):
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
    """Pre-activation ResNet of `depth` = 9n+2 for [n, in_channels, 32, 32] images, giving [n, num_classes] logits.

    He et al. 2016b: three stages of n blocks. The stream that the adds build is never normalised, only its readers are:
    this is what makes channel selection (policy `select`) the way to cut it.

    Raises:
        ModelError: a depth that is not 9n+2 for some n >= 1.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 2, 9)
        if remainder or blocks < 1:
            raise ModelError(f"PreResNet depth is {depth}; bottleneck nets have depth 9n+2, such as 20, 29, 56 or 101")
        stem = scaled(PRERESNET_STEM_CHANNELS, width)
        planes = [scaled(channels, width) for channels in PRERESNET_STAGE_PLANES]
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
        pool = _pool_for(x, self.pool)
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(torch.flatten(pool(self.relu(self.bn(x))), 1))
        return logits


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBottleneck(in_channels, planes, stride, downsample=True)
    rest = [PreActBottleneck(planes * EXPANSION, planes, 1, downsample=False) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _pool_for(images: Tensor | Proxy, pool: nn.AvgPool2d) -> Callable[[Tensor], Tensor]:
    """The closing pool; of smaller images, whose last map its window does not fit, the mean over the map.

    What is traced is the network for whole images: a trace cannot ask for their side.
    """
    return pool if isinstance(images, Proxy) or images.shape[-1] >= WHOLE_SIDE else _mean_of_map


def _mean_of_map(x: Tensor) -> Tensor:
    """Mean [n, c, 1, 1] over the positions of a map [n, c, h, w]."""
    return x.mean((2, 3), keepdim=True)


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
