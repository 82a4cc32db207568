"""Decoding: encoded pictures of any size to uint8 arrays of one size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from earlybird.data.cache import DecodedSet
from earlybird.data.images import IndexedImages, MemoryImages
from earlybird.errors import DataError, first_line

MEMORY_LIMIT_BYTES = 4 * 2**30
"""Sets up to this size (both splits, decoded) are held in memory; larger ones are decoded as they are read."""

# Tried before the forty others that the library knows: a third of the time for a small WebP.
_COMMON_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, eq=False)
class SourceSplits:
    """Splits and class names of a source, not yet decoded."""

    train: IndexedImages
    test: IndexedImages
    class_names: tuple[str, ...]


def open_picture(data: bytes | Path, where: str, channels: int) -> Tensor:
    """Decode a picture (encoded bytes, or a file) to uint8 [channels, h, w]; channels 1 (grey) or 3 (RGB).

    Raises:
        DataError: it cannot be decoded; `where` (a path or a row) is named.
    """
    with _decoding(where), _opened(data) as image:
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1)


def is_grey(data: bytes | Path, where: str) -> bool:
    """True if a picture (encoded bytes, or a file) has one grey channel by its header.

    Raises:
        DataError: it cannot be read; `where` is named.
    """
    with _decoding(where), _opened(data) as image:
        return image.mode in ("1", "L", "I;16")


@contextmanager
def _decoding(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot decode picture {where} ({first_line(error)}); repair or remove it") from error


def _opened(data: bytes | Path) -> Image.Image:
    file = data if isinstance(data, Path) else io.BytesIO(data)
    try:
        return Image.open(file, formats=_COMMON_FORMATS)
    except UnidentifiedImageError:
        return Image.open(file)


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


def decode_set(splits: SourceSplits, image_size: int | None) -> DecodedSet | None:
    """Decode both splits, resized to image_size pixels if given.

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
    return None if train is None or test is None else DecodedSet.of(train, test, splits.class_names)


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
