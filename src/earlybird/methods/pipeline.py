"""The pipeline every method shares: search -> slim -> train what came out -> evaluate once on the test set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from earlybird.cost import MethodPlan, Schedule, Stage, evaluation_work
from earlybird.data import Batches
from earlybird.errors import EarlyBirdError, MaskError, MethodError, SlimError, one_line
from earlybird.methods.budget import carried, planned_within, within_budget
from earlybird.methods.hooks import HoldHooks, near_chance
from earlybird.methods.retrain import ticket_in
from earlybird.methods.task import Candidate, DenseRun, Task
from earlybird.settings.method import (
    ChecksNetwork,
    Method,
    Plans,
    StartsFromDense,
    StartsFromTicket,
    hardware_multiple,
    with_multiple,
)
from earlybird.training.checkpoint import changed_checkpoint
from earlybird.training.compute import Evaluation, evaluate
from earlybird.training.loop import fit
from earlybird.training.state import Span

_PHASES = ("search", "train", "retrain")


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        candidate: with its trained module.
        test: its one reading of the test set.
        uncut_test: that of the trained network before its channels went, where their going changed it.
    """

    candidate: Candidate
    test: Evaluation
    uncut_test: Evaluation | None = None


def run_method(
    method: Method, task: Task, test: Batches, candidate: Candidate | None = None, dense: DenseRun | None = None
) -> Outcome:
    """Run a method from wherever its checkpoints stand to its result.

    Args:
        test: the test set, read once, at the end.
        candidate: start from this one instead of searching (a ticket that was drawn before).
        dense: a finished dense training to start from.

    Raises:
        MethodError: the method cannot handle this network, or cannot start from what it was given.
    """
    resume = task.session.checkpoints.latest()
    if resume is not None and resume["phase"] not in _PHASES:
        raise changed_checkpoint(f"its phase is {resume['phase']!r:.80}, none of {', '.join(_PHASES)}")
    searching = resume is None or resume["phase"] == "search"
    if candidate is None and resume is None:
        check_network(method, task.build(), task.example_input())
    if candidate is None:
        candidate = _searched(method, task, resume, dense) if searching else method.restore(task)
    if searching and resume is not None and candidate.phase == "train":
        raise changed_checkpoint(f"its phase is 'search', which method {method.name} has not")
    begun = None if searching else resume
    candidate = within_budget(task, candidate, begun)
    train_candidate(task, candidate, begun)
    found = (*_flags_about_learning(task, candidate), *_flags_about_the_average(task, candidate))
    candidate = replace(candidate, flags=(*candidate.flags, *found))
    uncut = None if candidate.uncut is None else evaluate_model(task, candidate.uncut, test)
    return Outcome(candidate, evaluate_model(task, candidate.model, test), uncut)


def _flags_about_learning(task: Task, candidate: Candidate) -> list[str]:
    """Signs that what channels or weights were chosen by, or the final network, has not learnt; the run says them."""
    rows, chosen = task.session.journal.rows, candidate.ticket or candidate.weight_mask
    searched = [row for row in rows if row["phase"] == "search"] if chosen else []
    found = [*near_chance(task.session, searched, "when drawn"), *near_chance(task.session, rows, "at the end")]
    new = [flag for flag in found if flag not in candidate.flags]
    for flag in new:
        task.session.progress.say(f"result: {flag}")
    return new


def _flags_about_the_average(task: Task, candidate: Candidate) -> list[str]:
    """Tell of a network of trained weights, where the settings ask for their average."""
    is_trained_last = candidate.start_step < candidate.end_step or candidate.ticket is None
    told = "the weights are not averaged (training.ema): nothing was trained after the cut"
    return [] if not task.session.settings.ema or is_trained_last else [told]


def check_network(method: Method, model: nn.Module, example_input: Tensor) -> None:
    """Raise where a method knows that it cannot handle a network; before anything is trained.

    Raises:
        MethodError: which method, and why.
    """
    if not isinstance(method, ChecksNetwork):
        return
    try:
        method.check_network(model, example_input)
    except (SlimError, MaskError) as error:
        raise MethodError(f"method {method.name} cannot handle this network: {error}") from error


def plan_method(method: Method, schedule: Schedule) -> MethodPlan:
    """Stages of a run; a method without a `plan` is taken as one dense training, and the plan's note says so.

    `round_to` "auto" is what a run on the schedule's device and in its precision would take.

    Raises:
        MethodError: the plan of a user's method failed.
    """
    settled_method = with_multiple(method, hardware_multiple(schedule.device, schedule.precision))
    if isinstance(settled_method, Plans):
        try:
            return planned_within(settled_method.plan(schedule), schedule)
        except EarlyBirdError:
            raise
        except Exception as error:  # It is the user's code.
            raise MethodError(f"the plan of method {method.name} raised {one_line(error)}") from error
    stage = Stage("train", "dense", schedule.total_steps)
    return MethodPlan((stage,), "dense", note="it has no `plan`, and is taken as one dense training")


def start_from_ticket(method: Method, task: Task) -> Candidate:
    """The candidate of the ticket that lies in the run folder.

    Raises:
        MethodError: the method takes no ticket.
    """
    if not isinstance(method, StartsFromTicket):
        raise MethodError(f"method {method.name} takes no ticket; leave --ticket out, or give another --method")
    return method.from_ticket(task, ticket_in(task.folder))


def _searched(method: Method, task: Task, resume: dict[str, Any] | None, dense: DenseRun | None) -> Candidate:
    if dense is None:
        return method.search(task, resume)
    if not isinstance(method, StartsFromDense) or not method.starts_from_dense():
        raise MethodError(f"method {method.name}, as it is set, cannot start from a dense run; leave --dense-run out")
    return method.from_dense(task, dense)


def train_candidate(task: Task, candidate: Candidate, resume: dict[str, Any] | None) -> None:
    """Train the candidate's module over the steps that are left to it."""
    if candidate.start_step >= candidate.end_step:
        return
    start, end = candidate.start_step, candidate.end_step
    # The rate rises to that of the step after the warm-up, which a schedule that falls to 0 has none of at its end.
    warm_up = min(round(candidate.warm_up * (end - start)), end - start - 1)
    span = Span(candidate.phase, start, end, candidate.schedule_steps, warm_up)
    hooks = HoldHooks(candidate.model, candidate.penalty, candidate.weight_mask)
    cost, momentum, carry = task.cost(candidate.model), candidate.momentum, carried(task, candidate)
    fit(task.session, candidate.model, span, cost, hooks=hooks, carry=carry, momentum=momentum, resume=resume)


def evaluate_model(task: Task, model: nn.Module, test: Batches) -> Evaluation:
    """Read the test set and charge it."""
    session = task.session
    with session.meter("evaluate") as meter:
        result = evaluate(model, test, session.compute, session.stop.raise_if_set)
    session.journal.ledger.add(meter.cost(evaluation_work(task.cost(model), result.samples, test.steps_per_epoch)))
    return result
