"""Checkpoints: written beside the old one, sealed by sha256, replaced atomically, read without executing anything.

A checkpoint is `NUMBER.pt` plus `NUMBER.json`, its manifest. The manifest is written last, so a checkpoint without one
was never finished and is not read. The newest two are kept; where the newest fails its hash the one before is used,
and that is said aloud.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from earlybird.atomic import json_object, read_file, write_atomically
from earlybird.errors import CheckpointError, first_line

FORMAT_VERSION = 1
_KEPT = 2


class _State(dict[str, Any]):
    """Content of a checkpoint; asking for a key that it lacks is a `CheckpointError`."""

    def __missing__(self, key: str) -> Any:
        raise changed_checkpoint(f"it lacks {key!r}")


def changed_checkpoint(why: str) -> CheckpointError:
    """The error of a checkpoint whose content no run can have written."""
    return CheckpointError(f"the checkpoint was changed ({why}); restore it, or give another --out")


def whole_number(state: Mapping[str, Any], key: str, least: int, most: int) -> int:
    """An entry of a checkpoint's state that counts something.

    Raises:
        CheckpointError: it is missing, or no integer in [`least`, `most`].
    """
    value = state.get(key)
    if type(value) is not int or not least <= value <= most:
        raise changed_checkpoint(f"its {key} is {value!r:.80}, no integer in [{least}, {most}]")
    return value


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Args:
        run: what their manifests say of the run (`run_id`, `config_sha256`, `seed`); empty for nothing.
        earlier: sha256 of configurations that the same run had before.
        before_save: called before anything is written; raises where that must not be.
    """

    def __init__(
        self,
        folder: str | Path,
        run: Mapping[str, Any] | None = None,
        earlier: Sequence[str] = (),
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.run, self.earlier, self.before_save = Path(folder), dict(run or {}), earlier, before_save

    def save(self, state: dict[str, Any]) -> bool:
        """Write a new checkpoint and drop the oldest.

        Returns:
            False where the disk refused: older checkpoints are intact, the temporary file is gone, a warning says so.
        """
        self.before_save()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getbuffer()
        number = max(self._numbers(), default=0) + 1
        manifest = {"format_version": FORMAT_VERSION, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest |= {"run": self.run} if self.run else {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / f"{number:08d}.pt", data)
            write_atomically(self.folder / f"{number:08d}.json", json.dumps(manifest).encode())
        except OSError as error:
            (self.folder / f"{number:08d}.pt").unlink(missing_ok=True)
            has_older = any(map(self._is_finished, self._numbers()))
            older = "the previous one is intact" if has_older else "there is no earlier one"
            told = f"checkpoint not saved in {self.folder} ({error.strerror or error}); {older}"
            warnings.warn(told, stacklevel=2)
            return False
        # What was never finished does not count among those that are kept.
        kept = [number for number in self._numbers() if self._is_finished(number)][-_KEPT:]
        for old in set(self._numbers()) - set(kept):
            self._remove(old)
        self._remove_temporary_files()
        return True

    def latest(self) -> dict[str, Any] | None:
        """The newest intact checkpoint, or None if there never was one (a first that was never finished is none).

        Raises:
            CheckpointError: checkpoints exist and none is intact; one is of another run or format version.
        """
        broken = []
        for number in reversed(self._numbers()):
            try:
                state = self._read(number)
            except CheckpointError:
                raise
            except Exception as error:  # Damaged or foreign bytes, sealed again or not, may raise anything.
                broken.append(f"{number:08d}.pt ({first_line(error)})")
                continue
            if broken:
                self._warn(broken, "going on from the one before")
            return state
        if self._numbers() == [1] and not (self.folder / f"{1:08d}.json").is_file():
            self._warn(broken, "it was the first, so the run starts from the beginning")
        elif broken:
            cure = "restore a file, or remove the folder to start again"
            raise CheckpointError(f"no intact checkpoint in {self.folder}: {', '.join(broken)}; {cure}")
        return None

    def exist(self) -> bool:
        """True if there is any checkpoint, intact or not."""
        return bool(self._numbers())

    def clear(self) -> None:
        """Remove all checkpoints: the run is finished and its record is written."""
        for number in self._numbers():
            self._remove(number)
        self._remove_temporary_files()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _warn(self, broken: list[str], what_happens: str) -> None:
        warnings.warn(f"damaged checkpoint {', '.join(broken)} in {self.folder}: {what_happens}", stacklevel=3)

    def _numbers(self) -> list[int]:
        """Numbers of all checkpoints, oldest first. One of which half is there counts, so that it can be named."""
        names = [path for suffix in (".pt", ".json") for path in self.folder.glob(f"[0-9]*{suffix}")]
        return sorted({int(path.stem) for path in names if path.stem.isdecimal()})

    def _is_finished(self, number: int) -> bool:
        return all((self.folder / f"{number:08d}{suffix}").is_file() for suffix in (".pt", ".json"))

    def _read(self, number: int) -> dict[str, Any]:
        manifest_path = self.folder / f"{number:08d}.json"
        if not manifest_path.is_file():
            raise ValueError("never finished: it has no manifest")
        manifest = json_object(read_file(manifest_path))
        if (version := manifest["format_version"]) != FORMAT_VERSION:
            told = f"has format version {version}, this version reads {FORMAT_VERSION}"
            raise CheckpointError(f"checkpoint {manifest_path} {told}; finish the run with the version that began it")
        # Older versions did not say whose it is.
        self._refuse_another_run(manifest_path, manifest.get("run", self.run))
        data = read_file(self.folder / f"{number:08d}.pt")
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise ValueError("sha256 differs from its manifest")
        # weights_only: tensors and plain values; a pickle that wants to run code is an UnpicklingError.
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        return _State(state)

    def _refuse_another_run(self, path: Path, theirs: Any) -> None:
        theirs = theirs if isinstance(theirs, dict) else {}
        if self.run and theirs.get("config_sha256") in self.earlier:  # The seed may have been another then, too.
            theirs = self.run | {"run_id": theirs.get("run_id")}
        if differing := [key for key in self.run if theirs.get(key) != self.run[key]]:
            cure = f"restore this run's own, or remove {self.folder} to start again"
            raise CheckpointError(f"checkpoint {path} is of another run ({', '.join(differing)}); {cure}")

    def _remove(self, number: int) -> None:
        for suffix in (".json", ".pt"):  # The manifest first: half a removal must not look like a checkpoint.
            (self.folder / f"{number:08d}{suffix}").unlink(missing_ok=True)

    def _remove_temporary_files(self) -> None:
        """Remove leftovers of a killed write."""
        for path in self.folder.glob(".*.tmp-*"):
            path.unlink(missing_ok=True)
