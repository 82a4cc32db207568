"""Sizes of data sets: of a bundle, and of the published sets that nobody needs to have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from earlybird.data import DataBundle, MemoryImages, decode
from earlybird.data.images import PUBLISHED, DataSizes
from earlybird.errors import DataError
from earlybird.runs.inputs import data_sizes, load_bundle
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


@pytest.mark.parametrize("odd", [None, (8, 4), (16, 16)])
@pytest.mark.parametrize("settings", [{}, {"image_size": 16}, {"train_images": 6, "val_fraction": 0.5}])
def test_sizes_of_a_folder_are_those_of_a_run_and_decode_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: tuple[int, int] | None, settings: dict[str, Any]
):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for place in range(4):
                size = odd if odd and (split, name, place) == ("test", "dog", 3) else (8, 8)
                Image.new("RGB", size, (place, 0, 0)).save(tmp_path / "set" / split / name / f"{place}.png")
    data = DataConfig(f"imagefolder:{tmp_path / 'set'}", cache=str(tmp_path / "cache"), **settings)
    run = DataSizes.of(load_bundle(data, seed=0))
    decoded: list[str] = []
    original = decode.open_picture
    monkeypatch.setattr(decode, "open_picture", lambda *a: decoded.append(str(a[0])) or original(*a))
    assert data_sizes(data) == run
    assert {Path(name).name for name in decoded} == {"0.png"}  # the first one, whose channels are asked for


def test_the_headers_of_a_bounded_sample_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for place in range(20):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{place:02}.png")
    monkeypatch.setattr(decode, "_HEADERS", 10)
    opened: list[str] = []
    original = decode._opened
    monkeypatch.setattr(decode, "_opened", lambda *a: opened.append(str(a[0])) or original(*a))
    assert data_sizes(DataConfig(f"imagefolder:{tmp_path}")).image_shape == (3, 8, 8)
    assert 10 <= len(opened) <= 20
    (tmp_path / "train" / "cat" / "08.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cannot decode picture .*08\.png"):
        data_sizes(DataConfig(f"imagefolder:{tmp_path}"))
