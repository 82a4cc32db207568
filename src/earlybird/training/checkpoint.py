"""Checkpoints: written beside the old one, proved by sha256, replaced atomically, read without executing anything.

A checkpoint is `NUMBER.pt` plus `NUMBER.json`, its manifest. The manifest is written last, so a checkpoint without one
was never finished and is not looked at. The newest two are kept; where the newest fails its hash the one before is
used, and that is said aloud.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from earlybird.errors import CheckpointError

FORMAT_VERSION = 1
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def save(self, state: dict[str, Any]) -> bool:
        """Write a new checkpoint and drop the oldest.

        Returns:
            False where the disk refused: older checkpoints are intact, the temporary file is gone, and a warning says
            so.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getbuffer()
        number = max(self._numbers(), default=0) + 1
        manifest = {"format_version": FORMAT_VERSION, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{number:08d}.pt", data)
            write_atomically(self.folder / f"{number:08d}.json", json.dumps(manifest).encode())
        except OSError as error:
            (self.folder / f"{number:08d}.pt").unlink(missing_ok=True)
            warnings.warn(
                f"checkpoint not saved in {self.folder} ({error.strerror}); the previous one is intact", stacklevel=2
            )
            return False
        for old in self._numbers()[:-_KEPT]:
            self._remove(old)
        return True

    def latest(self) -> dict[str, Any] | None:
        """The newest intact checkpoint, or None if there never was one.

        Raises:
            CheckpointError: checkpoints exist and none is intact, or one has another format version.
        """
        broken = []
        for number in reversed(self._numbers()):
            try:
                state = self._read(number)
            except (OSError, ValueError, KeyError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
                broken.append(f"{number:08d}.pt ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
                continue
            if broken:
                warnings.warn(
                    f"damaged checkpoint {', '.join(broken)} in {self.folder}: going on from the one before",
                    stacklevel=2,
                )
            return state
        if broken:
            raise CheckpointError(
                f"no intact checkpoint in {self.folder}: {', '.join(broken)}; "
                "restore a file, or remove the folder to start again"
            )
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the run is finished and its record is written."""
        for path in [*self.folder.glob("*.json"), *self.folder.glob("*.pt"), *self.folder.glob(".*.tmp-*")]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _numbers(self) -> list[int]:
        """Numbers of all checkpoints, oldest first. A weight file without manifest counts, so that it can be named."""
        return sorted({int(path.stem) for path in self.folder.glob("[0-9]*.pt")})

    def _read(self, number: int) -> dict[str, Any]:
        manifest_path = self.folder / f"{number:08d}.json"
        if not manifest_path.is_file():
            raise ValueError("never finished: it has no manifest")
        manifest = json.loads(manifest_path.read_bytes())
        if manifest["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {manifest_path} has format version {manifest['format_version']}, this version reads "
                f"{FORMAT_VERSION}; finish the run with the version that began it"
            )
        data = (self.folder / f"{number:08d}.pt").read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise ValueError("sha256 differs from its manifest")
        # weights_only: tensors and plain values; a pickle that wants to run code is an UnpicklingError.
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def _remove(self, number: int) -> None:
        for suffix in (".json", ".pt"):  # The manifest first: half a removal must not look like a checkpoint.
            (self.folder / f"{number:08d}{suffix}").unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step that survives a crash; the temporary file is removed on failure.

    Raises:
        OSError: the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
