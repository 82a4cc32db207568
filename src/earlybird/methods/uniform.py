"""`uniform`: one width ratio everywhere, as many MACs as the ticket, new weights, trained for what Early-Bird cost.

The control that asks whether the search is worth anything: it is handed the size and the budget, and knows no mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from earlybird.methods.matched import MatchedToCost
from earlybird.settings.fields import require

if TYPE_CHECKING:
    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class Uniform(MatchedToCost):
    """Cut to one width ratio with the ticket's MACs and train new weights for what Early-Bird cost.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str] = "uniform"

    tolerance: float = field(
        default=0.01,
        metadata={"help": "how near to the ticket's MACs: widths are rounded as its were, or finer until they come so"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require("method.tolerance", self.tolerance, 0 < self.tolerance < 1, "a number in (0, 1)")

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The dense network at the one width whose MACs are the ticket's, to be trained anew for Early-Bird's cost."""
        from earlybird.methods.uniform_widths import uniform_candidate

        return uniform_candidate(self, task, ticket)
