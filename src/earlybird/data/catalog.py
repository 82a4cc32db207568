"""Data sets by name, where they come from, the validation split, and the fixed training subset."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from earlybird.data.decode import (
    FolderImages,
    SourceSplits,
    cache_root,
    cached,
    decode_set,
    file_marks,
    memory_size,
    size_by_headers,
)
from earlybird.data.hub import hub_splits, local_folder, parquet_files
from earlybird.data.images import DataBundle, MemoryImages, channel_moments, stratified_indices, subset
from earlybird.errors import DataError, did_you_mean, reason
from earlybird.user_code import find_callable

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Name -> its folder, as torchvision calls it."""
TEST_FOLDERS = ("test", "val")
"""Names of the test folder of image folders, best first."""
TEST_EVERY = 5
"""Every fifth digit of each class, in stored order, is a test picture: 1,442 train, 355 test, no seed."""
DIGITS_SIZE = 32
"""Default pixels for `digits`: the built-in networks halve an image five times."""

_SUBSET_SEED = 0  # of `train_images`: the same images for every seed of a run


@dataclass(frozen=True)
class _Request:
    """Place and image size of a requested data set."""

    root: Path
    download: bool
    image_size: int | None
    cache: Path
    library_cache: str | None
    decode: bool


def data_names() -> list[str]:
    """Names that `load_data` takes, and the forms of those that the user fills in."""
    forms = ["hf:NAME", "hf:FOLDER", "imagefolder:PATH", "pkg.mod:callable", "file.py:callable"]
    return ["digits", *CIFAR_FOLDERS, *forms]


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
    decode: bool = True,
) -> DataBundle:
    """Load a data set by name (`data_names`).

    root: folder of the torchvision sets (default: `torchvision` in the cache). image_size: pixels to resize to; None
    keeps the pictures' own size (digits: 32). val_fraction in [0, 1): part of the training images set apart, by class,
    chosen by `seed`. train_images: keep only this many training images, by class, the same ones for every seed; the
    validation part is taken out of them. cache_dir: see `cache_root`. decode: false leaves the pictures of an image
    folder in their files and takes its image size from the headers of some of them, for those who ask for sizes only.

    Sets of up to 4 GiB decoded are kept in memory through a cache on disk, others are decoded as they are read.

    Raises:
        DataError: unknown name, data missing or damaged, or a setting out of range; the message says the cure.

    Warns:
        UserWarning: a class has no training image, all images are the same (seen of images in memory), or are 1x1.

    Example:
        >>> bundle = load_data("cifar10", download=True, val_fraction=0.1)  # doctest: +SKIP
    """
    _check_settings(image_size, val_fraction, train_images)
    cache = cache_root(cache_dir)
    data_root = Path(root).expanduser() if root else cache / "torchvision"
    library_cache = str(cache / "datasets") if cache_dir else None
    bundle = _find(name, _Request(data_root, download, image_size, cache, library_cache, decode))
    if train_images is not None:
        bundle = _keep_train_images(bundle, train_images)
    bundle = _split_validation(bundle, val_fraction, seed) if val_fraction else bundle
    _warn_of_what_cannot_be_learnt(bundle)
    return bundle


def _warn_of_what_cannot_be_learnt(bundle: DataBundle) -> None:
    unseen = bundle.train.labels.bincount(minlength=bundle.num_classes) == 0
    told = []
    if lacking := int(unseen.sum()):
        names = ", ".join(bundle.class_names[label] for label in unseen.nonzero().flatten()[:3])
        shown = f"{int(unseen[bundle.test.labels].sum())} of {len(bundle.test)} test images are of these"
        classes = f"{lacking} of {bundle.num_classes} classes ({names}{', ...' * (lacking > 3)})"
        told.append(f"{classes} have no training image; {shown}")
    if bundle.image_size == 1:
        told.append("in images of 1x1 pixels no convolution sees a neighbour")
    # Images on disk would have to be decoded, all of them.
    if isinstance(bundle.train, MemoryImages) and torch.equal(*(x := bundle.train.images)[[0, -1]]) and len(x) > 1:
        told += ["all training images are the same: nothing tells their classes apart"] * bool((x == x[0]).all())
    for what in told:
        warnings.warn(f"data '{bundle.name}': {what}", stacklevel=3)


def _check_settings(image_size: int | None, val_fraction: float, train_images: int | None) -> None:
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}; expected a number of pixels >= 1, or none")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; expected 0 <= val_fraction < 1, such as 0.1")
    if train_images is not None and train_images < 1:
        raise DataError(f"train_images is {train_images}; expected a whole number >= 1, or none for all")


def _find(name: str, request: _Request) -> DataBundle:
    if name == "digits":
        return _digits(request.image_size or DIGITS_SIZE)
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
    raise DataError(f"unknown data '{name}'; {did_you_mean(name, data_names())}expected {', '.join(data_names())}")


