"""Decoding: encoded pictures to uint8 arrays of one size, which later runs map from disk instead of decoding again.

A cache folder, `<name>-<hash of the source>/`, has an array file per split and `meta.json` with the sha256 of each.
It appears by one rename: no killed or racing process leaves half of one. One whose bytes have changed is made anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from earlybird.atomic import sealed_json, unsealed_json
from earlybird.data.images import DataBundle, IndexedImages, MemoryImages, Moments, channel_moments
from earlybird.errors import DataError, first_line, reason

FORMAT_VERSION = 1
"""Part of every fingerprint: raise it when decoding, resizing or the layout of the arrays changes."""
LOADER_SIZE = 224
"""Default pixels for sets that are decoded as they are read: the ImageNet protocol."""
IMAGENET_MOMENTS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of sets too large to measure: torchvision's numbers for ImageNet."""
MEMORY_LIMIT_BYTES = 4 * 2**30
"""Sets up to this size (both splits, decoded) are held in memory; larger ones are decoded as they are read."""

_ABANDONED_SECONDS = 24 * 3600
_HEADERS = 1000  # read of a folder whose sizes alone are asked for
# Tried before the forty others that the library knows: a third of the time for a small WebP.
_COMMON_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, eq=False)
class SourceSplits:
    """Splits and class names of a source."""

    train: IndexedImages
    test: IndexedImages
    class_names: tuple[str, ...]

    def bundle(self, name: str, image_size: int, moments: Moments) -> DataBundle:
        """Bundle of these images, in batches of image_size pixels, normalised with mean and std per channel."""
        channels, (mean, std) = self.train[0][0].shape[0], moments
        return DataBundle(
            name=name, num_classes=len(self.class_names), in_channels=channels, image_size=image_size, mean=mean,
            std=std, train=self.train, val=None, test=self.test, class_names=self.class_names,
        )  # fmt: skip

    def indexed_bundle(self, name: str, image_size: int | None) -> DataBundle:
        """Bundle of pictures that are decoded as they are read."""
        grey = self.train[0][0].shape[0] == 1
        return self.bundle(name, image_size or LOADER_SIZE, ((0.5,), (0.5,)) if grey else IMAGENET_MOMENTS)


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


def open_picture(data: bytes | Path, where: str, channels: int) -> Tensor:
    """Decode a picture (encoded bytes, or a file) to uint8 [channels, h, w]; channels 1 (grey) or 3 (RGB).

    Raises:
        DataError: it cannot be decoded; `where` (a path or a row) is named.
    """
    with _opened(data, where) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def is_grey(data: bytes | Path, where: str) -> bool:
    """True if a picture (encoded bytes, or a file) has one grey channel by its header.

    Raises:
        DataError: it cannot be read; `where` is named.
    """
    with _opened(data, where) as image:
        return image.mode in ("1", "L", "I;16")


@contextmanager
def _opened(data: bytes | Path, where: str) -> Iterator[Image.Image]:
    file = data if isinstance(data, Path) else io.BytesIO(data)
    try:
        try:
            image = Image.open(file, formats=_COMMON_FORMATS)
        except UnidentifiedImageError:
            image = Image.open(file)
        with image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot decode picture {where} ({first_line(error)}); repair or remove it") from error


def fit_square(image: Tensor, size: int) -> Tensor:
    """Resize the shorter side of uint8 [c, h, w] to `size`, antialiased, and crop the centre to [c, size, size]."""
    if tuple(image.shape[1:]) == (size, size):
        return image
    from torchvision.transforms.v2 import functional  # here, because importing it takes a second

    square: Tensor = functional.center_crop(functional.resize(image, [size], antialias=True), [size, size])
    return square


def memory_size(splits: SourceSplits, image_size: int | None) -> int | None:
    """Pixels that the set has in memory, judged by its first picture; None if it does not belong there."""
    channels, height, width = splits.train[0][0].shape
    if image_size is None and height != width:
        return None
    size = image_size or height
    total_bytes = (len(splits.train) + len(splits.test)) * channels * size * size
    return size if total_bytes <= MEMORY_LIMIT_BYTES else None


