"""`scratch_longer`: the ticket's network from new weights, trained until the dense budget is spent.

After Liu et al. 2019 ("Scratch-B"): if a longer training from scratch does as well, the weights that the search had
trained were of no account. It is handed the widths for nothing; its own training costs what the dense one costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from earlybird.methods.matched import MatchedToTicket

if TYPE_CHECKING:
    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class ScratchLonger(MatchedToTicket):
    """Train the ticket's network from new weights until the dense budget is spent."""

    name: ClassVar[str] = "scratch_longer"

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The ticket's network with new weights, its schedule stretched to the dense cost."""
        from typing import cast

        from earlybird.methods.budget import groups_of_ticket, steps_that_buy, training_macs
        from earlybird.methods.cut import Retrain, cut
        from earlybird.slimming import slim
        from earlybird.slimming.certificate import PolicyChoice

        session, dense = task.session, task.build()
        groups = groups_of_ticket(task, ticket, dense, self.name)
        budget = training_macs(session, task.cost(dense), 0, session.total_steps)
        small = slim(dense, ticket.mask, task.example_input(), groups, check=False)
        steps = steps_that_buy(budget, task.cost(small), session)
        retrain = Retrain(
            weights="reinit", schedule="restart", policy=cast(PolicyChoice, groups.policy), schedule_steps=steps
        )
        return replace(cut(task, ticket, retrain), phase="train", notes={"budget_macs": budget})
