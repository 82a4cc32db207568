"""`record.json`: path, schema version, reading and writing. Loads no torch: reports read it.

A record is a plain dictionary of JSON types; fractions lie in [0, 1]. What is read here is checked by its schema, so
that others may rely on the keys they use.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from earlybird.atomic import read_file, write_atomically
from earlybird.errors import RunFolderError, reason
from earlybird.runs.schema import parse

Record = dict[str, Any]

RECORD_NAME = "record.json"
SCHEMA_VERSION = 1


def read_record(path: str | Path) -> Record:
    """Read the record in one file, checked by its schema (`record.schema.json`).

    Raises:
        RunFolderError: the file is unreadable, no strict JSON, of another schema version, or not as the schema says.
    """
    path = Path(path)
    try:
        return parse(read_file(path), "record", SCHEMA_VERSION)
    except (OSError, ValueError) as error:
        cure = "remove it and give the run's command again"
        raise RunFolderError(f"cannot read record '{path}': {reason(error)}; {cure}") from error


def finished_record(folder: Path) -> Record | None:
    """Record of the finished run in a folder; None where there is none.

    Raises:
        RunFolderError: there is one and it cannot be read.
    """
    path = folder / RECORD_NAME
    return read_record(path) if os.path.lexists(path) else None


def record_of(folder: Path) -> Record:
    """Record of the finished run in a folder.

    Raises:
        RunFolderError: the folder holds no finished run, or its record cannot be read.
    """
    record = finished_record(folder)
    if record is None:
        raise RunFolderError(f"no finished run in '{folder}' (no {RECORD_NAME}); give the folder of one")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a run into its folder, replacing the old one in one step."""
    write_atomically(folder / RECORD_NAME, json.dumps(record, indent=1, allow_nan=False).encode())


def file_digests(folder: Path) -> dict[str, str]:
    """`files` of a record: sha256 of the tickets, masks and the network that a run left."""
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_files(folder: Path, *names: str) -> None:
    """Raise if a file of a finished run is another than it left; records of older versions do not say.

    Raises:
        RunFolderError: it is, or the record cannot be read.
    """
    left: Mapping[str, str] = (finished_record(folder) or {}).get("files") or {}
    for path in (folder / name for name in names if name in left):
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != left[path.name]:
            why = f"its sha256 is not that of {RECORD_NAME}"
            raise RunFolderError(f"{path} is not the file that this run left ({why}); restore it or run again")


def load_records(paths: Iterable[str | Path]) -> list[Record]:
    """Read the records of all finished runs in or anywhere below the paths, each once, in path order.

    A path is a record file, a run folder, or a folder of run folders.

    Example:
        >>> records = load_records(["runs/demo"])  # doctest: +SKIP

    Raises:
        RunFolderError: a path does not exist, no finished run lies below it, or no record can be read.

    Warns:
        UserWarning: a record cannot be read; the others are.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise RunFolderError(f"no such run folder: '{given}'; give a run folder or a folder of run folders")
        below = [given] if given.is_file() else sorted(given.rglob(RECORD_NAME))
        if not below:
            raise RunFolderError(f"no {RECORD_NAME} below '{given}'; only finished runs have one")
        found.update({path.resolve(): path for path in below if path.resolve() not in found})
    records, refused = [], []
    for path in found.values():
        try:
            records.append(read_record(path))
        except RunFolderError as error:
            refused.append(error)
    if not records:
        raise refused[0]
    for refusal in refused:
        warnings.warn(f"left out: {refusal}", stacklevel=2)
    return records


def recorded_training_macs(record: Mapping[str, Any]) -> int:
    """MACs of a finished run, search included, final evaluation left out."""
    evaluation = record["cost"]["phases"].get("evaluate") or {}
    return int(record["cost"]["total"]["macs"]) - int(evaluation.get("macs", 0))
