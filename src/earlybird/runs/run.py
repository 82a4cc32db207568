"""`run`: configuration in, finished run folder out. Call it again after a kill and it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from earlybird.atomic import write_atomically
from earlybird.core import Ticket
from earlybird.cost import count_cost
from earlybird.data import eval_batches
from earlybird.errors import ConfigError, RunFolderError, TicketError
from earlybird.methods.candidate import Candidate
from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.methods.early_bird_search import (
    candidate_from_ticket,
    check_notes,
    raise_no_ticket,
    search,
    search_steps,
)
from earlybird.methods.pipeline import run_method
from earlybird.methods.search_hooks import momentum_file, rewind_file, ticket_file
from earlybird.methods.task import Task
from earlybird.runs.config import RunConfig, refuse_unnamed_code
from earlybird.runs.folder import RunFolder, read_record
from earlybird.runs.prepare import EVAL_BATCH_SIZE, load_bundle, prepare
from earlybird.runs.record import make_record
from earlybird.runs.saved_model import load_network, save_network
from earlybird.training.compute import Compute, choose_device
from earlybird.training.evaluate import Evaluation, evaluate
from earlybird.training.fields import require
from earlybird.training.interrupt import StopFlag, stop_on_signals


def run(
    config: RunConfig, out: str | Path, *, ticket: str | Path | None = None, force: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Train a configuration to its record, from wherever the folder stands.

    Args:
        config: what to run.
        out: the run folder; made if absent.
        ticket: start from this ticket instead of searching.
        force: go on even if the folder holds another configuration.
        quiet: print no progress.

    Returns:
        The record (`record.json`).

    Raises:
        EarlyBirdError: anything the user can mend; one line.
        Terminated: a signal asked to stop; the state is saved.
    """
    folder = RunFolder(out)
    # Read before the folder is made: a wrong ticket must leave nothing behind.
    drawn = None if ticket is None else Ticket.load(ticket)
    resolved = folder.open(config, force=force)
    if drawn is not None:
        _refuse_another_ticket(folder, drawn)
    finished = folder.record()
    if finished is not None:
        folder.checkpoints.clear()  # A kill may have come between the record and this.
        return finished
    with _started(folder) as stop:
        prepared = prepare(config, folder, resolved, stop, quiet)
        candidate = None
        if ticket is not None and drawn is not None and prepared.task.session.checkpoints.latest() is None:
            candidate = _start_from_ticket(config, prepared.task, drawn, Path(ticket))
        outcome = run_method(config.method, prepared.task, prepared.test_batches(), candidate)
        used = outcome.candidate.ticket
        save_network(folder.path, outcome.candidate.model, prepared.spec, used.mask if used else None)
        dense = count_cost(prepared.spec.build(0), prepared.task.image_shape)
        classes = prepared.bundle.num_classes
        record = make_record(config, prepared.resolved, prepared.task, outcome, dense, classes, folder.path)
        folder.write_record(record)
        folder.checkpoints.clear()
    return record


def run_search(
    config: RunConfig, ratios: list[float], out: str | Path, *, force: bool = False, quiet: bool = False
) -> dict[float, Path | None]:
    """Search several ratios in one dense training and leave a ticket file for each.

    Returns:
        Ratio -> path of its ticket, or None where the rule never fired.

    Raises:
        ConfigError: the method does not search, or a ratio is out of range or there twice.
        EarlyBirdError: anything else the user can mend.
    """
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    different = len({f"{ratio:g}" for ratio in ratios}) == len(ratios) > 0
    require("--ratios", ratios, different and all(0 <= ratio < 1 for ratio in ratios), "different numbers in [0, 1)")
    folder = RunFolder(out)
    resolved = folder.open(config, force=force)
    paths = {ratio: folder.path / ticket_file(ratio, tuple(ratios)) for ratio in ratios}
    done = folder.path / "search.json"
    if not done.is_file():
        with _started(folder) as stop:
            task = prepare(config, folder, resolved, stop, quiet).task
            # Nobody wants the dense network here: without a ticket the training ends when the draws do.
            end_step = search_steps(config.method, task.session)
            hooks, _ = search(config.method, task, ratios, task.session.checkpoints.latest(), end_step=end_step)
            if config.method.on_no_ticket == "error" and not hooks.has_all_tickets():
                raise_no_ticket(hooks)
            summary = {"ratios": ratios, "fired": hooks.detector.fired, "distances": hooks.detector.distances}
            write_atomically(done, json.dumps(summary | {"draw_steps": hooks.draw_steps}).encode())
            folder.checkpoints.clear()
    searched = json.loads(done.read_text())["ratios"]
    if searched != ratios:
        raise ConfigError(f"{folder.path} holds a search of the ratios {searched}; give these, or another --out")
    return {ratio: path if path.is_file() else None for ratio, path in paths.items()}


