"""What an Early-Bird run of a ticket costs to train, and how many steps of another network that buys.

The controls at equal total cost are matched by it. Costs are multiply-accumulates as executed, without the final
evaluation: each run pays its own.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from earlybird.core import ChannelGroups, Ticket
from earlybird.cost import CostLedger, ModelCost
from earlybird.data import Batches
from earlybird.methods.cut import check_groups, check_notes
from earlybird.methods.task import Task
from earlybird.slimming.certificate import PolicyChoice


def groups_of_ticket(task: Task, ticket: Ticket, dense: nn.Module) -> ChannelGroups:
    """The units that a ticket was drawn with.

    Raises:
        TicketError: it was drawn from another network, or in a loop that noted nothing.
    """
    check_notes(ticket)
    groups = task.groups(dense, cast(PolicyChoice, ticket.policy))
    check_groups(ticket, groups)
    return groups


def early_bird_macs(task: Task, ticket: Ticket, slim_cost: ModelCost) -> int:
    """MACs of the search behind a ticket and of training what it leaves to the end of the schedule."""
    session = task.session
    searched = CostLedger.from_state(ticket.notes["journal"]["ledger"]).total().macs
    left = images_by(session.total_steps, session.train) - images_by(int(ticket.notes["step"]), session.train)
    return searched + left * slim_cost.train_macs


def images_by(step: int, batches: Batches) -> int:
    """Images that were trained on by a global step; the last batch of an epoch may be smaller."""
    epochs, steps = divmod(step, batches.steps_per_epoch)
    return epochs * batches.num_samples + steps * batches.batch_size


def steps_that_buy(macs: int, cost: ModelCost, batches: Batches) -> int:
    """The number of training steps, at least 1, whose cost comes nearest to `macs`."""
    images = macs / cost.train_macs
    epochs, rest = divmod(images, batches.num_samples)
    before = int(epochs) * batches.steps_per_epoch + int(rest // batches.batch_size)
    return max(1, min(before, before + 1, key=lambda step: abs(images_by(step, batches) - images)))
