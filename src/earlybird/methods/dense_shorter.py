"""`dense_shorter`: the unpruned network, its schedule shortened until it costs what Early-Bird cost."""

from __future__ import annotations

from earlybird.core import Ticket
from earlybird.cost import MethodPlan, Schedule, Stage, steps_that_buy
from earlybird.methods.retrain import early_bird_macs, networks_of_ticket, planned_budget
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import DenseShorter


def from_ticket(method: DenseShorter, task: Task, ticket: Ticket) -> Candidate:
    """The dense network as it was initialised, with the steps before it that Early-Bird's cost buys."""
    dense, _, small = networks_of_ticket(task, ticket, method.name)
    budget = early_bird_macs(task, ticket, task.cost(small), method.early_bird_start)
    steps = steps_that_buy(budget, task.cost(dense), task.session.planned_data)
    notes: dict[str, object] = {"prune_ratio": ticket.prune_ratio, "budget_macs": budget}
    return Candidate(dense, phase="train", start_step=0, end_step=steps, schedule_steps=steps, notes=notes)


def plan(method: DenseShorter, schedule: Schedule) -> MethodPlan:
    """The dense steps that the cost of `early_bird` buys."""
    budget = planned_budget(schedule, method.early_bird_start)
    return MethodPlan((Stage("train", "dense", steps_that_buy(budget, schedule.dense, schedule.data)),), "dense")