def run_evaluation(out: str | Path, *, device: str = "auto", trusted: Collection[str] = ()) -> Evaluation:
    """Read the test set once more with the network that a run ended with.

    Args:
        out: the run folder; nothing is written.
        device: auto, cpu, cuda or cuda:N.
        trusted: names of models and data in the user's own code that may be imported and called; a run folder by
            itself runs no code.

    Raises:
        EarlyBirdError: the folder holds no finished run, its data is gone, or it names code that is not trusted.
    """
    folder = Path(out)
    record = read_record(folder)
    if record is None:
        raise ConfigError(f"{folder / 'record.json'} does not exist; give the folder of a finished run")
    config = RunConfig.from_dict(record["config"])
    refuse_unnamed_code("--data", config.data.name, trusted)
    model, _ = load_network(folder, trusted=trusted)
    compute = Compute(choose_device(device), record["resolved"]["precision"])
    bundle = load_bundle(config.data, config.training.seed)
    batches = eval_batches(
        bundle, "test", batch_size=EVAL_BATCH_SIZE, device=compute.device, workers=config.data.workers,
        memory_format=compute.memory_format,
    )  # fmt: skip
    return evaluate(compute.place(model), batches, compute)


@contextmanager
def _started(folder: RunFolder) -> Iterator[StopFlag]:
    """Signals are heeded inside, and a start that fails leaves no folder behind."""
    try:
        with stop_on_signals() as stop:
            yield stop
    except BaseException:
        folder.discard_failed_start()
        raise


def _refuse_another_ticket(folder: RunFolder, ticket: Ticket) -> None:
    """Raise if the folder has begun a run that did not start from this very ticket."""
    path = folder.path / ticket_file(0.0, (0.0,))
    if folder.record() is None and not folder.checkpoints.exist():
        return
    own = Ticket.load(path) if path.is_file() else None
    same = own is not None and own.mask == ticket.mask and own.weights.keys() == ticket.weights.keys()
    if own is None or not same or not all(torch.equal(own.weights[name], ticket.weights[name]) for name in own.weights):
        raise RunFolderError(f"{folder.path} holds a run that did not start from this ticket; give another --out")


def _start_from_ticket(config: RunConfig, task: Task, ticket: Ticket, path: Path) -> Candidate:
    """Put the ticket (and what it needs from the files beside it) into the run folder, charge its search, and cut."""
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which takes no ticket; give early_bird")
    check_notes(ticket)
    drawn = (ticket.notes["total_steps"], ticket.notes["steps_per_epoch"])
    now = (task.session.total_steps, task.session.steps_per_epoch)
    if config.method.resolved_schedule == "continue" and drawn != now:
        raise TicketError(
            f"the ticket was drawn in a schedule of {drawn[0]} steps, this run has {now[0]} (per epoch {drawn[1]} and "
            f"{now[1]}); give the --epochs, --batch-size and --data of the search, or --method.schedule restart"
        )
    copy = task.folder / ticket_file(0.0, (0.0,))
    ticket.save(copy)
    wanted = []
    if config.method.weights == "rewind":
        wanted.append(tuple(rewind_file(place, config.method.rewind_epoch) for place in (path.parent, task.folder)))
    if config.method.carry_momentum:
        wanted.append((momentum_file(path), momentum_file(copy)))
    for theirs, ours in wanted:
        if theirs.is_file() and not ours.is_file():
            shutil.copyfile(theirs, ours)
    task.session.journal.load_state_dict(ticket.notes["journal"])
    return candidate_from_ticket(config.method, task, ticket)
