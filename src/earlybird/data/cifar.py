"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as torchvision stores and fetches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from earlybird.data.decode import SourceSplits
from earlybird.data.images import MemoryImages
from earlybird.errors import DataError

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Name -> its folder, as torchvision calls it."""


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
