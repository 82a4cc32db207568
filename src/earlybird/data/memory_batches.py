"""`Batches`, and those of images in memory: crop, flip and normalise whole batches on the device.

The per-sample path costs Python calls per image; here a batch of 128 CIFAR images takes about a millisecond on one CPU
core. Images are kept as uint8 [n, h, w, c]: one image is one run of bytes, a crop is a few long copies, and the
conversion to float is one fused multiply-add.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from earlybird.data.images import MemoryImages
from earlybird.data.randomness import crop_offsets, epoch_order, flips
from earlybird.errors import DataError

PADDING = 4
"""Zero pixels added on each side before a crop (He et al. 2016, Section 4.2; the paper's CIFAR protocol)."""


class Batches(ABC):
    """An epoch's batches, addressed by number.

    Order and augmentation are pure functions of (seed, epoch, sample index): batch size, device, worker count, starting
    step and the global random generators change nothing about a sample, and iterating leaves the generators as found.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int | None) -> None:
        """Seed None keeps the stored order (evaluation); a number shuffles each epoch anew."""
        self.num_samples = num_samples
        self.batch_size = batch_size
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last, smaller one is kept."""
        return -(-self.num_samples // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number start_step, start_step + 1, ... of the epoch, the same as if iterated from 0.

        Each is float32 [b, c, h, w], normalised, and int64 [b], both on the device.

        Raises:
            DataError: epoch below 0, start_step outside 0..steps_per_epoch, or (while iterating) a corrupt picture.
        """
        steps = self.steps_per_epoch
        if epoch < 0 or not 0 <= start_step <= steps:
            raise DataError(
                f"no batch at epoch {epoch}, step {start_step}; epochs start at 0 and an epoch has {steps} steps"
            )
        n = self.num_samples
        order = torch.arange(n) if self._seed is None else epoch_order(n, self._seed, epoch)
        return self._batches(order[start_step * self.batch_size :], epoch)

    @abstractmethod
    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the samples int64 [m] in this order."""


class Normalise:
    """Turns uint8 [b, h, w, c] into float32 [b, c, h, w] = (x / 255 - mean) / std in a memory format."""

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], memory_format: torch.memory_format, device: torch.device
    ) -> None:
        """mean, std: per channel, of values scaled to [0, 1]; std above 0."""
        self.device = device
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


class MemoryBatches(Batches):
    """Batches of `MemoryImages`; the same for every batch size, starting step and device."""

    def __init__(
        self,
        images: MemoryImages,
        normalise: Normalise,
        batch_size: int,
        *,
        augment: Literal["crop_flip", "flip", "none"] = "none",
        seed: int | None = None,
    ) -> None:
        """An augmentation needs a seed."""
        super().__init__(len(images), batch_size, seed)
        self._normalise = normalise
        self._augment = augment
        self._images = images.images.permute(0, 2, 3, 1).contiguous().to(normalise.device)
        self._labels = images.labels.to(normalise.device)

    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        n, seed, device = self.num_samples, self._seed or 0, self._images.device
        order = order.to(device)
        if self._augment == "crop_flip":
            top, left = (corner.to(device) for corner in crop_offsets(n, seed, epoch, 2 * PADDING + 1))
        if self._augment != "none":
            flipped = flips(n, seed, epoch).to(device)
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            # index_select copies whole images; images[index] goes element by element.
            images = self._images.flatten(1).index_select(0, index).view(-1, *self._images.shape[1:])
            if self._augment == "crop_flip":
                images = crop(images, top[index], left[index])
            if self._augment != "none":
                images = flip(images, flipped[index])
            yield self._normalise(images), self._labels[index]
