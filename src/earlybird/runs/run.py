"""`run`: configuration in, finished run folder out. Call it again after a kill and it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from earlybird.core import Ticket
from earlybird.cost import count_cost
from earlybird.data import eval_batches
from earlybird.errors import ConfigError, TicketError
from earlybird.methods.candidate import Candidate
from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.methods.early_bird_search import candidate_from_ticket, search
from earlybird.methods.pipeline import run_method
from earlybird.methods.search_hooks import ticket_file
from earlybird.methods.task import Task
from earlybird.runs.config import RunConfig
from earlybird.runs.folder import RunFolder
from earlybird.runs.prepare import EVAL_BATCH_SIZE, load_bundle, prepare
from earlybird.runs.record import make_record
from earlybird.runs.saved_model import load_network, save_network
from earlybird.training.checkpoint import write_atomically
from earlybird.training.compute import Compute, choose_device
from earlybird.training.evaluate import Evaluation, evaluate
from earlybird.training.interrupt import stop_on_signals


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
    finished = folder.record()
    if finished is not None:
        return finished
    with stop_on_signals() as stop:
        prepared = prepare(config, folder, resolved, stop, quiet)
        candidate = None
        if drawn is not None and prepared.task.session.checkpoints.latest() is None:
            candidate = _start_from_ticket(config, prepared.task, drawn)
        outcome = run_method(config.method, prepared.task, prepared.test_batches(), candidate)
        used = outcome.candidate.ticket
        policy = used.policy if used else ""
        save_network(folder.path, outcome.candidate.model, prepared.spec, used.mask if used else None, policy)
        dense = count_cost(prepared.spec.build(0), prepared.task.image_shape)
        record = make_record(config, prepared.resolved, prepared.task, outcome, dense, folder.path)
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
        ConfigError: the method does not search.
        EarlyBirdError: anything else the user can mend.
    """
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which searches nothing; give early_bird")
    folder = RunFolder(out)
    resolved = folder.open(config, force=force)
    paths = {ratio: folder.path / ticket_file(ratio, tuple(ratios)) for ratio in ratios}
    done = folder.path / "search.json"
    if not done.is_file():
        with stop_on_signals() as stop:
            prepared = prepare(config, folder, resolved, stop, quiet)
            hooks, _ = search(config.method, prepared.task, ratios, prepared.task.session.checkpoints.latest())
            summary = {"ratios": ratios, "fired": hooks.detector.fired, "distances": hooks.detector.distances}
            write_atomically(done, json.dumps(summary | {"draw_steps": hooks.draw_steps}).encode())
            folder.checkpoints.clear()
    searched = json.loads(done.read_text())["ratios"]
    if searched != ratios:
        raise ConfigError(f"{folder.path} holds a search of the ratios {searched}; give these, or another --out")
    return {ratio: path if path.is_file() else None for ratio, path in paths.items()}


def run_evaluation(out: str | Path, *, device: str = "auto") -> Evaluation:
    """Read the test set once more with the network that a run ended with.

    Raises:
        EarlyBirdError: the folder holds no finished run, or its data is gone.
    """
    folder = RunFolder(out)
    record = folder.record()
    model, _ = load_network(folder.path)
    if record is None:
        raise ConfigError(f"{folder.path} holds no finished run (no record.json); run `earlybird train` on it first")
    config = RunConfig.from_dict(record["config"])
    compute = Compute(choose_device(device), record["resolved"]["precision"])
    bundle = load_bundle(config.data, config.training.seed)
    batches = eval_batches(
        bundle, "test", batch_size=EVAL_BATCH_SIZE, device=compute.device, workers=config.data.workers,
        memory_format=compute.memory_format,
    )  # fmt: skip
    return evaluate(compute.place(model), batches, compute)


def _start_from_ticket(config: RunConfig, task: Task, ticket: Ticket) -> Candidate:
    """Put the ticket into the run folder, charge its search, and cut."""
    if not isinstance(config.method, EarlyBirdTraining):
        raise ConfigError(f"method.name is {config.method.name!r}, which takes no ticket; give early_bird")
    total = ticket.notes.get("total_steps")
    if config.method.resolved_schedule == "continue" and total != task.session.total_steps:
        raise TicketError(
            f"the ticket was drawn in a schedule of {total} steps, this run has {task.session.total_steps}; give the "
            "--epochs, --batch-size and --data of the search, or --method.schedule restart"
        )
    ticket.save(task.folder / ticket_file(0.0, (0.0,)))
    task.session.journal.load_state_dict(ticket.notes["journal"])
    return candidate_from_ticket(config.method, task, ticket)
