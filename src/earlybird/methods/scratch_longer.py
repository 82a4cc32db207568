"""`scratch_longer`: the ticket's network from new weights, trained until the dense budget is spent."""

from __future__ import annotations

from dataclasses import replace

from earlybird.core import Ticket
from earlybird.cost import MethodPlan, Schedule, Stage, steps_that_buy, training_macs
from earlybird.methods.retrain import Retrain, cut, networks_of_ticket
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import ScratchLonger


def from_ticket(method: ScratchLonger, task: Task, ticket: Ticket) -> Candidate:
    """The ticket's network with new weights, its schedule stretched to the dense cost."""
    session, (dense, groups, small) = task.session, networks_of_ticket(task, ticket, method.name)
    budget = training_macs(task.cost(dense), session.planned_data, 0, session.total_steps)
    steps = steps_that_buy(budget, task.cost(small), session.planned_data)
    retrain = Retrain(weights="reinit", schedule="restart", policy=groups.policy, schedule_steps=steps)
    return replace(cut(task, ticket, retrain), phase="train", notes={"budget_macs": budget})


def plan(method: ScratchLonger, schedule: Schedule) -> MethodPlan:
    """The steps of the slim network that the dense cost buys."""
    budget = training_macs(schedule.dense, schedule.data, 0, schedule.total_steps)
    return MethodPlan((Stage("train", "slim", steps_that_buy(budget, schedule.slim, schedule.data)),), "slim")
