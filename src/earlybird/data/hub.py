"""Image sets through the `datasets` library: hub names and local folders of parquet files (extra `[hub]`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earlybird.data.decode import SourceSplits, is_grey, open_picture
from earlybird.errors import DataError

IMAGE_COLUMNS = ("img", "image", "images", "picture", "png", "jpg")
"""Preferred names of the picture column, best first."""
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
"""Preferred names of the class column, best first (CIFAR-100 has fine_label and coarse_label)."""
TEST_SPLITS = ("test", "validation", "valid", "val")
"""Names of the split used as test set, best first; one whose labels are withheld (-1) is passed over."""

_HUB_URL = "//datasets/"


def local_folder(name: str) -> Path | None:
    """Local folder that `hf:NAME` means, or None for a name on the hub.

    NAME with a path separator, or that starts with '.' or '~', is a folder and is never looked up on a hub; so is the
    name of an existing folder. `hf://datasets/OWNER/NAME`, the hub's own address form, never is.
    """
    if name.startswith(_HUB_URL):
        return None
    path = Path(name).expanduser()
    is_path = name.startswith((".", "~")) or "/" in name or os.sep in name
    return path if is_path or path.is_dir() else None


def parquet_files(folder: Path) -> list[Path]:
    """Parquet files of a local set, anywhere below its folder.

    Raises:
        DataError: there is no such folder, or no parquet file in it.
    """
    if not folder.is_dir():
        told = f"no data folder {folder}"
        raise DataError(f"{told}; give a folder of parquet files, or hf://datasets/OWNER/NAME for a set on the hub")
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DataError(f"data folder {folder} holds no .parquet file; name them such as train-00000-of-00001.parquet")
    return files


def hub_splits(name: str, cache_dir: str | None) -> tuple[SourceSplits, str]:
    """Train and test of a hub name or a local folder, not yet decoded, and a fingerprint of their content.

    cache_dir: where the library keeps its own tables; None is its default. Environment variable HF_HUB_OFFLINE=1 keeps
    it off the network.

    Raises:
        DataError: the library is missing, the set cannot be loaded, or it lacks a split or a column that is needed.
    """
    loaded = _load(name, cache_dir)
    if "train" not in loaded:
        told = f"data 'hf:{name}' has splits {', '.join(loaded)} but no 'train'; name one file train-*.parquet"
        raise DataError(told)
    image, label = find_columns(loaded["train"].features, name)
    channels = _channels(loaded["train"], image, name)
    train = HubImages(loaded["train"], image, label, channels, f"hf:{name} train")
    for split in TEST_SPLITS:
        if split in loaded:
            test = HubImages(loaded[split], image, label, channels, f"hf:{name} {split}")
            if int(test.labels.min()) >= 0:
                given = getattr(loaded["train"].features[label], "names", None)
                names = tuple(given or map(str, range(int(train.labels.max()) + 1)))
                # The library's hash of the content.
                return SourceSplits(train, test, names), f"{loaded['train']._fingerprint} {loaded[split]._fingerprint}"
    told = f"data 'hf:{name}' has splits {', '.join(loaded)} but no labelled test set"
    raise DataError(f"{told}; one of {', '.join(TEST_SPLITS)} is needed")


@dataclass(frozen=True)
class HubImages:
    """One split of a `datasets.Dataset`, decoded row by row (an `IndexedImages`)."""

    dataset: Any
    image_column: str
    label_column: str
    channels: int
    where: str

    @cached_property
    def labels(self) -> Tensor:
        """Class indices as stored, int64 [n].

        Raises:
            DataError: the column holds something that is not a whole number.
        """
        values = self.dataset.data.column(self.label_column).to_numpy()
        if values.dtype.kind not in "iu":
            told = f"{self.where}: class column '{self.label_column}' holds {values.dtype}; whole numbers are needed"
            raise DataError(told)
        return torch.from_numpy(values.astype(np.int64))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [c, h, w] and its class index."""
        # Straight from the table: the library's own row access takes longer than the decoding of a small picture.
        value = self.dataset.data.column(self.image_column)[index]
        where = f"{self.where} row {index}"
        return open_picture(_encoded(value, where), where, self.channels), int(self.labels[index])


def _encoded(value: Any, where: str) -> Any:
    """Encoded bytes, or the path, of one cell: a struct of bytes and path, or plain bytes."""
    import pyarrow as pa

    if isinstance(value, pa.StructScalar):
        cell = value.as_py() if value.is_valid else {}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if cell.get("path"):
            return Path(cell["path"])
    elif value.is_valid:
        return value.as_py()
    raise DataError(f"{where} holds no picture; repair or remove the row")


def find_columns(features: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Picture and class column by schema: the preferred names first, else the only column of the right kind.

    Raises:
        DataError: none fits, or several fit and none has a preferred name.
    """
    pictures = [column for column, kind in features.items() if _is_picture(column, kind)]
    classes = [column for column, kind in features.items() if _is_class(column, kind)]
    picture = _choose(pictures, IMAGE_COLUMNS, "picture", features, name)
    return picture, _choose(classes, LABEL_COLUMNS, "class", features, name)


def _is_picture(column: str, kind: Any) -> bool:
    if type(kind).__name__ == "Image":
        return True
    if isinstance(kind, Mapping):  # written without the library's schema
        return "bytes" in kind
    return column in IMAGE_COLUMNS and getattr(kind, "dtype", "") in ("binary", "large_binary")


def _is_class(column: str, kind: Any) -> bool:
    named = type(kind).__name__ == "ClassLabel"
    return named or (column in LABEL_COLUMNS and "int" in str(getattr(kind, "dtype", "")))


def _choose(columns: list[str], preferred: tuple[str, ...], role: str, features: Mapping[str, Any], name: str) -> str:
    for column in preferred:
        if column in columns:
            return column
    if len(columns) == 1:
        return columns[0]
    found = f"{len(columns)} possible {role} columns ({', '.join(columns)})" if columns else f"no {role} column"
    told = f"data 'hf:{name}' has {found} among {', '.join(features)}; rename the {role} column to '{preferred[0]}'"
    raise DataError(told)


def _channels(dataset: Any, image_column: str, name: str) -> int:
    """Number of channels: 1 if 64 pictures spread over the split are grey, else 3; photo sets hold a few grey ones."""
    column = dataset.data.column(image_column)
    for row in np.linspace(0, len(dataset) - 1, min(64, len(dataset))).astype(int).tolist():
        where = f"hf:{name} train row {row}"
        if not is_grey(_encoded(column[row], where), where):
            return 3
    return 1


def _load(name: str, cache_dir: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data 'hf:{name}' needs the datasets library; install earlybird[hub]") from error
    folder = local_folder(name)
    target = str(folder.resolve()) if folder is not None else name.removeprefix(_HUB_URL)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(target, cache_dir=cache_dir)
    except Exception as error:  # the library raises dozens of kinds, network ones included
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        cure = "check its files" if folder is not None else "check the name and the network, or give a local folder"
        raise DataError(f"cannot load data 'hf:{name}': {reason}; {cure}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
