"""Data sets by name, the validation split, and the fixed training subset."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from earlybird.data.decode import SourceSplits, cache_root, cached, decode_set, file_marks, memory_size
from earlybird.data.hub import hub_splits, local_folder, parquet_files
from earlybird.data.images import DataBundle, subset
from earlybird.data.randomness import stratified_indices
from earlybird.data.sources import CIFAR_FOLDERS, cifar_files, cifar_splits, digits, fetch_cifar, folder_splits
from earlybird.errors import DataError
from earlybird.user_code import find_callable

DIGITS_SIZE = 32
"""Default pixels for `digits`: the built-in networks halve an image five times."""
LOADER_SIZE = 224
"""Default pixels for sets that are decoded as they are read: the ImageNet protocol."""
IMAGENET_MOMENTS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of sets too large to measure: torchvision's numbers for ImageNet."""

_SUBSET_SEED = 0  # of `train_images`: the same images for every seed of a run


@dataclass(frozen=True)
class _Request:
    """Place and image size of a requested data set."""

    root: Path
    download: bool
    image_size: int | None
    cache: Path
    library_cache: str | None


def data_names() -> list[str]:
    """Names that `load_data` takes; capitals stand for a part that the user fills in."""
    return ["digits", "cifar10", "cifar100", "hf:NAME", "hf:FOLDER", "imagefolder:PATH", "MODULE:FUNCTION"]


def load_data(
    name: str,
    *,
    root: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    cache_dir: str | None = None,
    train_images: int | None = None,
) -> DataBundle:
    """Load a data set by name (`data_names`).

    root: folder of the torchvision sets (default: `torchvision` in the cache). image_size: pixels to resize to; None
    keeps the pictures' own size (digits: 32). val_fraction in [0, 1): part of the training images set apart, by class,
    chosen by `seed`. train_images: keep only this many training images, by class, the same ones for every seed; the
    validation part is taken out of them. cache_dir: see `cache_root`.

    Sets of up to 4 GiB decoded are kept in memory through a cache on disk, others are decoded as they are read.

    Raises:
        DataError: unknown name, data missing or damaged, or a setting out of range; the message says the cure.

    Example:
        >>> bundle = load_data("cifar10", download=True, val_fraction=0.1)  # doctest: +SKIP
    """
    _check_settings(image_size, val_fraction, train_images)
    cache = cache_root(cache_dir)
    data_root = Path(root).expanduser() if root else cache / "torchvision"
    library_cache = str(cache / "datasets") if cache_dir else None
    bundle = _find(name, _Request(data_root, download, image_size, cache, library_cache))
    if train_images is not None:
        bundle = _keep_train_images(bundle, train_images)
    return _split_validation(bundle, val_fraction, seed) if val_fraction else bundle


def _check_settings(image_size: int | None, val_fraction: float, train_images: int | None) -> None:
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}; expected a number of pixels >= 1, or none")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; expected 0 <= val_fraction < 1, such as 0.1")
    if train_images is not None and train_images < 1:
        raise DataError(f"train_images is {train_images}; expected a whole number >= 1, or none for all")


def _find(name: str, request: _Request) -> DataBundle:
    if name == "digits":
        return digits(request.image_size or DIGITS_SIZE)
    if name in CIFAR_FOLDERS:
        return _cifar(name, request)
    prefix, colon, rest = name.partition(":")
    if colon and not rest:
        raise DataError(f"data '{name}' ends at the colon; expected {', '.join(data_names())}")
    if prefix == "hf":
        return _hub(rest, request)
    if prefix == "imagefolder":
        return _imagefolder(rest, request)
    if colon:
        return _user_bundle(name)
    close = difflib.get_close_matches(name, data_names(), n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise DataError(f"unknown data '{name}'; {hint}expected {', '.join(data_names())}")


def _cifar(name: str, request: _Request) -> DataBundle:
    if request.download:
        fetch_cifar(name, request.root)
    marks = file_marks(request.root, cifar_files(name, request.root))
    return _prepared(name, name, marks, lambda: cifar_splits(name, request.root), request)


def _hub(rest: str, request: _Request) -> DataBundle:
    name = f"hf:{rest}"
    folder = local_folder(rest)
    if folder is None:
        # A hub set changes under its name: the library is asked first, and its answer is the fingerprint.
        splits, fingerprint = hub_splits(rest, request.library_cache)
        return _prepared(name, name, fingerprint, lambda: splits, request)
    marks, tables = file_marks(folder, parquet_files(folder)), str(request.cache / "datasets")
    return _prepared(name, str(folder.resolve()), marks, lambda: hub_splits(rest, tables)[0], request)


def _imagefolder(path: str, request: _Request) -> DataBundle:
    name, root = f"imagefolder:{path}", Path(path).expanduser()
    train, test, class_names = folder_splits(root)
    splits = SourceSplits(train, test, class_names)
    if memory_size(splits, request.image_size) is None:  # a million files need no fingerprint
        return _indexed_bundle(name, splits, request.image_size or LOADER_SIZE)
    marks = file_marks(root, (*train.files, *test.files))
    return _prepared(name, str(root.resolve()), marks, lambda: splits, request)


def _user_bundle(name: str) -> DataBundle:
    """Bundle that the user's own function returns."""
    function = find_callable(name, "data", DataError)
    bundle = function()
    if not isinstance(bundle, DataBundle):
        made = getattr(function, "__name__", "it")
        raise DataError(f"data {name!r}: {made}() returned {type(bundle).__name__}; it must return a DataBundle")
    return bundle


def _prepared(name: str, place: str, marks: Any, read: Callable[[], SourceSplits], request: _Request) -> DataBundle:
    """Bundle in memory, through the cache, if the set fits there; else one that decodes as it is read.

    place and marks are the fingerprint of the source.
    """
    source = {"place": place, "files": marks, "image_size": request.image_size}
    read = functools.cache(read)
    decoded = cached(request.cache, name, source, lambda: decode_set(name, read(), request.image_size))
    return decoded or _indexed_bundle(name, read(), request.image_size or LOADER_SIZE)


def _indexed_bundle(name: str, splits: SourceSplits, image_size: int) -> DataBundle:
    grey = splits.train[0][0].shape[0] == 1
    return splits.bundle(name, image_size, ((0.5,), (0.5,)) if grey else IMAGENET_MOMENTS)


def _keep_train_images(bundle: DataBundle, count: int) -> DataBundle:
    available = len(bundle.train)
    if count > available:
        raise DataError(f"train_images is {count} but data '{bundle.name}' has {available}; give at most {available}")
    if count == available:
        return bundle
    return replace(bundle, train=subset(bundle.train, stratified_indices(bundle.train.labels, count, _SUBSET_SEED)))


def _split_validation(bundle: DataBundle, val_fraction: float, seed: int) -> DataBundle:
    total = len(bundle.train)
    count = round(val_fraction * total)
    if not 0 < count < total:
        raise DataError(
            f"val_fraction {val_fraction} of {total} training images of '{bundle.name}' leaves {count} for validation "
            f"and {total - count} for training; both need at least one image"
        )
    chosen = stratified_indices(bundle.train.labels, count, seed)
    kept = torch.ones(total, dtype=torch.bool)
    kept[chosen] = False
    return replace(bundle, train=subset(bundle.train, kept.nonzero().squeeze(1)), val=subset(bundle.train, chosen))