def size_by_headers(splits: SourceSplits, image_size: int | None) -> int | None:
    """`memory_size` of folders, also None where the headers of some pictures (evenly spaced) show several sizes.

    Raises:
        DataError: a header cannot be read.
    """
    size = memory_size(splits, image_size)
    if size is None or image_size is not None:
        return image_size
    files = [file for split in (splits.train, splits.test) for file in getattr(split, "files", ())]
    for file in files[:: max(1, len(files) // _HEADERS)]:
        with _opened(file, str(file)) as image:
            if image.size != (size, size):
                return None
    return size


def decode_set(name: str, splits: SourceSplits, image_size: int | None) -> DataBundle | None:
    """Decode both splits, resized to image_size pixels if given, and measure mean and std of the training images.

    None where the set does not belong in memory: above `MEMORY_LIMIT_BYTES`, or, with image_size None, pictures that
    are not square or not all of one size.

    Raises:
        DataError: a picture cannot be decoded.
    """
    size = memory_size(splits, image_size)
    if size is None:
        return None
    train = _decode(splits.train, size, image_size)
    test = None if train is None else _decode(splits.test, size, image_size)
    if train is None or test is None:
        return None
    return SourceSplits(train, test, splits.class_names).bundle(name, size, channel_moments(train.images))


def _decode(images: IndexedImages, size: int, image_size: int | None) -> MemoryImages | None:
    if isinstance(images, MemoryImages) and tuple(images.images.shape[2:]) == (size, size):
        return images
    channels = images[0][0].shape[0]
    pixels = torch.empty(len(images), size, size, channels, dtype=torch.uint8)
    for index in range(len(images)):
        image = images[index][0]
        if tuple(image.shape[1:]) != (size, size) and image_size is None:
            return None
        pixels[index] = fit_square(image, size).permute(1, 2, 0)
    return MemoryImages(pixels.permute(0, 3, 1, 2), images.labels)


def cache_root(cache_dir: str | None) -> Path:
    """Cache folder: the argument, else $EARLYBIRD_CACHE, else ~/.cache/earlybird."""
    return Path(cache_dir or os.environ.get("EARLYBIRD_CACHE") or "~/.cache/earlybird").expanduser()


def file_marks(root: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Fingerprint of files without reading them: sorted [path below root, size in bytes, modification time in ns]."""
    states = ((file.relative_to(root).as_posix(), file.stat()) for file in files)
    return sorted([name, state.st_size, state.st_mtime_ns] for name, state in states)


def cached(
    root: Path, name: str, source: Mapping[str, Any], decode: Callable[[], DataBundle | None]
) -> DataBundle | None:
    """Bundle of decoded images from the cache under `root`, else from `decode`, kept for next time.

    source: plain JSON values that change whenever the pictures would. `decode` returns None for a set that does not fit
    in memory; nothing is kept then. A cache that cannot be written is a warning, not an error: the images are used from
    memory.
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-40:]
    text = json.dumps({"format": FORMAT_VERSION, **source}, sort_keys=True)
    folder = root / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if (found := _load(folder, name)) is not None:
        return found
    decoded = decode()
    if decoded is None:
        return None
    try:
        return _publish(folder, decoded, source)
    except OSError as error:
        warnings.warn(f"decoded images of '{name}' were not cached in {root}: {reason(error)}", stacklevel=2)
        return decoded


def _publish(folder: Path, decoded: DataBundle, source: Mapping[str, Any]) -> DataBundle:
    """Write beside the final place, move in by rename, and return the mapped copy, ours or a faster process's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    with _temporary_folder(folder) as own:
        _write(Path(own), decoded, source)
        for _ in range(10):  # each turn either moves in, finds a good one, or clears one broken one away
            try:
                Path(own).rename(folder)
            except OSError:
                if (rival := _load(folder, decoded.name)) is not None:
                    return rival
                _discard(folder)
            else:
                # Mapping what was just written frees the decoded copy.
                return _load(folder, decoded.name) or decoded
        raise OSError(f"{folder} cannot be replaced")


def _temporary_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True)


def _write(folder: Path, decoded: DataBundle, source: Mapping[str, Any]) -> None:
    hashes = {}
    for split in ("train", "test"):
        images: MemoryImages = getattr(decoded, split)
        # Stored as [n, h, w, c]: the layout that batches are cut from.
        for part, tensor in (("images", images.images.permute(0, 2, 3, 1)), ("labels", images.labels)):
            array = tensor.contiguous().numpy()
            np.save(folder / f"{split}_{part}.npy", array, allow_pickle=False)
            hashes[f"{split}_{part}"] = hashlib.sha256(array.data).hexdigest()
    facts = {name: getattr(decoded, name) for name in ("class_names", "mean", "std")}
    meta = {"source": dict(source), "sha256": hashes, **facts}
    (folder / "meta.json").write_bytes(sealed_json(meta))


def _load(folder: Path, name: str) -> DataBundle | None:
    """Bundle of the images in this folder; None if there is none or a file is missing, cut short or altered."""
    try:
        meta = unsealed_json((folder / "meta.json").read_bytes())
        arrays = {part: _verified(folder / f"{part}.npy", sha256) for part, sha256 in meta["sha256"].items()}
        train, test = (
            MemoryImages(arrays[f"{split}_images"].permute(0, 3, 1, 2), arrays[f"{split}_labels"])
            for split in ("train", "test")
        )
        class_names, mean, std = (tuple(meta[key]) for key in ("class_names", "mean", "std"))
        channels = [train.images.shape[1], test.images.shape[1], len(mean), len(std)]
        labels = torch.cat([train.labels, test.labels])
        is_right = (
            all(isinstance(meta[key], list) for key in ("class_names", "mean", "std"))
            and len(set(channels)) == 1
            and all(isinstance(name, str) for name in class_names)
            and all(type(number) in (int, float) for number in (*mean, *std))
            and min(std) > 0
            and int(labels.min()) >= 0
            and int(labels.max()) < len(class_names)
        )
        if not is_right:
            raise ValueError("it does not describe its images")
        return SourceSplits(train, test, class_names).bundle(name, train.images.shape[2], (mean, std))
    except Exception:  # NumPy reads a header as Python, and may stumble over a damaged one in any way.
        return None


def _verified(file: Path, sha256: str) -> torch.Tensor:
    # Mode "c" maps pages privately: writable for torch's sake, and a write never reaches the file.
    array: np.ndarray[Any, Any] = np.load(file, mmap_mode="c", allow_pickle=False)
    if hashlib.sha256(array.data).hexdigest() != sha256:  # 0.15 s for CIFAR, 1.2 GB/s
        raise ValueError(f"{file} has changed since it was written")
    return torch.from_numpy(array)


def _discard(folder: Path) -> None:
    """Move a broken folder aside before removing it: no process sees it half removed."""
    with _temporary_folder(folder) as aside, suppress(FileNotFoundError):  # a rival has already done it
        folder.rename(Path(aside) / "broken")


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of this name that killed processes left, if more than a day old."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
