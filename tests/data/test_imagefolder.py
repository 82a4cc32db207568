from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from earlybird.data import MemoryImages, decode, load_data, train_batches
from earlybird.errors import DataError


def write_picture(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for split in ("train", "val"):
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            for i in range(3):
                write_picture(root / split / name / f"{i}.png", colour)
    return root


def load(folder: Path, **settings: int) -> tuple[torch.Tensor, torch.Tensor]:
    bundle = load_data(f"imagefolder:{folder}", cache_dir=str(folder.parent / "cache"), **settings)  # type: ignore[arg-type]
    assert isinstance(bundle.train, MemoryImages)
    return bundle.train.images, bundle.train.labels


def test_equal_pictures_go_into_memory_with_classes_in_alphabetical_order(folder: Path) -> None:
    bundle = load_data(f"imagefolder:{folder}", cache_dir=str(folder.parent / "cache"))
    assert bundle.class_names == ("blue", "red")
    assert (bundle.num_classes, bundle.in_channels, bundle.image_size) == (2, 3, 8)
    assert bundle.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images, _ = load(folder)
    assert images[0, :, 0, 0].tolist() == [0, 0, 255]
    assert images[5, :, 7, 7].tolist() == [255, 0, 0]


def test_a_changed_picture_is_seen_through_the_cache(folder: Path) -> None:
    load(folder)
    write_picture(folder / "train" / "blue" / "0.png", (0, 255, 0))
    assert load(folder)[0][0, :, 0, 0].tolist() == [0, 255, 0]


def test_unequal_pictures_are_resized_where_a_size_is_given(folder: Path) -> None:
    write_picture(folder / "train" / "blue" / "0.png", (0, 0, 255), size=(20, 10))
    images, _ = load(folder, image_size=16)
    assert images.shape == (6, 3, 16, 16)
    assert images[0, :, 8, 8].tolist() == [0, 0, 255]


def test_unequal_pictures_take_the_loader_path_where_none_is_given(folder: Path) -> None:
    write_picture(folder / "train" / "red" / "2.png", (255, 0, 0), size=(20, 10))
    bundle = load_data(f"imagefolder:{folder}", cache_dir=str(folder.parent / "cache"))
    assert not isinstance(bundle.train, MemoryImages)
    assert bundle.image_size == 224
    assert bundle.mean == (0.485, 0.456, 0.406)
    split = load_data(f"imagefolder:{folder}", cache_dir=str(folder.parent / "cache"), val_fraction=0.34)
    assert split.val is not None and sorted(split.val.labels.tolist()) == [0, 1]
    images, labels = next(train_batches(split, batch_size=4, seed=0, augment="imagenet", device="cpu").epoch(0))
    assert images.shape == (4, 3, 224, 224)
    assert sorted(labels.tolist()) == [0, 0, 1, 1]


def test_a_set_above_the_memory_limit_takes_the_loader_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MEMORY_LIMIT_BYTES", 12 * 3 * 8 * 8 - 1)
    bundle = load_data(f"imagefolder:{folder}", cache_dir=str(folder.parent / "cache"))
    assert not isinstance(bundle.train, MemoryImages)
    assert not (folder.parent / "cache").exists()


def break_it(folder: Path, how: str) -> None:
    train = folder / "train"
    if how == "no folder":
        folder.rename(folder.with_name("elsewhere"))
    elif how == "no train":
        train.rename(folder / "training")
    elif how == "no test":
        (folder / "val").rename(folder / "validate")
    elif how == "no classes":
        train.rename(folder / "moved")
        train.mkdir()
    elif how == "empty class":
        for file in (train / "red").iterdir():
            file.unlink()
    elif how == "class in one split":
        (train / "red").rename(train / "green")
    elif how == "truncated":
        file = train / "red" / "1.png"
        file.write_bytes(file.read_bytes()[:40])
    else:
        (train / "red" / "1.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", r"no image folder .*set; give the folder that holds train/"),
        ("no train", r"has no folder train; expected .*set/train/CLASS"),
        ("no test", r"has no folder test or val"),
        ("no classes", r"set/train has no class folders"),
        ("empty class", r"class folder .*train/red holds no picture"),
        ("class in one split", r"different class folders \(green, red\)"),
        ("truncated", r"cannot decode picture .*red/1\.png"),
        ("empty file", r"cannot decode picture .*red/1\.png"),
    ],
)
def test_a_broken_folder_is_named_with_the_cure(folder: Path, how: str, message: str) -> None:
    break_it(folder, how)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
