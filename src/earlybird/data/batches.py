"""Batches for training and evaluation: `train_batches` and `eval_batches`."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from earlybird.data.images import DataBundle, MemoryImages
from earlybird.data.loader_batches import LoaderBatches, eval_transforms, train_transforms
from earlybird.data.memory_batches import Batches, MemoryBatches, Normalise
from earlybird.errors import DataError

Augment = Literal["crop_flip", "flip", "none", "imagenet"]
"""crop_flip: pad 4, random crop, mirror (CIFAR). imagenet: random resized crop, mirror. flip: mirror only."""


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

    Example:
        >>> batches = train_batches(bundle, batch_size=128, seed=0, augment="crop_flip", device="cpu")  # doctest: +SKIP
        >>> for images, labels in batches.epoch(0): ...  # doctest: +SKIP
    """
    if augment not in get_args(Augment):
        raise DataError(f"unknown augmentation '{augment}'; choose one of {', '.join(get_args(Augment))}")
    normalise = _normalise(bundle, batch_size, workers, memory_format, device)
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
