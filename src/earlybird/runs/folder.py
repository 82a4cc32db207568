"""One run on disk: its `RunFolder`, the summary of its search, and its final network, in the files of `earlybird.save`.

A finished record means done; a checkpoint means go on; another configuration is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from earlybird.atomic import file_lock, named_errors, read_file, write_atomically
from earlybird.core import ChannelMask
from earlybird.errors import CheckpointError, ConfigError, MethodError, ModelError, RunFolderError, first_line, reason
from earlybird.methods.task import DenseRun
from earlybird.models import build_model
from earlybird.models.catalog import unmade
from earlybird.models.model_file import DESCRIPTION, load, read_description, save
from earlybird.runs.record_file import RECORD_NAME, check_files, record_of
from earlybird.runs.schema import parse
from earlybird.settings.catalog import Dense
from earlybird.settings.fields import check_settings
from earlybird.settings.run import RunConfig, differences, read_yaml, refuse_unnamed_code, with_younger_settings
from earlybird.training.checkpoint import Checkpoints

_LINES_OF_DIFF = 6
_LOCK_NAME = ".lock"
SEARCH_NAME = "search.json"
# What a run or a search leaves when it has ended; then there is nothing to force.
_ENDS = (RECORD_NAME, SEARCH_NAME)
# Settings that what an earlier start resolved depends on.
_DECIDE_RESOLVED = (
    "model.", "data.", "training.precision", "training.device", "training.batch_size", "training.step:",
)  # fmt: skip
# Settings that change no weight: a dense run that differs in them is the same training.
WITHOUT_EFFECT = (
    "data.root", "data.cache", "data.download", "data.workers", "training.checkpoint_every", "training.eval_batch_size",
)  # fmt: skip


class RunFolder:
    """Paths and files of one run.

    Raises:
        RunFolderError: the path has a `..`, is a symbolic link, or is a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if ".." in self.path.parts:
            raise RunFolderError(f"--out {path} contains '..'; give the folder's own path")
        if self.path.is_symlink():
            raise RunFolderError(f"--out {path} is a symbolic link; give the folder it points to")
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"--out {path} is a file; give a folder")
        self._is_new = not self._holds_anything()
        # Once it is held: the folder itself, which may be removed or replaced under its path.
        self._held: os.stat_result | None = None
        # The run as its checkpoints name it, and digests of configurations that it had before (--force, an upgrade).
        self._identity: dict[str, Any] = {}
        self._earlier: list[str] = []

    @property
    def checkpoints(self) -> Checkpoints:
        """Checkpoints of the run, which none of another run can be taken for once the folder is open."""
        return Checkpoints(self.path / "checkpoints", self._identity, self._earlier, self.raise_if_gone)

    @contextmanager
    def held(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder: no other process writes into it. It is made for that, and removed where nothing was left.

        Raises:
            RunFolderError: another process holds it, and `wait` is False; or it cannot be made.
            ConfigError: a launcher has started several processes.
        """
        refuse_many_processes()
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            with folder_lock(self.path, wait=wait):
                self._is_new, self._held = not self._holds_anything(), self.path.stat()
                yield
        finally:
            self._held = None
            for path in made:
                with suppress(OSError):  # It holds something now.
                    path.rmdir()

    def raise_if_gone(self) -> None:
        """Raise if the folder that is held lies no longer under its path.

        Raises:
            RunFolderError: it was removed, moved, or replaced by another.
        """
        if self._held and not (self.path.is_dir() and os.path.samestat(self.path.stat(), self._held)):
            raise RunFolderError(
                f"{self.path} was removed or replaced while its run went on, and what it held is gone from there; give "
                "the same command again"
            )

    def open(self, config: RunConfig, *, force: bool = False) -> dict[str, Any]:
        """Check that this configuration may run here, and give what earlier starts resolved (precision, ...), or {}.

        Raises:
            RunFolderError: the folder holds another configuration, or files that are no run.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            if self._holds_anything():
                raise RunFolderError(f"{self.path} is not empty and holds no run (no config.yaml); give another --out")
            self._identity = _identity(uuid.uuid4().hex, config.to_dict())
            return {}
        stored = self._stored_config()
        resolved = dict(stored.pop("resolved", None) or {})
        run_id = str(resolved.pop("run_id", "") or uuid.uuid4().hex)  # Those of older versions have none.
        changes = differences(with_younger_settings(stored, config), config.to_dict())
        self._identity = _identity(run_id, config.to_dict())
        self._earlier = [*resolved.pop("earlier", ()), _identity(run_id, stored)["config_sha256"]]
        if not changes:
            return resolved
        self._refuse(changes, force)
        self._refuse_another_method(changes)
        path = self.path / "run.log"
        with named_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"forced on: {'; '.join(changes)}\n")
        if any(change.startswith(_DECIDE_RESOLVED) for change in changes):
            resolved = {}
        if any(change.startswith("method.round_to:") for change in changes):
            resolved.pop("round_to", None)
        self.write_config(config, resolved)
        return resolved

    def write_config(self, config: RunConfig, resolved: dict[str, Any]) -> None:
        """Write `config.yaml`: the settings, and under `resolved` the run's id and the value of each "auto"."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.tmp-*"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
        earlier = sorted({*self._earlier} - {*self._identity.values()})
        resolved = {"run_id": self._identity.get("run_id"), "earlier": earlier} | resolved
        settings = config.to_dict() | {"resolved": {key: value for key, value in resolved.items() if value}}
        write_atomically(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())

    def discard_failed_start(self) -> None:
        """Remove the files of a start that failed before its first checkpoint, if the folder was empty before it."""
        if not self._is_new or self.checkpoints.exist() or any((self.path / name).is_file() for name in _ENDS):
            return
        self.checkpoints.clear()
        for path in self.path.glob("*"):
            if path.suffix in (".yaml", ".jsonl", ".safetensors", ".npz", ".log") and path.is_file():
                path.unlink()

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Mirror the metrics rows into `metrics.jsonl`; a failed write is a warning only: checkpoints hold them."""
        self.raise_if_gone()
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        path = self.path / "metrics.jsonl"
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            warnings.warn(f"{path} not written ({error.strerror or error}); the next epoch tries again", stacklevel=2)

    def _refuse_another_method(self, changes: list[str]) -> None:
        """Raise if another method has begun the run, or if a search that is over would get new settings."""
        changed = [change for change in changes if change.startswith("method.")]
        state = self.checkpoints.latest() if changed else None
        if state is None:
            return
        is_another = any(change.startswith("method.name:") for change in changed)
        is_cut = state.get("round", 0) != 0 or "layers_done" in state  # by the old settings
        if is_another or is_cut or state["phase"] != "search":
            why = "a part is pruned already" if is_cut else "its search is over"
            why = "another method has begun it" if is_another else why
            shown = "; ".join(changed[:_LINES_OF_DIFF])
            raise RunFolderError(f"{self.path} cannot go on with these settings: {why} ({shown}); give another --out")

    def _holds_anything(self) -> bool:
        """True if there are files, other than the lock and temporary ones of a killed write."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        return any(".tmp-" not in name and name != _LOCK_NAME for name in names)

    def _stored_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            stored = read_yaml(path)
        except ConfigError as error:
            raise RunFolderError(f"{path} is corrupt ({error}); restore it or give another --out") from error
        if not isinstance(stored, dict) or not stored or not all(isinstance(s, dict | None) for s in stored.values()):
            raise RunFolderError(f"{path} is corrupt (it holds no settings); restore it or give another --out")
        resolved = stored.get("resolved") or {}
        kinds = {"precision": str, "step": str, "layout": str, "run_id": str, "earlier": list, "round_to": int}
        if not isinstance(resolved, dict) or any(not isinstance(resolved.get(k, t()), t) for k, t in kinds.items()):
            raise RunFolderError(f"{path} is corrupt (resolved: {resolved!r:.80}); restore it or give another --out")
        return stored

    def _refuse(self, changes: list[str], force: bool) -> None:
        """Raise unless the changes are forced on a run that has not ended."""
        shown = "; ".join(changes[:_LINES_OF_DIFF]) + ("; ..." if len(changes) > _LINES_OF_DIFF else "")
        other = f"run with another configuration ({shown}); give another --out"
        if any((self.path / name).is_file() for name in _ENDS):
            raise RunFolderError(f"{self.path} holds a finished {other}")
        if not force:
            forced = "--force to go on with the new ones"
            raise RunFolderError(f"{self.path} holds a {other}, the same settings, or {forced}")


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a run folder, which every command that writes into it needs.

    Raises:
        RunFolderError: another process has it, and `wait` is False; or it cannot be locked.
    """
    with file_lock(folder / _LOCK_NAME, wait=wait) as holder:
        if holder:
            raise RunFolderError(f"{folder} is in use by {holder}; wait for it (--wait) or give another --out")
        yield


