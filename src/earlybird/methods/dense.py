"""`dense`: the unpruned network, trained for the whole schedule."""

from __future__ import annotations

from typing import Any

from earlybird.cost import MethodPlan, Schedule, Stage
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import Dense


def search(method: Dense, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """The network as it was initialised, with all T epochs before it."""
    return Candidate(task.build(), phase="train", start_step=0, end_step=task.session.total_steps)


def restore(method: Dense, task: Task) -> Candidate:
    """The same: its weights come from the checkpoint."""
    return search(method, task, None)


def plan(method: Dense, schedule: Schedule) -> MethodPlan:
    """One training of the unpruned network."""
    return MethodPlan((Stage("train", "dense", schedule.total_steps),), "dense")
