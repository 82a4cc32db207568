"""Sizes of data sets: of a bundle, and of the published sets that nobody needs to have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from earlybird.data import DataBundle, MemoryImages
from earlybird.data.images import PUBLISHED, DataSizes
from earlybird.errors import DataError
from earlybird.runs.run import data_sizes
from earlybird.settings.run import DataConfig


def images(count: int) -> MemoryImages:
    return MemoryImages(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count) % 2)


def test_sizes_of_a_bundle_are_counted():
    bundle = DataBundle("grey", 2, 1, 8, (0.5,), (0.5,), images(6), None, images(4), ("a", "b"))
    assert DataSizes.of(bundle) == DataSizes((1, 8, 8), 2, train_images=6, val_images=0, test_images=4)
    assert DataSizes.of(replace(bundle, val=images(3))).val_images == 3


def test_a_published_set_is_split_as_the_images_would_be():
    plan = data_sizes(DataConfig("cifar10", root="nowhere", train_images=1000, val_fraction=0.1, image_size=64))
    assert plan == DataSizes((3, 64, 64), 10, train_images=900, val_images=100, test_images=10_000)
    assert data_sizes(DataConfig("imagenet")) == PUBLISHED["imagenet"]


def test_more_training_images_than_there_are_are_refused():
    with pytest.raises(DataError, match="train_images is 50001 but there are 50000; give at most that many"):
        data_sizes(DataConfig("cifar100", train_images=50_001))
