"""One run node of a sweep: the state of its folder, its lock, its run or search, its failure.

The folder is the truth: a record or a search summary means done, `NODE.failed.json` beside it that it failed, a
checkpoint that it goes on from there. The lock is the kernel's, so it is gone with the process that held it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from earlybird.atomic import file_lock, json_object, named_errors, read_file, write_atomically
from earlybird.errors import ConfigError, EarlyBirdError, MethodError, RunFolderError, SweepError, one_line, reason
from earlybird.grids.grid import RunNode
from earlybird.methods.pipeline import plan_method
from earlybird.methods.task import STEP_TIMES
from earlybird.runs.folder import SEARCH_NAME, WITHOUT_EFFECT, read_search
from earlybird.runs.record import recorded_schedule
from earlybird.runs.record_file import RECORD_NAME, Record, finished_record, recorded_training_macs
from earlybird.runs.run import run, run_search
from earlybird.settings.method import TICKET_FILE, EarlyBirdTraining, Method, Plans, StartsFromTicket, TicketRequest
from earlybird.settings.run import RunConfig, TrainingSettings, differences, read_yaml, with_younger_settings
from earlybird.training.checkpoint import Checkpoints

State = Literal["open", "done", "failed"]
FAILED_NAME, EVENTS_NAME, LOCKS_NAME = "failed.json", "events.jsonl", "locks"
# A search is kept where the last training gets at least this share of what Early-Bird's got, and the last training of a
# shortened schedule is at least this share of the schedule.
_LEAST_LAST_TRAINING = 0.5
ENDS = {"run": RECORD_NAME, "search": SEARCH_NAME}


def new_token() -> str:
    """Name of a call of `compare`, which holds the time at which it began."""
    return f"{time.time():.3f}-{uuid.uuid4().hex}"


def failure_of(root: Path, node: RunNode) -> dict[str, Any] | None:
    """Content of `failed.json`: `error` in one line, `kind`, `traceback`, `token`; None if nothing failed."""
    path = _failure_file(root, node)
    try:
        found = json_object(read_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = {"time": None}
    if not isinstance(found.get("time", 0.0), (int, float)):
        return {"error": f"{path} cannot be read", "kind": "unknown", "traceback": "", "token": ""}
    return found


def error_of(root: Path, node: RunNode) -> str:
    """Error of a failed node in one line; empty if nothing failed."""
    return str((failure_of(root, node) or {}).get("error", ""))


def node_lock(root: Path, node: RunNode) -> AbstractContextManager[str]:
    """Hold the node's lock; yields who else has it, or "" (see `file_lock`)."""
    return file_lock(root / LOCKS_NAME / f"{node.id}.lock", wait=False)


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
    if node.kind == "search":
        run_search(node.config, node.requests, root / node.id, quiet=quiet, step_times=root / STEP_TIMES)
    elif node.equal_to is not None:
        full, early_bird = node.equal_to
        full_record = _record(root, full, node.config)
        theirs = _record(root, early_bird, node.config, "method.")
        training, is_kept = at_equal_cost(node.config, full_record, theirs)
        # Not the ticket of the search: where the grid has grown since, it was done again.
        ticket = root / full / TICKET_FILE if is_kept else None
        try:
            run(replace(node.config, training=training), root / node.id, ticket=ticket, quiet=quiet)
        except ConfigError as error:
            told = f"its schedule at the cost of {early_bird} is {training.epochs} epochs: {error}"
            raise ConfigError(told) from error
    else:
        dense_run = None if node.dense_run is None else root / node.dense_run
        ticket, times = _ticket_of(root, node), root / STEP_TIMES
        run(node.config, root / node.id, ticket=ticket, dense_run=dense_run, quiet=quiet, step_times=times)


def record_of_node(root: Path, node: RunNode) -> Record | None:
    """Record of a node's finished run; None where there is none.

    Raises:
        RunFolderError: there is one and it cannot be read, or is of another run.
    """
    record = finished_record(root / node.id)
    if record is not None:
        of_its_own = () if node.equal_to is None else ("training.epochs", "training.budget_macs")
        _refuse_another(root / node.id / RECORD_NAME, record["config"], node.config, *of_its_own)
    return record


def _record(root: Path, name: str, config: RunConfig, *may_differ: str) -> Record:
    """Record of a run that a node at equal cost starts from."""
    if (record := finished_record(root / name)) is None:
        raise SweepError(f"{root / name} holds no finished run; give the same command again")
    _refuse_another(root / name / RECORD_NAME, record["config"], config, *may_differ)
    return record


def _refuse_another(path: Path, settings: dict[str, Any], config: RunConfig, *may_differ: str) -> None:
    """Raise if a file is of a run with other settings than these; `may_differ` are prefixes of those that may."""
    changes = differences(with_younger_settings(settings, config), config.to_dict())
    if wrong := [change for change in changes if not change.startswith((*may_differ, *WITHOUT_EFFECT))]:
        cure = "restore its own, or remove it and give the same command again"
        raise RunFolderError(f"{path} is of another run ({'; '.join(wrong[:3])}); {cure}")


def at_equal_cost(
    config: RunConfig, full: Mapping[str, Any], early_bird: Mapping[str, Any]
) -> tuple[TrainingSettings, bool]:
    """Fit a run to the cost of an Early-Bird run, search included; its record `full` is of the full schedule.

    What is left of the cost after the search goes into the last training (`budget_macs`). A ticket that Early-Bird
    draws before the end of its schedule stays the ticket that it is, and so does its search. A search as long as the
    schedule leaves too little: there the whole schedule is shortened first. Most of a run shrinks with its schedule;
    what does not (ThiNet's fine-tuning, the epochs that late rewinding saves) follows from the method's plan.

    Returns:
        Its epochs and budget, and whether it starts from the ticket of the run with the full schedule.
    """
    macs = recorded_training_macs(early_bird)
    retrained, theirs = (record["cost"]["phases"].get("retrain", {}).get("macs", 0) for record in (full, early_bird))
    left = macs - (recorded_training_macs(full) - retrained)
    is_kept = bool(retrained) and keeps_search(config.method, left, theirs)
    epochs = config.training.epochs if is_kept else _epochs_at_cost(config, full, macs)
    return replace(config.training, epochs=epochs, budget_macs=macs), is_kept


