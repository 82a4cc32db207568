"""`RunFolder`: one run on disk.

A finished record means done; a checkpoint means go on; another configuration is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from earlybird.errors import RunFolderError
from earlybird.runs.config import RunConfig, differences
from earlybird.training.checkpoint import Checkpoints, write_atomically

_LINES_OF_DIFF = 6


class RunFolder:
    """Paths and files of one run.

    Raises:
        RunFolderError: the path goes through a symbolic link or `..`, or is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if ".." in self.path.parts:
            raise RunFolderError(f"--out {path} contains '..'; give the folder's own path")
        if self.path.is_symlink():
            raise RunFolderError(f"--out {path} is a symbolic link; give the folder it points to")
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {path} is a file; give a folder")

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    def open(self, config: RunConfig, *, force: bool = False) -> dict[str, Any]:
        """Look whether this configuration may run here. Nothing is written yet: a wrong model must leave no folder.

        Returns:
            What earlier starts resolved (precision, ...), or an empty dict.

        Raises:
            RunFolderError: the folder holds another configuration, or files that are no run.
        """
        path = self.path / "config.yaml"
        wanted = config.to_dict()
        if path.is_file():
            stored = yaml.safe_load(path.read_text())
            resolved = stored.pop("resolved", {})
            changes = differences(stored, wanted)
            if changes and not force:
                shown = "; ".join(changes[:_LINES_OF_DIFF]) + ("; ..." if len(changes) > _LINES_OF_DIFF else "")
                raise RunFolderError(
                    f"{self.path} holds a run with another configuration ({shown}); give another --out, "
                    "the same settings, or --force to go on with the new ones"
                )
            if changes:
                self.append_log("forced on: " + "; ".join(changes))
                self.write_config(config, resolved)
            return dict(resolved)
        if self.path.is_dir() and any(self.path.iterdir()):
            raise RunFolderError(f"{self.path} is not empty and holds no run (no config.yaml); give another --out")
        return {}

    def write_config(self, config: RunConfig, resolved: dict[str, Any]) -> None:
        """Write `config.yaml`: the settings, and under `resolved` what "auto" turned out to mean."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = config.to_yaml() + (yaml.safe_dump({"resolved": resolved}, sort_keys=False) if resolved else "")
        write_atomically(self.path / "config.yaml", text.encode())

    def record(self) -> dict[str, Any] | None:
        """The finished record, or None.

        Raises:
            RunFolderError: there is one and it cannot be read.
        """
        path = self.path / "record.json"
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise RunFolderError(f"{path} is corrupt ({error}); remove it to finish the run again") from error
        return dict(record)

    def write_record(self, record: dict[str, Any]) -> None:
        """Write `record.json`, the last act of a run."""
        write_atomically(self.path / "record.json", json.dumps(record, indent=1).encode())

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Mirror the metrics rows into `metrics.jsonl`."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", text.encode())

    def append_log(self, line: str) -> None:
        """Add a line to `run.log`."""
        with open(self.path / "run.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")
