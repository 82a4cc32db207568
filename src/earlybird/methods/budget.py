"""What an Early-Bird run of a ticket costs to train, how many steps of a network that buys, and runs with a budget.

The controls at equal total cost are matched by it. Costs are multiply-accumulates as executed, without the final
evaluation: each run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from torch import nn

from earlybird.core import ChannelGroups, Ticket
from earlybird.cost import CostLedger, ModelCost
from earlybird.data import Batches
from earlybird.methods.candidate import Candidate
from earlybird.methods.retrain import check_groups, check_notes, refuse_foreign_ticket
from earlybird.methods.task import Task
from earlybird.slimming.protection import PolicyChoice
from earlybird.training.session import Session

# In checkpoints of a last training with a budget: the step at which it ends, and the candidate's flags.
BUDGET_KEY = "budget"
# A last training shorter than this share of the one without a budget is told of.
_SHORT = 0.25
# What cannot be fitted to its budget is told of where it misses it by more.
_NEAR = 0.05


def groups_of_ticket(task: Task, ticket: Ticket, dense: nn.Module, method: str) -> ChannelGroups:
    """The units that a ticket was drawn with.

    Raises:
        TicketError: it was drawn from another network, by another method, or in a loop that noted nothing.
    """
    check_notes(ticket)
    refuse_foreign_ticket(ticket, method)
    groups = task.groups(dense, cast(PolicyChoice, ticket.policy))
    check_groups(ticket, groups)
    return groups


def early_bird_macs(task: Task, ticket: Ticket, slim_cost: ModelCost, start: int | Literal["ticket"]) -> int:
    """MACs of the search behind a ticket and of training what it leaves to the end of the schedule.

    Args:
        task: the run.
        ticket: of an Early-Bird search.
        slim_cost: of the network that the ticket leaves.
        start: epoch at which training goes on after the cut, or "ticket" for where the ticket was drawn; a later one
            than that is taken for it.
    """
    searched = CostLedger.from_state(ticket.notes["journal"]["ledger"]).total().macs
    step = int(ticket.notes["step"])
    if start != "ticket":
        step = min(step, start * task.session.steps_per_epoch)
    return searched + training_macs(task.session, slim_cost, step, task.session.total_steps)


def training_macs(session: Session, cost: ModelCost, start_step: int, end_step: int) -> int:
    """MACs of training from one global step to another, validation after each epoch and at the end included."""
    images = images_by(end_step, session.train) - images_by(start_step, session.train)
    per_epoch = session.steps_per_epoch
    validations = -(-end_step // per_epoch) - start_step // per_epoch if end_step > start_step else 0
    val_images = 0 if session.val is None else session.val.num_samples
    return images * cost.train_macs + validations * val_images * cost.macs


def images_by(step: int, batches: Batches) -> int:
    """Images that were trained on by a global step; the last batch of an epoch may be smaller."""
    epochs, steps = divmod(step, batches.steps_per_epoch)
    return epochs * batches.num_samples + steps * batches.batch_size


def steps_that_buy(macs: int, cost: ModelCost, session: Session, start_step: int = 0) -> int:
    """The number of training steps from a global step on, at least 1, whose cost comes nearest to `macs`."""

    def spent(steps: int) -> int:
        return training_macs(session, cost, start_step, start_step + steps)

    # By hand: `bisect` asks a range for its length, which ends at 2^63.
    low, high = 0, 1
    while spent(high) < macs:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) < macs else (low, middle)
    # The first number of steps that costs as much or more, or the one before it.
    return max(1, min(low, high, key=lambda steps: abs(spent(steps) - macs)))


def within_budget(task: Task, candidate: Candidate, resume: Mapping[str, Any] | None) -> Candidate:
    """The candidate with a last training as long as the run's budget allows, where it has one.

    The learning-rate schedule ends where that training ends. A candidate that has nothing left to train stays.

    Args:
        task: the run.
        candidate: what its method found.
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
        far_off = abs(spent / budget - 1) > _NEAR
        return (
            replace(candidate, flags=(*candidate.flags, f"nothing was trained last: {so_far}"))
            if far_off
            else candidate
        )
    cost, start = task.cost(candidate.model), candidate.start_step
    steps, planned = steps_that_buy(round(budget) - spent, cost, session, start), candidate.end_step - start
    flags = candidate.flags
    if steps < _SHORT * planned:
        flags = (*flags, f"its last training is {steps / planned:.2f} of the one without a budget: {so_far}")
    return _ending_at(candidate, start + steps, flags)


def budget_carry(task: Task, candidate: Candidate) -> dict[str, Any]:
    """What the checkpoints of a last training hold so that it goes on to the same end after a kill."""
    if not task.session.settings.budget_macs:
        return {}
    return {BUDGET_KEY: {"end_step": candidate.end_step, "flags": list(candidate.flags)}}


def _ending_at(candidate: Candidate, end_step: int, flags: tuple[str, ...]) -> Candidate:
    return replace(candidate, end_step=end_step, schedule_steps=end_step, flags=flags)
