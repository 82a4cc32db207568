"""What an Early-Bird run of a ticket costs to train, and how many steps of another network that buys.

The controls at equal total cost are matched by it. Costs are multiply-accumulates as executed, without the final
evaluation: each run pays its own.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Literal, cast

from torch import nn

from earlybird.core import ChannelGroups, Ticket
from earlybird.cost import CostLedger, ModelCost
from earlybird.data import Batches
from earlybird.methods.cut import check_groups, check_notes, refuse_foreign_ticket
from earlybird.methods.task import Task
from earlybird.slimming.certificate import PolicyChoice
from earlybird.training.session import Session


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


def steps_that_buy(macs: int, cost: ModelCost, session: Session) -> int:
    """The number of training steps, at least 1, whose cost comes nearest to `macs`."""
    most = 1 + math.ceil(macs / (cost.train_macs * session.train.num_samples)) * session.steps_per_epoch
    # The first number of steps that costs as much or more; costs rise with every step.
    enough = bisect_left(range(1, most + 1), macs, key=lambda step: training_macs(session, cost, 0, step)) + 1
    return max(1, min(enough - 1, enough, key=lambda step: abs(training_macs(session, cost, 0, step) - macs)))
