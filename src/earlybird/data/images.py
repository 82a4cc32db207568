"""Images in memory or behind an index, `DataBundle`, their `DataSizes`; draws of order, crops and subsets.

Draws are pure functions of (seed, epoch, sample index) by a counter-based hash (splitmix64: Steele, Lea, Flood 2014),
not by a generator with a state: the draw for a sample never depends on which samples came before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybird.errors import DataError


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Decoded images of one split, all of one size.

    images: uint8 [n, c, h, w], values 0..255, any strides (channels_last saves one copy). labels: int64 [n], 0..K-1.

    Raises:
        DataError: a wrong dtype or shape, no image at all, or a label count that differs from the image count.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            told = f"images must be uint8 [n, c, h, w], not {self.images.dtype} {list(self.images.shape)}"
            raise DataError(f"{told}; scale to 0..255 and convert with .to(torch.uint8)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            told = f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {list(self.labels.shape)}"
            raise DataError(f"{told}; give one class index per image")
        if not len(self.images):
            raise DataError("a split has no images; give at least one per split")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [c, h, w] and its class index."""
        return self.images[index], int(self.labels[index])


class IndexedImages(Protocol):
    """Images that are decoded as they are read: sets too large for memory.

    `labels` is int64 [n]; an item is (uint8 [c, h, w] of any size, class index). An item that cannot be decoded raises
    a `DataError` that names its path. Instances are pickled to data workers.
    """

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [n]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


ImageSet: TypeAlias = MemoryImages | IndexedImages
Moments: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of values scaled to [0, 1]."""


@dataclass(frozen=True)
class IndexedSubset:
    """Images of an indexed set at `indices` (int64 [m]), in that order."""

    source: IndexedImages
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        """Class indices, int64 [m]."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [c, h, w] and its class index."""
        return self.source[int(self.indices[index])]


def subset(images: ImageSet, indices: Tensor) -> ImageSet:
    """Images at `indices` (int64 [m]); a copy for images in memory, a view for indexed ones."""
    if isinstance(images, MemoryImages):
        return MemoryImages(images.images[indices], images.labels[indices])
    return IndexedSubset(images, indices)


