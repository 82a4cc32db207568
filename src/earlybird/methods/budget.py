"""Budgets: the training cost of the Early-Bird run of a ticket, and last trainings that are fitted to a budget.

The controls at equal total cost are matched by it. Costs are multiply-accumulates as executed, without the final
evaluation: each run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from earlybird.core import ChannelGroups, Ticket
from earlybird.cost import CostLedger, ModelCost
from earlybird.cost.plan import Schedule, steps_that_buy, training_macs
from earlybird.methods.retrain import check_groups, check_notes, refuse_foreign_ticket
from earlybird.methods.task import Candidate, Task
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.slimming import slim

# In checkpoints of a last training with a budget: the step at which it ends, and the candidate's flags.
BUDGET_KEY = "budget"
# Flag a last training shorter than this share of the one without a budget.
_SHORT = 0.25
# Flag a realised cost that differs from the budget by more than this fraction.
_NEAR = 0.05


def networks_of_ticket(task: Task, ticket: Ticket, method: str) -> tuple[nn.Module, ChannelGroups, nn.Module]:
    """The dense network, the units that a ticket was drawn with, and the network that it leaves, for its widths.

    Raises:
        TicketError: it was drawn from another network, by another method, or in a loop that noted nothing.
    """
    check_notes(ticket)
    refuse_foreign_ticket(ticket, method)
    dense = task.build()
    groups = task.groups(dense, ticket.policy)
    check_groups(ticket, groups)
    return dense, groups, slim(dense, ticket.mask, task.example_input(), groups, check=False)


def early_bird_macs(task: Task, ticket: Ticket, slim_cost: ModelCost, start: int | Literal["ticket"]) -> int:
    """MACs of the search behind a ticket and of training what it leaves to the end of the schedule.

    Args:
        slim_cost: of the network that the ticket leaves.
        start: epoch at which training goes on after the cut, or "ticket" for where the ticket was drawn; a later one
            than that is taken for it.
    """
    searched = CostLedger.from_state(ticket.notes["journal"]["ledger"]).total().macs
    step = int(ticket.notes["step"])
    if start != "ticket":
        step = min(step, start * task.session.steps_per_epoch)
    return searched + training_macs(slim_cost, task.session.planned_data, step, task.session.total_steps)


def planned_budget(schedule: Schedule, start: int | Literal["ticket"]) -> int:
    """MACs that a control is matched to: as planned, or those of the `early_bird` that goes on at `start` (epoch)."""
    if schedule.budget_macs is not None:
        return schedule.budget_macs
    early_bird = EarlyBirdTraining() if start == "ticket" else EarlyBirdTraining(weights="rewind", rewind_epoch=start)
    return early_bird.plan(schedule).training_macs(schedule)


def within_budget(task: Task, candidate: Candidate, resume: Mapping[str, Any] | None) -> Candidate:
    """The candidate with a last training as long as the run's budget allows, where it has one.

    The learning-rate schedule ends where that training ends. A candidate that has nothing left to train stays.

    Args:
        resume: a checkpoint of the candidate's last training, or None before it.
    """
    session = task.session
    budget = session.settings.budget_macs
    if not budget:
        return candidate
    if resume is not None:
        told = resume[BUDGET_KEY]
        return _ending_at(candidate, told["end_step"], tuple(told["flags"]))
    spent = session.journal.ledger.total().macs
    so_far = f"what came before cost {spent / budget:.2f} of training.budget_macs"
    if candidate.start_step >= candidate.end_step:
        flags = (*candidate.flags, f"nothing was trained last: {so_far}")
        return replace(candidate, flags=flags) if abs(spent / budget - 1) > _NEAR else candidate
    cost, start, flags = task.cost(candidate.model), candidate.start_step, candidate.flags
    steps = steps_that_buy(round(budget) - spent, cost, session.planned_data, start)
    planned = candidate.end_step - start
    if steps < _SHORT * planned:
        flags = (*flags, f"its last training is {steps / planned:.2f} of the one without a budget: {so_far}")
    return _ending_at(candidate, start + steps, flags)


def budget_carry(task: Task, candidate: Candidate) -> dict[str, Any]:
    """Values for the checkpoints of a last training, so that it ends at the same step after a kill."""
    if not task.session.settings.budget_macs:
        return {}
    return {BUDGET_KEY: {"end_step": candidate.end_step, "flags": list(candidate.flags)}}


def _ending_at(candidate: Candidate, end_step: int, flags: tuple[str, ...]) -> Candidate:
    return replace(candidate, end_step=end_step, schedule_steps=end_step, flags=flags)
