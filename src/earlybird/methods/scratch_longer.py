"""`scratch_longer`: the ticket's network from new weights, trained until the dense budget is spent."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from earlybird.core import Ticket
from earlybird.methods.budget import groups_of_ticket, steps_that_buy, training_macs
from earlybird.methods.candidate import Candidate
from earlybird.methods.retrain import Retrain, cut
from earlybird.methods.task import Task
from earlybird.settings.controls import ScratchLonger
from earlybird.slimming import slim
from earlybird.slimming.protection import PolicyChoice


def from_ticket(method: ScratchLonger, task: Task, ticket: Ticket) -> Candidate:
    """The ticket's network with new weights, its schedule stretched to the dense cost."""
    session, dense = task.session, task.build()
    groups = groups_of_ticket(task, ticket, dense, method.name)
    budget = training_macs(session, task.cost(dense), 0, session.total_steps)
    small = slim(dense, ticket.mask, task.example_input(), groups, check=False)
    steps = steps_that_buy(budget, task.cost(small), session)
    policy = cast(PolicyChoice, groups.policy)
    retrain = Retrain(weights="reinit", schedule="restart", policy=policy, schedule_steps=steps)
    return replace(cut(task, ticket, retrain), phase="train", notes={"budget_macs": budget})
