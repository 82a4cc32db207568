"""Sources of images beside the hub: CIFAR (Krizhevsky 2009, by torchvision), scikit-learn's digits, image folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from earlybird.data.decode import SourceSplits, open_picture
from earlybird.data.images import DataBundle, MemoryImages, channel_moments
from earlybird.errors import DataError

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Name -> its folder, as torchvision calls it."""
TEST_EVERY = 5
"""Every fifth picture of each class, in stored order, is a test picture: 1,442 train, 355 test, no seed."""
TEST_FOLDERS = ("test", "val")
"""Names of the test folder, best first."""


def cifar_files(name: str, root: Path) -> list[Path]:
    """Data files below `root`, for a fingerprint.

    Raises:
        DataError: the set is not there.
    """
    folder = root / CIFAR_FOLDERS[name]
    files = sorted(file for file in folder.glob("*") if file.is_file())
    if not files:
        raise DataError(
            f"data '{name}' not found at {folder}; fetch it with --data.download true, "
            f"or point --data.root at the folder that holds {CIFAR_FOLDERS[name]}"
        )
    return files


def fetch_cifar(name: str, root: Path) -> None:
    """Download and unpack the set into `root` unless it is there already.

    Raises:
        DataError: the download failed.
    """
    try:
        _dataset(name, root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot download data '{name}' into {root} ({error}); check the network, "
            f"or put {CIFAR_FOLDERS[name]} there by hand"
        ) from error


def cifar_splits(name: str, root: Path) -> SourceSplits:
    """Official train and test images, 3 x 32 x 32.

    Raises:
        DataError: a file is missing or its checksum is wrong.
    """
    try:
        train, test = (_dataset(name, root, train=part) for part in (True, False))
    except (OSError, RuntimeError) as error:
        folder = root / CIFAR_FOLDERS[name]
        raise DataError(
            f"data '{name}' at {folder} is damaged ({error}); remove it and use --data.download true"
        ) from error
    return SourceSplits(_images(train), _images(test), tuple(train.classes))


def _dataset(name: str, root: Path, **options: bool) -> Any:
    from torchvision import datasets  # here, because importing it takes a second

    return (datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)(str(root), **options)


def _images(split: Any) -> MemoryImages:
    pixels = torch.from_numpy(np.asarray(split.data)).permute(0, 3, 1, 2)
    return MemoryImages(pixels, torch.tensor(split.targets, dtype=torch.int64))


def digits(image_size: int) -> DataBundle:
    """The 1,797 handwritten digits of scikit-learn (extra `[demo]`), 1 channel, values 0..16 scaled to 0..255.

    Resized from 8x8 to image_size x image_size pixels (bilinear).

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("data 'digits' needs scikit-learn; install earlybird[demo]") from error
    raw = load_digits()
    small = torch.from_numpy(np.asarray(raw.images)).float().unsqueeze(1) * (255 / 16)
    large = functional.interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8)
    labels = torch.from_numpy(np.asarray(raw.target)).long()
    in_test = every_nth_of_class(labels, TEST_EVERY)
    train, test = (MemoryImages(images[chosen], labels[chosen]) for chosen in (~in_test, in_test))
    return SourceSplits(train, test, tuple("0123456789")).bundle("digits", image_size, channel_moments(train.images))


def every_nth_of_class(labels: Tensor, n: int) -> Tensor:
    """Bool [len(labels)]: true for the n-th, 2n-th, ... sample of each class in stored order."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        places = (labels == label).nonzero().squeeze(1)
        chosen[places[n - 1 :: n]] = True
    return chosen


@dataclass(frozen=True)
class FolderImages:
    """Picture files and their class indices (int64 [n]); always decoded to RGB (an `IndexedImages`)."""

    files: tuple[Path, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [3, h, w] and its class index."""
        file = self.files[index]
        return open_picture(file, str(file), 3), int(self.labels[index])


def folder_splits(root: Path) -> tuple[FolderImages, FolderImages, tuple[str, ...]]:
    """Train (PATH/train/CLASS/*.jpg), test (PATH/test or PATH/val) and class names below `root`, not yet decoded.

    The layout of torchvision's ImageFolder; classes in alphabetical order of their folders.

    Raises:
        DataError: a folder is missing, a class is empty or in one split only, or there is no class at all.
    """
    if not root.is_dir():
        raise DataError(f"no image folder {root}; give the folder that holds train/ and test/ (or val/)")
    train_root = root / "train"
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train_root.is_dir() or test_root is None:
        missing = "train" if not train_root.is_dir() else "test or val"
        raise DataError(f"image folder {root} has no folder {missing}; expected {root}/train/CLASS/picture.png")
    names = _class_folders(train_root)
    if (others := _class_folders(test_root)) != names:
        odd = ", ".join(sorted(set(names) ^ set(others))[:3])
        raise DataError(f"{train_root} and {test_root} hold different class folders ({odd}); give both the same")
    return _scan(train_root, names), _scan(test_root, names), tuple(names)


def _class_folders(root: Path) -> list[str]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{root} has no class folders; put the pictures of each class in {root}/CLASS/")
    return names


def _scan(root: Path, names: Iterable[str]) -> FolderImages:
    from torchvision.datasets.folder import IMG_EXTENSIONS  # here, because importing it takes a second

    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
        if not found:
            raise DataError(
                f"class folder {root / name} holds no picture; remove it or add files of {' '.join(IMG_EXTENSIONS)}"
            )
        files.extend(found)
        labels.extend([label] * len(found))
    return FolderImages(tuple(files), torch.tensor(labels))