def keeps_search(method: Method, left: int, theirs: int) -> bool:
    """True if a method's ticket, drawn before the end, is trained with the MACs that are `left` after its search.

    theirs: MACs of Early-Bird's last training.
    """
    search = method.shared_search() if isinstance(method, StartsFromTicket) else None
    is_early = search is not None and search.draw_at != "last"
    return is_early and left > 0 and left >= _LEAST_LAST_TRAINING * theirs


def _epochs_at_cost(config: RunConfig, record: Mapping[str, Any], macs: int) -> int:
    """Number of epochs, at least 1, of a whole schedule whose training cost comes nearest to `macs`, search included.

    One that costs more takes the difference from the last training, so there may be fewer epochs where that is cheap.
    """
    per_epoch = _macs_per_epoch(config, record)
    fixed = recorded_training_macs(record) - config.training.epochs * per_epoch
    last = record["cost"]["phases"].get("retrain", {}).get("macs", 0) / config.training.epochs
    epochs = max(1, round((macs - fixed) / per_epoch))
    while epochs > 1 and macs - fixed - epochs * (per_epoch - last) < _LEAST_LAST_TRAINING * epochs * last:
        epochs -= 1
    return epochs


def _macs_per_epoch(config: RunConfig, record: Mapping[str, Any]) -> float:
    """Training MACs that one epoch more of the whole schedule costs; the rest, such as ThiNet's fine-tuning, is fixed.

    A method without a plan, and a run whose record does not say its data (an older version), grows as a whole.

    Raises:
        MethodError: the cost does not depend on the schedule, by the method's plan.
    """
    epochs = config.training.epochs
    if not isinstance(config.method, Plans) or not record.get("data"):
        return recorded_training_macs(record) / epochs
    once, twice = (recorded_schedule(record, epochs=factor * epochs) for factor in (1, 2))
    planned = (plan_method(config.method, schedule).training_macs(schedule) for schedule in (twice, once))
    per_epoch = (next(planned) - next(planned)) / epochs
    if per_epoch <= 0:
        name = config.method.name
        raise MethodError(f"by its plan the cost of method {name} does not depend on --epochs; no --equal-cost for it")
    return per_epoch


def fail(root: Path, node: RunNode, token: str, error: Exception, **more: Any) -> None:
    """Write down why a node failed, and log that it did, with more facts for the log."""
    failure = {
        "error": reason(error) if isinstance(error, EarlyBirdError) else one_line(error),
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
        "token": token,
        "time": time.time(),
    }
    write_atomically(_failure_file(root, node), json.dumps(failure, indent=1).encode())
    _log_event(root, node, "failed", **more)


def _log_event(root: Path, node: RunNode, what: str, **more: Any) -> None:
    """Append a line to the sweep's log."""
    line = {"time": round(time.time(), 3), "pid": os.getpid(), "node": node.id, "event": what, **more}
    path = root / EVENTS_NAME
    with named_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def events_since(root: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Events logged since a byte position, and the position after them; a half-written line waits.

    Lines that are none, as a full disk leaves, are left out.
    """
    path = root / EVENTS_NAME
    if not path.is_file():
        return [], position
    with open(path, "rb") as file:
        file.seek(position)
        whole, newline, _ = file.read().rpartition(b"\n")
    events = [event for event in map(_event_in, whole.splitlines()) if event is not None]
    return events, position + len(whole) + len(newline)


def _event_in(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        event = json_object(line)
        if isinstance(event.get("node"), str) and isinstance(event.get("event"), str):
            return event
    return None


def _ticket_of(root: Path, node: RunNode) -> Path | None:
    if node.search is None or node.request is None:
        return None
    own = root / node.id / TICKET_FILE
    # What has begun goes on from its own ticket: a search that was done again, for more ratios, may differ in bits.
    if own.is_file() and Checkpoints(root / node.id / "checkpoints").exist():
        return own
    asked = read_search(root / node.search)["tickets"]
    path = root / node.search / "config.yaml"
    stored = read_yaml(path)
    _refuse_another(path, stored if isinstance(stored, dict) else {}, node.config, "method.", "resolved.")
    if [node.request.prune_ratio, node.request.draw_at] not in asked:
        told = f"holds no ticket of p = {node.request.prune_ratio:g} at {node.request.draw_at}"
        raise RunFolderError(f"{path.with_name(SEARCH_NAME)} is of another search: it {told}; restore its own")
    path = root / node.search / node.request.file_name([TicketRequest(ratio, draw) for ratio, draw in asked])
    if path.is_file():
        return path
    method = node.config.method
    if isinstance(method, EarlyBirdTraining) and method.on_no_ticket == "finish":
        return None  # It searches by itself: in vain, and ends with the dense network, as it would alone.
    raise SweepError(
        f"no ticket of p = {node.request.prune_ratio:g}: the rule never fired in {node.search}; raise "
        "--method.epsilon or --epochs"
    )


def _failure_file(root: Path, node: RunNode) -> Path:
    # Beside the folder, which must hold nothing but the run: a failed start leaves none.
    return root / f"{node.id}.{FAILED_NAME}"
