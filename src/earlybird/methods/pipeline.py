"""The pipeline every method shares: search -> slim -> train what came out -> evaluate once on the test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from earlybird.cost import evaluation_work
from earlybird.data import Batches
from earlybird.methods.candidate import Candidate
from earlybird.methods.catalog import Method
from earlybird.methods.search_hooks import PenaltyHooks
from earlybird.methods.task import Task
from earlybird.training.evaluate import Evaluation, evaluate
from earlybird.training.loop import fit
from earlybird.training.state import Span


@dataclass(frozen=True)
class Outcome:
    """A finished run: the candidate with its trained module, and its one reading of the test set."""

    candidate: Candidate
    test: Evaluation


def run_method(method: Method, task: Task, test: Batches, candidate: Candidate | None = None) -> Outcome:
    """Run a method from wherever its checkpoints stand to its result.

    Args:
        method: the method and its hyperparameters.
        task: network, data and places.
        test: the test set, read once, at the end.
        candidate: start from this one instead of searching (a ticket that was drawn before).
    """
    resume = task.session.checkpoints.latest()
    searching = resume is None or resume["phase"] == "search"
    if candidate is None:
        candidate = method.search(task, resume) if searching else method.restore(task)
    train_candidate(task, candidate, None if searching else resume)
    return Outcome(candidate, evaluate_candidate(task, candidate, test))


def train_candidate(task: Task, candidate: Candidate, resume: dict[str, Any] | None) -> None:
    """Train the candidate's module over the steps that are left to it."""
    if candidate.start_step >= candidate.end_step:
        return
    span = Span(candidate.phase, candidate.start_step, candidate.end_step)
    hooks = PenaltyHooks(candidate.penalty) if candidate.penalty else None
    cost = task.cost(candidate.model)
    fit(task.session, candidate.model, span, cost, hooks=hooks, momentum=candidate.momentum, resume=resume)


def evaluate_candidate(task: Task, candidate: Candidate, test: Batches) -> Evaluation:
    """Read the test set and charge it."""
    session = task.session
    cost = task.cost(candidate.model)
    between: Callable[[], None] = session.stop.raise_if_set
    with session.meter("evaluate") as meter:
        result = evaluate(candidate.model, test, session.compute, between)
    session.journal.ledger.add(meter.cost(evaluation_work(cost, result.samples, test.steps_per_epoch)))
    return result