@dataclass(frozen=True, eq=False)
class DataBundle:
    """A data set ready for training.

    mean, std: per channel, of pixel values scaled to [0, 1]; they are what a batch is normalised with. image_size:
    height and width of a batch in pixels. val: None unless a validation part was split off or the set brings one.
    class_names[i] names label i.

    Raises:
        DataError: fewer than two classes, or a field disagrees with another (channels, classes, image size, labels).
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSet
    val: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            told = f"data '{self.name}' has {self.num_classes} class, so that every accuracy is 1; give two or more"
            raise DataError(told)
        if len(self.class_names) != self.num_classes:
            told = f"data '{self.name}' names {len(self.class_names)} classes but num_classes is {self.num_classes}"
            raise DataError(f"{told}; give one name per class")
        are_numbers = all(map(math.isfinite, (*self.mean, *self.std)))
        if {len(self.mean), len(self.std)} != {self.in_channels} or not are_numbers or min(self.std) <= 0:
            told = f"data '{self.name}': mean and std must hold {self.in_channels} finite numbers each, std above 0"
            raise DataError(f"{told}, not {self.mean} and {self.std}")
        for split, images in (("train", self.train), ("test", self.test), ("val", self.val)):
            if images is not None:
                self._check_split(split, images)

    def _check_split(self, split: str, images: ImageSet) -> None:
        labels, where = images.labels, f"data '{self.name}': split '{split}'"
        if not len(labels):
            raise DataError(f"{where} has no images; give at least one")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_classes:
            raise DataError(f"{where} has labels {lowest}..{highest}; expected 0..{self.num_classes - 1}")
        expected = (self.in_channels, self.image_size, self.image_size)
        if isinstance(images, MemoryImages) and (found := tuple(images.images.shape[1:])) != expected:
            raise DataError(f"{where} holds images {found}, expected (channels, height, width) = {expected}")


def channel_moments(images: Tensor) -> Moments:
    """Mean and standard deviation per channel of uint8 [n, c, h, w], scaled to [0, 1], rounded to 4 digits.

    From counts of the 256 values: counts are integers, so the result does not depend on the order of summation. A
    constant channel gets std 1, which leaves it at zero after normalisation.
    """
    means, stds = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        histogram = torch.bincount(channel.flatten(), minlength=256)
        weight = histogram.double() / histogram.sum()
        mean = float((weight * values).sum())
        variance = float((weight * (values - mean) ** 2).sum())
        means.append(round(mean, 4))
        stds.append(round(variance**0.5, 4) or 1.0)
    return tuple(means), tuple(stds)


@dataclass(frozen=True)
class DataSizes:
    """Shape of one image (channels, height, width), number of classes, and number of images in each split."""

    image_shape: tuple[int, int, int]
    classes: int
    train_images: int
    val_images: int
    test_images: int

    @classmethod
    def of(cls, bundle: DataBundle) -> DataSizes:
        """Sizes of a data set that is there."""
        shape = (bundle.in_channels, bundle.image_size, bundle.image_size)
        val_images = 0 if bundle.val is None else len(bundle.val)
        return cls(shape, bundle.num_classes, len(bundle.train), val_images, len(bundle.test))

    def split(self, image_size: int | None, train_images: int | None, val_fraction: float) -> DataSizes:
        """Sizes after resizing, keeping only so many training images, and setting a part of them aside.

        Raises:
            DataError: more training images than there are.
        """
        total = self.train_images if train_images is None else train_images
        if total > self.train_images:
            raise DataError(f"train_images is {total} but there are {self.train_images}; give at most that many")
        size, val_images = image_size or self.image_shape[1], round(val_fraction * total)
        shape = (self.image_shape[0], size, size)
        return replace(self, image_shape=shape, train_images=total - val_images, val_images=val_images)


PUBLISHED = {
    "cifar10": DataSizes((3, 32, 32), 10, 50_000, 0, 10_000),
    "cifar100": DataSizes((3, 32, 32), 100, 50_000, 0, 10_000),
    "imagenet": DataSizes((3, 224, 224), 1000, 1_281_167, 0, 50_000),
}
"""Sets whose sizes are known by name; plans ask for no copy of them."""

# One stream per purpose, so that the order says nothing about the crops.
_ORDER, _CROP_Y, _CROP_X, _FLIP, _SAMPLE, _PICK = range(1, 7)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each 64-bit counter; uint64 in, uint64 out, all values equally likely.

    splitmix64(0) is 0xE220A8397B1DCDAF, the first output of the reference generator seeded with 0.
    """
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draws(stream: int, seed: int, epoch: int, indices: range) -> NDArray[np.uint64]:
    """One uint64 per sample index for this purpose, seed and epoch."""
    key = np.zeros(1, dtype=np.uint64)
    # Chained, not added: neighbouring seeds, epochs and streams must not share draws.
    for part in (stream, seed, epoch):
        key = splitmix64(key ^ np.array([part % 2**64], dtype=np.uint64))
    return splitmix64(key ^ splitmix64(np.arange(indices.start, indices.stop, dtype=np.uint64)))


def _below(draws: NDArray[np.uint64], bound: int) -> Tensor:
    """Draws as int64 in 0..bound-1 (bound < 2**31); the bias is below bound / 2**32."""
    return torch.from_numpy((((draws >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64))


def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Order of the samples in this epoch: a permutation, int64 [num_samples]."""
    draws = _draws(_ORDER, seed, epoch, range(num_samples))
    return torch.from_numpy(np.argsort(draws, kind="stable").astype(np.int64))


def crop_offsets(num_samples: int, seed: int, epoch: int, positions: int) -> tuple[Tensor, Tensor]:
    """Top and left corner of each sample's crop, int64 [num_samples] each, in 0..positions-1."""
    top, left = (_draws(stream, seed, epoch, range(num_samples)) for stream in (_CROP_Y, _CROP_X))
    return _below(top, positions), _below(left, positions)


def flips(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Mirroring of each sample in this epoch: bool [num_samples], true with probability 1/2."""
    return _below(_draws(_FLIP, seed, epoch, range(num_samples)), 2).bool()


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed, 0..2**63-1, for a transform that draws from a generator of its own."""
    return int(_draws(_SAMPLE, seed, epoch, range(index, index + 1))[0] >> np.uint64(1))


def stratified_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of `count` samples, rising, each class by its share to within one image; int64 [count].

    labels: int64 [n]. The samples of each class are shuffled; the r-th of m gets the place (r + 1/2) / m, and the
    lowest places of all classes are taken. A pure function of (labels, count, seed).
    """
    classes = labels.numpy()
    draws = _draws(_PICK, seed, 0, range(len(classes)))
    by_class = np.lexsort((draws, classes))
    _, first, sizes = np.unique(classes[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(classes)) - np.repeat(first, sizes)
    place = (rank + 0.5) / np.repeat(sizes, sizes)
    # Equal places (classes of one size) go in the order of the draws, so that no class is favoured.
    taken = by_class[np.lexsort((draws[by_class], place))[:count]]
    return torch.from_numpy(np.sort(taken).astype(np.int64))
