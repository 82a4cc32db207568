"""Batches for training and evaluation: `train_batches` and `eval_batches`.

Images in memory are cropped, flipped and normalised on the device, in whole batches; others, and the ImageNet
augmentation, whose crops differ in size, go through a DataLoader with torchvision's transforms.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_convert

from earlybird.data.images import DataBundle, ImageSet, MemoryImages, crop_offsets, epoch_order, flips, sample_seed
from earlybird.errors import DataError

Augment = Literal["crop_flip", "flip", "none", "imagenet"]
"""crop_flip: pad 4, random crop, mirror (CIFAR). imagenet: random resized crop, mirror. flip: mirror only."""

PADDING = 4
"""Zero pixels added on each side before a crop (He et al. 2016, Section 4.2; the paper's CIFAR protocol)."""

Transform: TypeAlias = Callable[[Tensor], Any]
_Batch: TypeAlias = "tuple[Tensor, Tensor] | DataError"


def train_batches(
    bundle: DataBundle,
    *,
    batch_size: int,
    seed: int,
    augment: Augment,
    device: torch.device | str,
    workers: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Batches:
    """Shuffled, augmented batches of the training images.

    batch_size >= 1. workers >= 0 processes decode pictures; images in memory are augmented on the device and need none.

    Raises:
        DataError: a setting out of range.

    Warns:
        UserWarning: a batch holds more images than there are.

    Example:
        >>> batches = train_batches(bundle, batch_size=128, seed=0, augment="crop_flip", device="cpu")  # doctest: +SKIP
        >>> for images, labels in batches.epoch(0): ...  # doctest: +SKIP
    """
    if augment not in get_args(Augment):
        raise DataError(f"unknown augmentation '{augment}'; choose one of {', '.join(get_args(Augment))}")
    normalise = _normalise(bundle, batch_size, workers, memory_format, device)
    if batch_size > len(bundle.train):
        told = f"batch_size {batch_size} is more than the {len(bundle.train)} training images: an epoch is one step"
        warnings.warn(told, stacklevel=2)
    if isinstance(bundle.train, MemoryImages) and augment != "imagenet":
        return MemoryBatches(bundle.train, normalise, batch_size, augment=augment, seed=seed)
    transforms = train_transforms(augment, bundle.image_size)
    return LoaderBatches(bundle.train, normalise, batch_size, transforms=transforms, workers=workers, seed=seed)


def eval_batches(
    bundle: DataBundle,
    split: Literal["train", "val", "test"],
    *,
    batch_size: int,
    device: torch.device | str,
    workers: int = 0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Batches:
    """Batches of one split in stored order, without augmentation; every epoch is the same.

    Raises:
        DataError: an unknown split, a split the bundle does not have, or a setting out of range.
    """
    if split not in ("train", "val", "test"):
        raise DataError(f"unknown split '{split}'; choose one of train, val, test")
    images = {"train": bundle.train, "val": bundle.val, "test": bundle.test}[split]
    if images is None:
        raise DataError(f"data '{bundle.name}' has no validation split; set --data.val_fraction above 0, such as 0.1")
    normalise = _normalise(bundle, batch_size, workers, memory_format, device)
    if isinstance(images, MemoryImages):
        return MemoryBatches(images, normalise, batch_size)
    return LoaderBatches(images, normalise, batch_size, transforms=eval_transforms(bundle.image_size), workers=workers)


def _normalise(
    bundle: DataBundle, batch_size: int, workers: int, memory_format: torch.memory_format, device: torch.device | str
) -> Normalise:
    """Normalisation of a batch, once the settings are checked."""
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size is {batch_size} and workers is {workers}; expected batch_size >= 1, workers >= 0")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise DataError(f"memory_format is {memory_format}; expected torch.contiguous_format or torch.channels_last")
    return Normalise(bundle.mean, bundle.std, memory_format, torch.device(device))


class Batches(ABC):
    """An epoch's batches, addressed by number.

    Order and augmentation are pure functions of (seed, epoch, sample index): batch size, device, worker count, starting
    step and the global random generators change nothing about a sample, and iterating leaves the generators as found.
    """

    def __init__(self, images: ImageSet, normalise: Normalise, batch_size: int, seed: int | None) -> None:
        """Seed None keeps the stored order (evaluation); a number shuffles each epoch anew."""
        self.num_samples = len(images)
        # Accuracy of always naming the commonest class, in (0, 1].
        self.chance = float(images.labels.bincount().max()) / len(images)
        self.batch_size = batch_size
        self._normalise = normalise
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
            told = f"no batch at epoch {epoch}, step {start_step}; epochs start at 0 and an epoch has {steps} steps"
            raise DataError(told)
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
    """Batches of `MemoryImages`; the same for every batch size, starting step and device.

    A batch of 128 CIFAR images takes about a millisecond on one CPU core. Images are kept as uint8 [n, h, w, c]: one
    image is one run of bytes, a crop is a few long copies, and the conversion to float is one fused multiply-add.
    """

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
        super().__init__(images, normalise, batch_size, seed)
        self._augment = augment
        self._images = images.images.permute(0, 2, 3, 1).contiguous().to(normalise.device)
        self._labels = images.labels.to(normalise.device)

    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        n, seed, drawn = self.num_samples, self._seed or 0, [order]
        if self._augment != "none":
            drawn.append(flips(n, seed, epoch)[order])
        if self._augment == "crop_flip":
            drawn += [corner[order] for corner in crop_offsets(n, seed, epoch, 2 * PADDING + 1)]
        # One transfer an epoch; from here on nothing makes the host wait for the device, or the device for the host.
        on_device = _to_device(torch.stack(drawn), self._images.device)
        for start in range(0, len(order), self.batch_size):
            index, *moved = on_device[:, start : start + self.batch_size]
            # index_select copies whole images; images[index] goes element by element.
            images = self._images.flatten(1).index_select(0, index).view(-1, *self._images.shape[1:])
            if self._augment == "crop_flip":
                images = crop(images, moved[1], moved[2])
            if self._augment != "none":
                images = flip(images, moved[0].bool())
            yield self._normalise(images), self._labels[index]


def _to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy, without waiting for it on a GPU."""
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def eval_transforms(image_size: int) -> list[Transform]:
    """ImageNet validation protocol: shorter side to image_size * 256 / 224, centre crop of image_size."""
    from torchvision.transforms import v2  # here, because importing it takes a second

    return [v2.Resize(round(image_size * 256 / 224), antialias=True), v2.CenterCrop(image_size)]


def train_transforms(augment: Augment, image_size: int) -> list[Transform]:
    """Augmentation of uint8 [c, h, w] to [c, image_size, image_size], drawn from the global generator."""
    from torchvision.transforms import v2

    if augment == "imagenet":
        return [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    steps: list[Transform] = [v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)]
    if augment == "crop_flip":
        steps.append(v2.RandomCrop(image_size, padding=PADDING))
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    return steps


@dataclass(frozen=True, eq=False)
class _Samples(Dataset[_Batch]):
    """Decodes and transforms a list of samples into one uint8 batch; runs in the data workers."""

    images: ImageSet
    transforms: Sequence[Transform]
    seed: int
    epoch: int

    def __getitems__(self, indices: list[int]) -> _Batch:
        """Batch of uint8 [b, c, h, w] and int64 [b]; a picture that cannot be decoded is returned as its error.

        An error that a worker *raises* reaches the user with the worker's traceback pasted into its one line.
        """
        state = torch.get_rng_state()
        try:
            samples = [self._sample(index) for index in indices]
        except DataError as error:
            return error
        finally:
            torch.set_rng_state(state)
        return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])

    def _sample(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        # torch.manual_seed would also reseed the accelerators, which the network's dropout draws from.
        torch.default_generator.manual_seed(sample_seed(self.seed, self.epoch, index))
        for transform in self.transforms:
            image = transform(image)
        return image, label


class LoaderBatches(Batches):
    """Batches through a DataLoader; the same for every batch size, starting step and worker count."""

    def __init__(
        self,
        images: ImageSet,
        normalise: Normalise,
        batch_size: int,
        *,
        transforms: Sequence[Transform],
        workers: int,
        seed: int | None = None,
    ) -> None:
        super().__init__(images, normalise, batch_size, seed)
        self._images = images
        self._transforms = transforms
        self._workers = workers

    def _batches(self, order: Tensor, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = self._normalise.device
        loader = DataLoader(
            _Samples(self._images, self._transforms, self._seed or 0, epoch),
            batch_sampler=BatchSampler(order.tolist(), self.batch_size, drop_last=False),
            num_workers=self._workers,
            collate_fn=default_convert,  # a batch stays as it is
            pin_memory=device.type == "cuda" and self._workers > 0,
            generator=torch.Generator(),  # DataLoader would otherwise draw from the global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            yield self._normalise(images.permute(0, 2, 3, 1)), labels
