"""`dense_shorter`: the unpruned network, its schedule shortened until it costs what Early-Bird cost.

The control that asks whether one could not simply have trained less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from earlybird.methods.matched import MatchedToCost

if TYPE_CHECKING:
    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class DenseShorter(MatchedToCost):
    """Train the unpruned network by a shorter schedule, for what Early-Bird cost."""

    name: ClassVar[str] = "dense_shorter"

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The dense network as it was initialised, with the steps before it that Early-Bird's cost buys."""
        from earlybird.methods.budget import early_bird_macs, groups_of_ticket, steps_that_buy
        from earlybird.methods.candidate import Candidate
        from earlybird.slimming import slim

        dense = task.build()
        groups = groups_of_ticket(task, ticket, dense, self.name)
        small = slim(dense, ticket.mask, task.example_input(), groups, check=False)
        budget = early_bird_macs(task, ticket, task.cost(small), self.early_bird_start)
        steps = steps_that_buy(budget, task.cost(dense), task.session)
        return Candidate(
            dense,
            phase="train",
            start_step=0,
            end_step=steps,
            schedule_steps=steps,
            notes={"prune_ratio": ticket.prune_ratio, "budget_macs": budget},
        )
