"""Sizes of a data set, as plans need them; those of well-known sets are published here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from earlybird.data.images import DataBundle
from earlybird.errors import DataError


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
