"""One run node of a sweep: the state of its folder, its lock, its run or search, its failure.

The folder is the truth: a record or a search summary means done, `NODE.failed.json` beside it that it failed, a
checkpoint that it goes on from there. The lock is the kernel's, so it is gone with the process that held it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from earlybird.atomic import write_atomically
from earlybird.errors import ConfigError, EarlyBirdError, SweepError
from earlybird.grids.equal_cost import EqualCost, at_equal_cost
from earlybird.grids.grid import RunNode
from earlybird.runs.config import RunConfig
from earlybird.runs.folder import read_search
from earlybird.runs.record_file import finished_record
from earlybird.runs.run import run, run_requests
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.tickets import TICKET_FILE, TicketRequest
from earlybird.training.checkpoint import Checkpoints

State = Literal["open", "done", "failed"]
FAILED_NAME, EVENTS_NAME, LOCKS_NAME = "failed.json", "events.jsonl", "locks"
_ENDS = {"run": "record.json", "search": "search.json"}


def new_token() -> str:
    """Name of a call of `compare`, which holds the time at which it began."""
    return f"{time.time():.3f}-{uuid.uuid4().hex}"


def state_of(root: Path, node: RunNode, token: str) -> State:
    """State of a run node.

    A failure counts for the call in which it happened and for all that had begun before it: several calls that work on
    one folder try a node once. A call that begins later tries again.
    """
    folder = root / node.id
    if (folder / _ENDS[node.kind]).is_file():
        return "done"
    failure = failure_of(root, node)
    if failure is None:
        return "open"
    return "failed" if failure.get("token") == token or failure.get("time", 0.0) >= _began(token) else "open"


def _began(token: str) -> float:
    try:
        return float(token.partition("-")[0])
    except ValueError:
        return float("inf")


def failure_of(root: Path, node: RunNode) -> dict[str, Any] | None:
    """Content of `failed.json`: `error` in one line, `kind`, `traceback`, `token`; None if nothing failed."""
    path = _failure_file(root, node)
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {"error": f"{path} cannot be read", "kind": "unknown", "traceback": "", "token": ""}
    return found if isinstance(found, dict) else None


def error_of(root: Path, node: RunNode) -> str:
    """Error of a failed node in one line; empty if nothing failed."""
    return str((failure_of(root, node) or {}).get("error", ""))


@contextmanager
def node_lock(root: Path, node: RunNode) -> Iterator[bool]:
    """Hold the node's lock; yields False if another process has it.

    Raises:
        SweepError: the file system has no locks.
    """
    path = root / LOCKS_NAME / f"{node.id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise _no_locks(path, error) from error
        yield True  # The lock goes with the open file.


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it.

    Raises:
        SweepError: the file system has no locks.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise _no_locks(path, error) from error
        yield


def _no_locks(path: Path, error: OSError) -> SweepError:
    return SweepError(f"{path} cannot be locked ({error.strerror}); give --out on a file system with locks")


def execute(root: Path, node: RunNode, token: str, *, quiet: bool = True) -> State:
    """Execute a node that is locked and whose needs are done; a failure is written down, not raised.

    Raises:
        Terminated: a signal asked to stop; the state is saved.
    """
    began = time.perf_counter()
    _log_event(root, node, "started")
    try:
        run_node(root, node, quiet=quiet)
    except Exception as error:
        fail(root, node, token, error, seconds=time.perf_counter() - began)
        return "failed"
    _failure_file(root, node).unlink(missing_ok=True)
    _log_event(root, node, "finished", seconds=time.perf_counter() - began)
    return "done"


def run_node(root: Path, node: RunNode, *, quiet: bool = True) -> None:
    """Start or resume the node's run or search.

    Raises:
        EarlyBirdError: anything that can be said in one line.
    """
    folder = root / node.id
    if node.kind == "search":
        run_requests(RunConfig.from_dict(dict(node.config)), node.requests, folder, quiet=quiet)
        return
    equal = _equal_cost(root, node)
    config = _config_of(node, equal)
    dense_run = None if node.dense_run is None else root / node.dense_run
    try:
        ticket = _ticket_of(root, node, config) if equal is None else _ticket_of_full_run(root, node, equal)
        run(config, folder, ticket=ticket, dense_run=dense_run, quiet=quiet)
    except ConfigError as error:
        if node.equal_to is None:
            raise
        epochs = config.training.epochs
        raise ConfigError(f"its schedule at the cost of {node.equal_to[1]} is {epochs} epochs: {error}") from error


def _equal_cost(root: Path, node: RunNode) -> EqualCost | None:
    """Schedule and budget of a run at equal cost; None for the others.

    Raises:
        SweepError: what it is matched to is not done.
    """
    if node.equal_to is None:
        return None
    full, early_bird = (_record(root, name) for name in node.equal_to)
    return at_equal_cost(_config_of(node, None), full, early_bird)


def _config_of(node: RunNode, equal: EqualCost | None) -> RunConfig:
    config: dict[str, Any] = json.loads(json.dumps(node.config))
    if equal is not None:
        config["training"] |= {"epochs": equal.epochs, "budget_macs": equal.budget_macs}
    return RunConfig.from_dict(config)


def fail(root: Path, node: RunNode, token: str, error: Exception, **more: Any) -> None:
    """Write down why a node failed, and log that it did, with more facts for the log."""
    said = str(error) if isinstance(error, EarlyBirdError) else f"{type(error).__name__}: {error}"
    path = _failure_file(root, node)
    path.parent.mkdir(parents=True, exist_ok=True)
    failure = {
        "error": " ".join(said.split()),
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "token": token,
        "time": time.time(),
    }
    write_atomically(path, json.dumps(failure, indent=1).encode())
    _log_event(root, node, "failed", **more)


def _log_event(root: Path, node: RunNode, what: str, **more: Any) -> None:
    """Append a line to the sweep's log."""
    line = {"time": round(time.time(), 3), "pid": os.getpid(), "node": node.id, "event": what, **more}
    with open(root / EVENTS_NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def events_since(root: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Events logged since a byte position, and the position after them; a half-written line waits."""
    path = root / EVENTS_NAME
    if not path.is_file():
        return [], position
    with open(path, "rb") as file:
        file.seek(position)
        whole, newline, _ = file.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], position + len(whole) + len(newline)


def _ticket_of(root: Path, node: RunNode, config: RunConfig) -> Path | None:
    if node.search is None or node.request is None:
        return None
    own = root / node.id / TICKET_FILE
    # What has begun goes on from its own ticket: a search that was done again, for more ratios, may differ in bits.
    if own.is_file() and Checkpoints(root / node.id / "checkpoints").exist():
        return own
    asked = read_search(root / node.search)["tickets"]
    path = root / node.search / node.request.file_name([TicketRequest(ratio, draw) for ratio, draw in asked])
    if path.is_file():
        return path
    if isinstance(config.method, EarlyBirdTraining) and config.method.on_no_ticket == "finish":
        return None  # It searches by itself: in vain, and ends with the dense network, as it would alone.
    raise SweepError(f"no ticket of p = {node.request.prune_ratio:g}: the rule never fired in {node.search}")


def _ticket_of_full_run(root: Path, node: RunNode, equal: EqualCost) -> Path | None:
    """Ticket of the run with the full schedule, if this run keeps its search."""
    if not equal.keeps_search or node.equal_to is None:
        return None
    # Not that of the search: where the grid has grown since, it was done again.
    return root / node.equal_to[0] / TICKET_FILE


def _record(root: Path, name: str) -> dict[str, Any]:
    record = finished_record(root / name)
    if record is None:
        raise SweepError(f"{root / name} holds no finished run; give the same command again")
    return record


def _failure_file(root: Path, node: RunNode) -> Path:
    # Beside the folder, which must hold nothing but the run: a failed start leaves none.
    return root / f"{node.id}.{FAILED_NAME}"