def refuse_many_processes() -> None:
    """Raise where a launcher (torchrun) has started several processes: each would do the whole job.

    Raises:
        ConfigError: the environment says so.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        cure = "start `earlybird` without it (many runs at once: `earlybird compare --workers N`)"
        started = f"a launcher has started {processes} processes (WORLD_SIZE)"
        raise ConfigError(f"{started}, and a run is done by one; {cure}")


def _identity(run_id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Entries of a run in the manifests of its checkpoints."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return {"run_id": run_id, "config_sha256": digest, "seed": (settings.get("training") or {}).get("seed")}


def read_search(folder: Path) -> dict[str, Any]:
    """Summary of the finished search in a folder: `ratios`, `tickets`, `fired`, `distances`, ...

    Raises:
        RunFolderError: there is none, or it cannot be read.
    """
    path = folder / SEARCH_NAME
    if not os.path.lexists(path):
        raise RunFolderError(f"{folder} holds no finished search (no {path.name}); finish it first")
    try:
        summary = parse(read_file(path), "search")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is corrupt ({reason(error)}); remove it to finish the search again") from error
    # Searches of older versions drew by the rule alone.
    summary.setdefault("tickets", [[ratio, "rule"] for ratio in summary.get("ratios", [])])
    return summary


@dataclass(frozen=True)
class NetworkSpec:
    """Arguments of `build_model` that make the dense network again.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: str
    num_classes: int = field(metadata={"within": "[1, 1000000]"})
    in_channels: int = field(metadata={"within": "[1, 1000]"})
    image_size: int = field(metadata={"within": "[1, 10000]"})
    width: float = field(metadata={"within": "(0, 100)"})

    def __post_init__(self) -> None:
        check_settings("network", self)

    def build(self, seed: int) -> nn.Module:
        """Dense network with the initial weights of a seed."""
        return build_model(**asdict(self), seed=seed)

    def unmade(self) -> nn.Module | None:
        """The dense network on `meta`: sizes without memory; None if it cannot be built there."""
        return unmade(partial(self.build, 0))

    def example_input(self) -> torch.Tensor:
        """One zero image."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)

    @torch.no_grad()
    def check(self, model: nn.Module) -> None:
        """Raise `ModelError` unless the network takes these images and gives one number per class."""
        was_training = model.training
        example = self.example_input()
        try:
            logits = model.eval()(example)
        except Exception as error:
            raise ModelError(
                f"model {self.name!r} cannot take images of shape {tuple(example.shape[1:])} ({first_line(error)}); "
                "choose another --data.image_size or another --model"
            ) from error
        finally:
            model.train(was_training)
        if (shape := tuple(logits.shape)) != (1, self.num_classes):
            wanted = f"the data has {self.num_classes} classes, so it must give (1, {self.num_classes})"
            raise ModelError(f"model {self.name!r} gives {shape} for one image; {wanted}")


def save_network(folder: Path, model: nn.Module, spec: NetworkSpec, mask: ChannelMask | None) -> None:
    """Write the two files of a network."""
    kwargs = asdict(spec)
    save(model, folder, factory=kwargs.pop("name"), kwargs=kwargs, mask=mask)


def load_network(folder: Path, *, trusted: Collection[str] = ()) -> tuple[nn.Module, NetworkSpec]:
    """Rebuild the final network of a run, in eval mode.

    trusted: names of models in the user's own code (`file.py:callable`) that may be imported and called.

    Raises:
        CheckpointError: a file is missing, corrupt, or of another format version.
        RunFolderError: a file is not the one that the run left.
        ConfigError: the network is code that is not among `trusted`.
    """
    path = folder / DESCRIPTION
    description = read_description(path)
    check_files(folder, DESCRIPTION)  # which holds the sha256 of the tensors
    try:
        spec = NetworkSpec(name=description["factory"], **description["kwargs"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} describes no network of a run ({reason(error)}); restore it or run again"
        ) from error
    refuse_unnamed_code("--model", spec.name, trusted)
    model = load(folder, factory=spec.name)
    try:
        spec.check(model)
    except ModelError as error:
        told = f"{path} and the tensors beside it make no network that takes its images"
        raise CheckpointError(f"{told} ({reason(error)[:200]}); restore them or run again") from error
    return model, spec


def load_dense_run(folder: Path, config: RunConfig, precision: str) -> DenseRun:
    """Final state of the dense run in `folder`, of the same network, data and training as `config`.

    config and precision are those of the run that is to start from it.

    Raises:
        RunFolderError: the folder holds no finished run.
        MethodError: it is no dense run, or of another network, data, training or precision, or left an average.
        CheckpointError: its network cannot be read.
    """
    record = record_of(folder)
    if (method := record["config"]["method"]["name"]) != Dense.name:
        raise MethodError(f"run {folder} is one of method {method}; give a run of method dense")
    if any(record["config"]["training"].get(name) for name in ("budget", "budget_macs")):
        length = "as long as its budget allowed"
        raise MethodError(f"run {folder} was trained for {length}; give one without a budget")
    if record["config"]["training"].get("ema"):
        raise MethodError(
            f"run {folder} left the average of its weights, not the weights; give one without training.ema"
        )
    may_differ = ("method.", "training.budget", *WITHOUT_EFFECT)
    changes = differences(with_younger_settings(record["config"], config), config.to_dict())
    changes = [change for change in changes if not change.startswith(may_differ)]
    if (theirs := record["resolved"]["precision"]) != precision:
        changes.append(f"precision: {theirs!r} -> {precision!r}")
    if changes:
        raise MethodError(f"run {folder} is of another training ({'; '.join(changes[:4])}); give one of the same")
    model, _ = load_network(folder, trusted=(config.model.name,))  # the user has named it
    rows = [{**row, "phase": "search"} for row in record["metrics"]]
    ledger = [{**record["cost"]["phases"]["train"], "phase": "search"}]
    return DenseRun(model.state_dict(), {"rows": rows, "ledger": ledger})
