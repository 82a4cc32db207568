"""Image sets in one folder per class: PATH/train/CLASS/*.jpg, PATH/test or PATH/val (torchvision's ImageFolder)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from earlybird.data.decode import open_picture
from earlybird.errors import DataError

TEST_FOLDERS = ("test", "val")
"""Names of the test folder, best first."""


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
    """Train, test and class names below `root`, not yet decoded; classes in alphabetical order of their folders.

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
