"""What the controls at equal cost share: they are matched to a ticket, which must be given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from earlybird.errors import MethodError
from earlybird.settings.fields import check_types, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.early_bird import EarlyBirdTraining
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class MatchedToTicket(ABC):
    """A control that needs a ticket for its widths or its budget; it pays for no search."""

    name: ClassVar[str]

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are channels to cut."""
        from earlybird.methods.early_bird_search import refuse_nothing_to_cut
        from earlybird.slimming import channel_groups

        refuse_nothing_to_cut("filter_l1", model, channel_groups(model, example_input))

    def search(self, task: Task, resume: dict[str, Any] | None) -> NoReturn:
        """There is nothing to search for.

        Raises:
            MethodError: always; the message says how to give a ticket.
        """
        raise MethodError(
            f"method {self.name} is matched to an Early-Bird ticket and searches none; give it to "
            f"`earlybird retrain --ticket FILE --method {self.name}`, or let `earlybird compare` do so"
        )

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the ticket in the run folder."""
        from earlybird.methods.cut import ticket_in

        return self.from_ticket(task, ticket_in(task.folder))

    @abstractmethod
    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The candidate that this ticket's cost or widths ask for."""

    def shared_search(self) -> EarlyBirdTraining | None:
        """The ticket is that of the `early_bird` beside it."""
        return None


@dataclass(frozen=True)
class MatchedToCost(MatchedToTicket):
    """A control that is trained for what the `early_bird` of its ticket costs.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    early_bird_start: int | Literal["ticket"] = field(
        default="ticket",
        metadata={
            "help": "epoch of its schedule at which the early_bird it is matched to goes on after the cut: ticket = "
            "that of the ticket, 0 = it restarts (`compare` knows)"
        },
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        legal = isinstance(self.early_bird_start, str) or self.early_bird_start >= 0
        require("method.early_bird_start", self.early_bird_start, legal, "ticket, or an integer >= 0")
