"""Batches from images in memory: crop, flip and normalise whole batches on the device.

The per-sample path costs Python calls per image; here a batch of 128 CIFAR images takes about a millisecond on one CPU
core. Images are kept as uint8 [n, h, w, c]: one image is one run of bytes, a crop is a few long copies, and the
conversion to float is one fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from earlybird.data.images import MemoryImages
from earlybird.data.randomness import crop_offsets, epoch_order, flips
from earlybird.errors import DataError

PADDING = 4
"""Zero pixels added on each side before a crop (He et al. 2016, Section 4.2; the paper's CIFAR protocol)."""

MemoryAugment = Literal["crop_flip", "flip", "none"]


class Normalise:
    """Turns uint8 [b, h, w, c] into float32 [b, c, h, w] = (x / 255 - mean) / std in a memory format."""

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], memory_format: torch.memory_format, device: torch.device
    ) -> None:
        """mean, std: per channel, of values scaled to [0, 1]; std above 0."""
        spread = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * spread)).float().to(device)
        self._shift = (-torch.tensor(mean, dtype=torch.float64) / spread).float().to(device)
        self._channels_last = memory_format == torch.channels_last

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images, float32 [b, c, h, w]."""
        b, h, w, c = images.shape
        if self._channels_last:
            # Rows of w*c numbers vectorise; a last dimension of 3 takes 6 times as long.
            rows = images.reshape(b, h, w * c)
            flat = torch.addcmul(self._shift.repeat(w), rows.float(), self._scale.repeat(w))
            return flat.view(b, h, w, c).permute(0, 3, 1, 2)
        planes = images.permute(0, 3, 1, 2).contiguous()  # while a pixel is still one byte
        return torch.addcmul(self._shift.view(c, 1, 1), planes.float(), self._scale.view(c, 1, 1))


def crop(images: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Crops of the zero-padded images at the given corners; uint8 [b, h, w, c] to the same shape.

    top, left: int64 [b] in 0..2*PADDING; PADDING leaves the image where it is.
    """
    b, h, w, c = images.shape
    padded = functional.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    row = (w + 2 * PADDING) * c
    steps = 2 * PADDING + 1
    # windows[i, y, x] is the crop of image i at (y, x): no copy, overlapping strides.
    windows = padded.as_strided((b, steps, steps, h, w * c), (padded.stride(0), row, c, row, 1))
    return windows[torch.arange(b, device=images.device), top, left].view(b, h, w, c)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images [b, h, w, c] left to right, those with `flipped` (bool [b]) true."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(2), images)


@dataclass(frozen=True)
class _Plan:
    """Draws of one epoch by sample index, on the device; None if nothing is drawn."""

    order: Tensor
    corners: tuple[Tensor, Tensor] | None
    flipped: Tensor | None


class MemoryBatches:
    """Batches of `MemoryImages`; the same for every batch size, starting step and device (see `Batches`)."""

    def __init__(
        self,
        images: MemoryImages,
        normalise: Normalise,
        *,
        batch_size: int,
        device: torch.device,
        augment: MemoryAugment = "none",
        seed: int | None = None,
    ) -> None:
        """Seed None keeps the stored order (evaluation); a number shuffles each epoch anew."""
        self.num_samples = len(images)
        self.batch_size = batch_size
        self._normalise = normalise
        self._augment = augment
        self._seed = seed
        self._images = images.images.permute(0, 2, 3, 1).contiguous().to(device)
        self._labels = images.labels.to(device)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return -(-self.num_samples // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number start_step.. of this epoch: float32 [b, c, h, w] normalised, int64 [b].

        Raises:
            DataError: epoch below 0, or start_step outside 0..steps_per_epoch.
        """
        check_position(epoch, start_step, self.steps_per_epoch)
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        plan = self._plan(epoch)
        for start in range(start_step * self.batch_size, self.num_samples, self.batch_size):
            index = plan.order[start : start + self.batch_size]
            # index_select copies whole images; images[index] goes element by element.
            images = self._images.flatten(1).index_select(0, index).view(-1, *self._images.shape[1:])
            if plan.corners is not None:
                images = crop(images, plan.corners[0][index], plan.corners[1][index])
            if plan.flipped is not None:
                images = flip(images, plan.flipped[index])
            yield self._normalise(images), self._labels[index]

    def _plan(self, epoch: int) -> _Plan:
        n, device = self.num_samples, self._images.device
        if self._seed is None:
            return _Plan(torch.arange(n, device=device), None, None)
        order = epoch_order(n, self._seed, epoch).to(device)
        corners = None
        if self._augment == "crop_flip":
            top, left = crop_offsets(n, self._seed, epoch, 2 * PADDING + 1)
            corners = (top.to(device), left.to(device))
        flipped = None if self._augment == "none" else flips(n, self._seed, epoch).to(device)
        return _Plan(order, corners, flipped)


def check_position(epoch: int, start_step: int, steps_per_epoch: int) -> None:
    """Raise if no epoch has this position.

    Raises:
        DataError: epoch below 0, or start_step outside 0..steps_per_epoch (equal: nothing is left).
    """
    if epoch < 0 or not 0 <= start_step <= steps_per_epoch:
        raise DataError(
            f"no batch at epoch {epoch}, step {start_step}; epochs start at 0 and an epoch has {steps_per_epoch} steps"
        )
