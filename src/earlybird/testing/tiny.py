"""Data set and network of a run of half a second; named by path, as a user's own are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from earlybird.data import DataBundle, MemoryImages

CLASSES = 3


def data() -> DataBundle:
    """Three classes of 8x8 pictures, told apart by their bright colour: 90 to train on, 30 to test on."""

    def split(count: int, seed: int) -> MemoryImages:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 120, (count, 3, 8, 8), generator=draw)
        images[torch.arange(count), labels] += 60
        return MemoryImages(images.to(torch.uint8), labels)

    return DataBundle(
        name="tiny", num_classes=CLASSES, in_channels=3, image_size=8, mean=(0.25,) * 3, std=(0.15,) * 3,
        train=split(90, 0), val=None, test=split(30, 1), class_names=("red", "green", "blue"),
    )  # fmt: skip


def network(num_classes: int) -> nn.Module:
    """A stem, two branches that are added, a convolution behind them, a linear head."""
    return TinyNetwork(num_classes)


class TinyNetwork(nn.Module):
    """Channels of all kinds: free ones (stem, tail) and tied ones (left, right)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 12, 3)
        self.left, self.right = _conv_norm(12, 16, 3), _conv_norm(12, 16, 1)
        self.tail = _conv_norm(16, 10, 3)
        self.head = nn.Linear(10, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, 3, 8, 8] to logits [n, classes]."""
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        x = torch.relu(self.tail(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
