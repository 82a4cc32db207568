"""Decoded images on disk: uint8 arrays that later runs map into memory instead of decoding again.

One folder per source: `<name>-<hash of the source>/` with an array file per split and `meta.json`, which holds the
sha256 of every array. A folder appears by one rename, so a killed or racing process never leaves half of one, and one
whose bytes have changed is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earlybird.data.images import MemoryImages, channel_moments
from earlybird.errors import DataError

FORMAT_VERSION = 1
"""Part of every fingerprint: raise it when decoding, resizing or the layout of the arrays changes."""

_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True, eq=False)
class DecodedSet:
    """Both splits in memory (or mapped into it), the class names, and mean and std of the training images."""

    train: MemoryImages
    test: MemoryImages
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, train: MemoryImages, test: MemoryImages, class_names: tuple[str, ...]) -> DecodedSet:
        """Measure mean and std of the training images, per channel of values in [0, 1]."""
        channels = train.images.unbind(1)
        mean, std = channel_moments([torch.bincount(channel.flatten(), minlength=256) for channel in channels])
        return cls(train, test, class_names, mean, std)


def cache_root(cache_dir: str | None) -> Path:
    """Cache folder: the argument, else $EARLYBIRD_CACHE, else ~/.cache/earlybird."""
    return Path(cache_dir or os.environ.get("EARLYBIRD_CACHE") or "~/.cache/earlybird").expanduser()


def file_marks(root: Path, files: Iterable[Path]) -> list[list[Any]]:
    """Fingerprint of files without reading them: sorted [path below root, size in bytes, modification time in ns]."""
    states = ((file.relative_to(root).as_posix(), file.stat()) for file in files)
    return sorted([name, state.st_size, state.st_mtime_ns] for name, state in states)


def cached(
    root: Path, name: str, source: Mapping[str, Any], decode: Callable[[], DecodedSet | None]
) -> DecodedSet | None:
    """Decoded set from the cache under `root`, else from `decode`, kept for next time.

    source: plain JSON values that change whenever the pictures would. `decode` returns None for a set that does not fit
    in memory; nothing is kept then. A cache that cannot be written is a warning, not an error: the images are used from
    memory.
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-40:]
    text = json.dumps({"format": FORMAT_VERSION, **source}, sort_keys=True)
    folder = root / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if (found := _load(folder)) is not None:
        return found
    decoded = decode()
    if decoded is None:
        return None
    try:
        return _publish(folder, decoded, source)
    except OSError as error:
        warnings.warn(f"decoded images of '{name}' were not cached in {root}: {error}", stacklevel=2)
        return decoded


def _publish(folder: Path, decoded: DecodedSet, source: Mapping[str, Any]) -> DecodedSet:
    """Write beside the final place, move in by rename, and return the mapped copy, ours or a faster process's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    with _temporary_folder(folder) as own:
        _write(Path(own), decoded, source)
        for _ in range(10):  # each turn either moves in, finds a good one, or clears one broken one away
            try:
                Path(own).rename(folder)
            except OSError:
                if (rival := _load(folder)) is not None:
                    return rival
                _discard(folder)
            else:
                # Mapping what was just written frees the decoded copy.
                return _load(folder) or decoded
        raise OSError(f"{folder} cannot be replaced")


def _temporary_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True)


def _write(folder: Path, decoded: DecodedSet, source: Mapping[str, Any]) -> None:
    hashes = {}
    for split, images in (("train", decoded.train), ("test", decoded.test)):
        # Stored as [n, h, w, c]: the layout that batches are cut from.
        for part, tensor in (("images", images.images.permute(0, 2, 3, 1)), ("labels", images.labels)):
            array = tensor.contiguous().numpy()
            np.save(folder / f"{split}_{part}.npy", array, allow_pickle=False)
            hashes[f"{split}_{part}"] = hashlib.sha256(array.data).hexdigest()
    facts = {name: getattr(decoded, name) for name in ("class_names", "mean", "std")}
    meta = {"source": dict(source), "sha256": hashes, **facts}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _load(folder: Path) -> DecodedSet | None:
    """Set in this folder; None if there is none or a file is missing, cut short or altered."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {name: _verified(folder / f"{name}.npy", sha256) for name, sha256 in meta["sha256"].items()}
        train, test = (
            MemoryImages(arrays[f"{split}_images"].permute(0, 3, 1, 2), arrays[f"{split}_labels"])
            for split in ("train", "test")
        )
        return DecodedSet(train, test, *(tuple(meta[key]) for key in ("class_names", "mean", "std")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, DataError):
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
