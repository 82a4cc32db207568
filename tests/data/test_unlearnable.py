"""Data that nothing can be learnt from, or not all, are refused or warned of in one line before any training."""

from __future__ import annotations

import warnings

import pytest
import torch

from earlybird.data import DataBundle, MemoryImages, load_data, train_batches
from earlybird.errors import DataError


def images(labels: list[int], size: int = 4, seed: int = 0) -> MemoryImages:
    pixels = torch.randint(0, 256, (len(labels), 1, size, size), generator=torch.Generator().manual_seed(seed))
    return MemoryImages(pixels.to(torch.uint8), torch.tensor(labels))


def bundle(train: MemoryImages, test: MemoryImages, classes: int = 3) -> DataBundle:
    names = tuple("abcdefgh"[:classes])
    return DataBundle("mine", classes, 1, train.images.shape[2], (0.5,), (0.25,), train, None, test, names)


def test_one_class_is_refused():
    with pytest.raises(DataError, match=r"data 'mine' has 1 class, so that every accuracy is 1; give two or more"):
        bundle(images([0, 0]), images([0]), classes=1)


@pytest.mark.parametrize(
    ("train", "test", "classes", "said"),
    [
        ([0, 1, 0], [0, 1, 2], 3, r"1 of 3 classes \(c\) have no training image; 1 of 3 test images are of these"),
        ([1, 1, 1], [0, 1, 2], 3, r"2 of 3 classes \(a, c\) have no training image; 2 of 3 test images are of these"),
        ([0, 1], [0, 1], 8, r"6 of 8 classes \(c, d, e, \.\.\.\) have no training image; 0 of 2 test images are of"),
    ],
)
def test_classes_without_a_training_image_are_named(monkeypatch, train, test, classes, said):
    monkeypatch.setattr("earlybird.data.catalog.find_callable", lambda *names: lambda: made)
    made = bundle(images(train), images(test), classes)
    with pytest.warns(UserWarning, match=f"data 'mine': {said}"):
        load_data("file.py:made")


def test_images_of_one_pixel_and_images_that_are_all_the_same_are_warned_of(monkeypatch):
    alike = MemoryImages(torch.full((3, 1, 4, 4), 7, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    for made, said in (
        (bundle(images([0, 1, 2], size=1), images([0], size=1)), "in images of 1x1 pixels no convolution sees a neigh"),
        (bundle(alike, images([0, 1])), "all training images are the same: nothing tells their classes apart"),
    ):
        monkeypatch.setattr("earlybird.data.catalog.find_callable", lambda *names, made=made: lambda: made)
        with pytest.warns(UserWarning, match=said):
            load_data("file.py:made")


def test_data_that_can_be_learnt_are_not_warned_of(monkeypatch):
    made = bundle(images([0, 1, 2, 0]), images([0, 1, 2]))
    monkeypatch.setattr("earlybird.data.catalog.find_callable", lambda *names: lambda: made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = train_batches(load_data("file.py:made"), batch_size=4, seed=0, augment="none", device="cpu")
    assert batches.num_samples == 4


def test_a_training_set_smaller_than_a_batch_is_warned_of():
    with pytest.warns(UserWarning, match="batch_size 128 is more than the 3 training images: an epoch is one step"):
        train_batches(bundle(images([0, 1, 2]), images([0])), batch_size=128, seed=0, augment="none", device="cpu")


def test_chance_is_the_share_of_the_commonest_class():
    made = bundle(images([0, 0, 0, 1]), images([0]))
    assert train_batches(made, batch_size=2, seed=0, augment="none", device="cpu").chance == 0.75
