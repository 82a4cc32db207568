"""Files that survive a crash and other processes: written beside their place and moved there, sealed, locked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from earlybird.errors import RunFolderError

SEAL = "seal"
# Temporary files of writes that go on; a process that must end at once removes them.
UNFINISHED: set[Path] = set()


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step that survives a crash; the temporary file is removed on failure.

    Raises:
        OSError: the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with named_errors(path):
        UNFINISHED.add(temporary)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            UNFINISHED.discard(temporary)


def read_file(path: Path) -> bytes:
    """Content of a regular file; a pipe or a device, which might be waited for, is refused.

    Raises:
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a folder" if path.is_dir() else "it is no regular file", str(path))
    return path.read_bytes()


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give an `OSError` inside the name of the file: a full disk names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """JSON object with a sha256 of its other entries, in which no change goes unnoticed.

    Raises:
        TypeError, ValueError: a value is no JSON.
    """
    return json.dumps({**values, SEAL: _digest(values)}, indent=1, allow_nan=False).encode()


def json_object(data: bytes | str) -> dict[str, Any]:
    """Object in strict JSON: UTF-8, no key twice, finite numbers that a float can hold.

    Raises:
        ValueError: it is none; one line.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        values = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_number, parse_int=_int, parse_float=_float
        )
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}" if text.strip() else "it is empty") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds {_KINDS.get(type(values), 'a number')}, not an object")
    return values


_KINDS: Mapping[type, str] = {list: "a list", str: "text", type(None): "null", bool: "true or false"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"it has the key {twice!r} twice")
    return values


def _int(text: str) -> int:
    return int(text) if math.isfinite(float(text)) else _refuse_number(text)


def _float(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text if len(text) <= 20 else f'{text[:20]}...'}, which is no number")


def unsealed_json(data: bytes) -> dict[str, Any]:
    """Entries of an object that `sealed_json` wrote.

    Raises:
        ValueError: it is no JSON object, has no seal, or was changed.
    """
    values = json_object(data)
    if values.pop(SEAL, None) != _digest(values):
        raise ValueError("its seal does not fit: it was changed")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[str]:
    """Hold the kernel's lock of a file, which is made for it and removed afterwards.

    The lock is gone with the process, however that ends. Yields "" where it is ours; without `wait` it yields who else
    holds it instead: process, host, time.

    Raises:
        RunFolderError: the file cannot be made, or the file system has no locks.
    """
    try:
        file = _locked(path, wait)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be made and locked ({error.strerror}); give --out on a file system that can be written and "
            "has locks"
        ) from error
    if isinstance(file, str):
        yield file
        return
    with file:
        holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        with suppress(OSError):  # A full disk: it is held all the same.
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), holder.encode())
        try:
            yield ""
        finally:
            if _is_at(file, path):  # Somebody may have removed or replaced the folder.
                path.unlink()


def _locked(path: Path, wait: bool) -> Any:
    """The open file once its lock is ours, or what its holder wrote into it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # Another process has just removed the folder that it had made.
            file = open(path, "a+")  # noqa: SIM115  # It stays open as long as it is held.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                with file:
                    file.seek(0)
                    return file.read() or "a process that has just begun"
            if _is_at(file, path):  # Else its holder removed it when it was done: what we hold is no longer there.
                return file
            file.close()


def _is_at(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
