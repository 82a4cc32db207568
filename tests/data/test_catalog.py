from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybird.data import DataBundle, MemoryImages, load_data, train_batches
from earlybird.data.catalog import every_nth_of_class
from earlybird.errors import DataError


@pytest.fixture(scope="module")
def digits() -> DataBundle:
    pytest.importorskip("sklearn")
    return load_data("digits")


def in_memory(images: object) -> MemoryImages:
    assert isinstance(images, MemoryImages)
    return images


def test_digits_are_32_pixels_grey_and_split_by_class(digits: DataBundle) -> None:
    assert (digits.num_classes, digits.in_channels, digits.image_size) == (10, 1, 32)
    assert digits.class_names == tuple("0123456789")
    assert len(digits.train) + len(digits.test) == 1797
    assert len(digits.test) == 355
    shares = digits.test.labels.bincount() / torch.cat([digits.train.labels, digits.test.labels]).bincount()
    assert shares.min() > 0.19 and shares.max() <= 0.2
    images = in_memory(digits.train).images
    assert int(images.min()) == 0 and int(images.max()) == 255  # 16 of 16 is white


def test_digits_at_their_own_size_are_the_stored_values() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    small = load_data("digits", image_size=8)
    first = torch.from_numpy(sklearn.load_digits().images[0])  # the first digit is a training image
    assert torch.equal(in_memory(small.train).images[0, 0], (first * 255 / 16).round().to(torch.uint8))


def test_every_nth_of_class_by_hand() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1])
    assert every_nth_of_class(labels, 2).tolist() == [False, False, True, True, False, True, False]


def test_validation_split_is_stratified_disjoint_and_chosen_by_the_seed(digits: DataBundle) -> None:
    a, again, other = (load_data("digits", val_fraction=0.1, seed=seed) for seed in (1, 1, 2))
    assert a.val is not None and again.val is not None and other.val is not None
    assert len(a.val) == round(0.1 * len(digits.train)) == 144
    assert len(a.train) + len(a.val) == len(digits.train)
    assert set(a.val.labels.bincount().tolist()) <= {14, 15}
    assert torch.equal(in_memory(a.val).images, in_memory(again.val).images)
    assert not torch.equal(in_memory(a.val).images, in_memory(other.val).images)
    total = in_memory(digits.train).images.long().sum()
    assert in_memory(a.train).images.long().sum() + in_memory(a.val).images.long().sum() == total
    assert (a.mean, a.std) == (digits.mean, digits.std)


def test_training_subset_is_the_same_for_every_seed() -> None:
    a, b = (load_data("digits", train_images=100, seed=seed) for seed in (1, 2))
    assert len(a.train) == 100
    assert set(a.train.labels.bincount().tolist()) <= {9, 10, 11}
    assert torch.equal(in_memory(a.train).images, in_memory(b.train).images)
    with_val = load_data("digits", train_images=100, val_fraction=0.2)
    assert with_val.val is not None
    assert (len(with_val.train), len(with_val.val)) == (80, 20)


def test_digits_train_end_to_end(digits: DataBundle) -> None:
    batches = train_batches(digits, batch_size=64, seed=0, augment="crop_flip", device="cpu")
    images, labels = next(batches.epoch(0))
    assert images.shape == (64, 1, 32, 32)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10", r"unknown data 'cifar-10'; did you mean 'cifar10'\? expected digits, cifar10, cifar100, hf:NAME"),
        ("zzz", "unknown data 'zzz'; expected digits"),
        ("imagefolder:", "ends at the colon"),
        ("no_such_module_here:make", "importing 'no_such_module_here' raised ModuleNotFoundError"),
        ("no_such_file.py:make", "no file 'no_such_file.py'"),
        ("math:no_such", "there is no 'no_such' in it"),
        ("time:time", r"time\(\) returned float; it must return a DataBundle"),
    ],
)
def test_a_wrong_name_says_what_is_legal(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction is 1.0; expected 0 <= val_fraction < 1"),
        ({"val_fraction": -0.1}, "val_fraction is -0.1"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"val_fraction": 1e-6}, "leaves 0 for validation"),
        ({"image_size": 0}, "image_size is 0"),
        ({"train_images": 0}, "train_images is 0"),
        ({"train_images": 10_000}, "train_images is 10000 but data 'digits' has 1442"),
    ],
)
def test_a_wrong_setting_names_the_value_and_the_cure(settings: dict[str, float], message: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match=message):
        load_data("digits", **settings)  # type: ignore[arg-type]


def test_missing_cifar_names_the_path_and_both_cures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data\.download true.*--data\.root") as caught:
        load_data("cifar10", root=str(tmp_path))
    assert str(tmp_path / "cifar-10-batches-py") in str(caught.value)


def test_damaged_cifar_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}))
    with pytest.raises(DataError, match="damaged.*--data.download true"):
        load_data("cifar100", root=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_cifar_through_torchvision_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"stands for the real file")
    reads = []

    class Stored:
        """What torchvision's CIFAR10 holds once read."""

        classes = ("plane", "car")

        def __init__(self, root: str, train: bool) -> None:
            reads.append(train)
            self.data = np.full((4, 32, 32, 3), 3, np.uint8)
            self.targets = [0, 1, 0, 1]

    monkeypatch.setattr(datasets, "CIFAR10", Stored)
    for _ in range(2):
        bundle = load_data("cifar10", root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
        assert bundle.class_names == ("plane", "car")
        assert bundle.train.labels.tolist() == [0, 1, 0, 1]
    assert reads == [True, False]


def test_a_file_with_a_function_gives_the_bundle(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "from earlybird.data import DataBundle, MemoryImages\n"
        "def make():\n"
        "    split = MemoryImages(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.arange(10) % 2)\n"
        "    return DataBundle('mine', 2, 1, 4, (0.0,), (1.0,), split, None, split, ('a', 'b'))\n"
    )
    bundle = load_data(f"{file}:make", val_fraction=0.2)
    assert bundle.name == "mine"
    assert bundle.val is not None and bundle.val.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3}, "names 2 classes but num_classes is 3"),
        ({"std": (0.0,)}, "std above 0"),
        ({"std": (float("inf"),)}, "1 finite numbers each, std above 0"),
        ({"mean": (float("nan"),)}, "1 finite numbers each, std above 0"),
        ({"image_size": 5}, r"expected \(channels, height, width\) = \(1, 5, 5\)"),
        ({"num_classes": 1, "class_names": ("a",)}, r"'x' has 1 class, so that every accuracy is 1; give two or more"),
        (
            {"test": MemoryImages(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.tensor([2]))},
            r"split 'test' has labels 2\.\.2; expected 0\.\.1",
        ),
    ],
)
def test_a_bundle_refuses_what_disagrees(change: dict[str, object], message: str) -> None:
    split = MemoryImages(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.arange(4) % 2)
    good: dict[str, object] = {
        "name": "x", "num_classes": 2, "in_channels": 1, "image_size": 4, "mean": (0.0,), "std": (1.0,),
        "train": split, "val": None, "test": split, "class_names": ("a", "b"),
    }  # fmt: skip
    DataBundle(**good)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        DataBundle(**{**good, **change})  # type: ignore[arg-type]


def test_memory_images_refuse_floats_and_unequal_counts() -> None:
    with pytest.raises(DataError, match="images must be uint8"):
        MemoryImages(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"labels must be int64 \[2\]"):
        MemoryImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="no images"):
        MemoryImages(torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