def _digits(image_size: int) -> DataBundle:
    """The 1,797 handwritten 8x8 digits of scikit-learn (extra `[demo]`), resized, values 0..16 scaled to 0..255."""
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


def _cifar(name: str, request: _Request) -> DataBundle:
    """CIFAR (Krizhevsky 2009), 3 x 32 x 32, as torchvision stores and fetches it."""
    root, folder = request.root, request.root / CIFAR_FOLDERS[name]
    if request.download:
        try:
            _cifar_dataset(name, root, train=True, download=True)  # unless it is there already
        except (OSError, RuntimeError) as error:
            told = f"cannot download data '{name}' into {root} ({reason(error)})"
            raise DataError(f"{told}; check the network, or put {folder.name} there by hand") from error
    files = sorted(file for file in folder.glob("*") if file.is_file())
    if not files:
        told = f"data '{name}' not found at {folder}; fetch it with --data.download true"
        raise DataError(f"{told}, or point --data.root at the folder that holds {folder.name}")
    return _prepared(name, name, file_marks(root, files), lambda: _cifar_splits(name, root), request)


def _cifar_splits(name: str, root: Path) -> SourceSplits:
    try:
        train, test = (_cifar_dataset(name, root, train=part) for part in (True, False))
    except (OSError, RuntimeError) as error:
        folder = root / CIFAR_FOLDERS[name]
        told = f"data '{name}' at {folder} is damaged ({reason(error)}); remove it and use --data.download true"
        raise DataError(told) from error
    return SourceSplits(_cifar_images(train), _cifar_images(test), tuple(train.classes))


def _cifar_dataset(name: str, root: Path, **options: bool) -> Any:
    from torchvision import datasets  # here, because importing it takes a second

    return (datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)(str(root), **options)


def _cifar_images(split: Any) -> MemoryImages:
    pixels = torch.from_numpy(np.asarray(split.data)).permute(0, 3, 1, 2)
    return MemoryImages(pixels, torch.tensor(split.targets, dtype=torch.int64))


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
    """PATH/train/CLASS/*.jpg, and PATH/test or PATH/val, as torchvision has them; classes in alphabetical order."""
    name, root = f"imagefolder:{path}", Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"no image folder {root}; give the folder that holds train/ and test/ (or val/)")
    train_root = root / "train"
    test_root = next((root / part for part in TEST_FOLDERS if (root / part).is_dir()), None)
    if not train_root.is_dir() or test_root is None:
        missing = "train" if not train_root.is_dir() else "test or val"
        raise DataError(f"image folder {root} has no folder {missing}; expected {root}/train/CLASS/picture.png")
    names = _class_folders(train_root)
    if (others := _class_folders(test_root)) != names:
        odd = ", ".join(sorted(set(names) ^ set(others))[:3])
        raise DataError(f"{train_root} and {test_root} hold different class folders ({odd}); give both the same")
    train, test = _scan(train_root, names), _scan(test_root, names)
    splits = SourceSplits(train, test, tuple(names))
    if not request.decode:
        return splits.indexed_bundle(name, size_by_headers(splits, request.image_size))
    if memory_size(splits, request.image_size) is None:  # a million files need no fingerprint
        return splits.indexed_bundle(name, request.image_size)
    marks = file_marks(root, (*train.files, *test.files))
    return _prepared(name, str(root.resolve()), marks, lambda: splits, request)


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
            told = f"class folder {root / name} holds no picture; remove it or add files of {' '.join(IMG_EXTENSIONS)}"
            raise DataError(told)
        files.extend(found)
        labels.extend([label] * len(found))
    return FolderImages(tuple(files), torch.tensor(labels))


def _user_bundle(name: str) -> DataBundle:
    """Bundle that the user's own function returns."""
    function = find_callable(name, "data", DataError)
    bundle = function()
    if not isinstance(bundle, DataBundle):
        made = getattr(function, "__name__", "it")
        raise DataError(f"data {name!r}: {made}() returned {type(bundle).__name__}; it must return a DataBundle")
    return bundle


def _prepared(name: str, place: str, marks: Any, read: Callable[[], SourceSplits], request: _Request) -> DataBundle:
    """Bundle in memory, through the cache, if the set fits there; else one that decodes as it is read."""
    source = {"place": place, "files": marks, "image_size": request.image_size}  # its fingerprint
    read = functools.cache(read)
    decoded = cached(request.cache, name, source, lambda: decode_set(name, read(), request.image_size))
    return decoded or read().indexed_bundle(name, request.image_size)


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
        told = f"val_fraction {val_fraction} of {total} training images of '{bundle.name}' leaves {count} for"
        raise DataError(f"{told} validation and {total - count} for training; both need at least one image")
    chosen = stratified_indices(bundle.train.labels, count, seed)
    kept = torch.ones(total, dtype=torch.bool)
    kept[chosen] = False
    return replace(bundle, train=subset(bundle.train, kept.nonzero().squeeze(1)), val=subset(bundle.train, chosen))
