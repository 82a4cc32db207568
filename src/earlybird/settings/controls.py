"""Settings of the dense baseline and of the controls that are matched to a ticket's cost or widths."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from earlybird.errors import MethodError
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.fields import setting
from earlybird.settings.method import MethodSettings, TicketSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class Dense(MethodSettings):
    """Train the unpruned network for the whole schedule."""

    name: ClassVar[str] = "dense"


@dataclass(frozen=True)
class MatchedToTicket(TicketSettings):
    """A control that needs a ticket for its widths or its budget; it pays for no search."""

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are channels to cut."""
        EarlyBirdTraining(criterion="filter_l1").check_network(model, example_input)

    def search(self, task: Task, resume: dict[str, Any] | None) -> NoReturn:
        """Refuse: there is nothing to search for.

        Raises:
            MethodError: always; the message says how to give a ticket.
        """
        raise MethodError(
            f"method {self.name} is matched to an Early-Bird ticket and searches none; give it to "
            f"`earlybird retrain --ticket FILE --method {self.name}`, or let `earlybird compare` do so"
        )

    def restore(self, task: Task) -> Candidate:
        """Rebuild the candidate from the ticket in the run folder."""
        return self.from_ticket(task, import_module("earlybird.methods.retrain").ticket_in(task.folder))

    def shared_search(self) -> EarlyBirdTraining | None:
        """The ticket is that of the `early_bird` beside it."""
        return None


@dataclass(frozen=True)
class MatchedToCost(MatchedToTicket):
    """A control that is trained for what the `early_bird` of its ticket costs."""

    early_bird_start: int | Literal["ticket"] = setting(
        "ticket",
        "epoch of its schedule at which the early_bird it is matched to goes on after the cut: ticket = that of the "
        "ticket, 0 = it restarts (`compare` knows)",
        ">= 0",
    )


@dataclass(frozen=True)
class Uniform(MatchedToCost):
    """Cut to one width ratio with the ticket's MACs, train new weights for what Early-Bird cost.

    The control for the value of the search: it is given the size and the budget, and no mask.
    """

    name: ClassVar[str] = "uniform"

    tolerance: float = setting(
        0.01, "how near to the ticket's MACs: widths are rounded as its were, or finer until they come so", "(0, 1)"
    )


@dataclass(frozen=True)
class ScratchLonger(MatchedToTicket):
    """Train the ticket's network from new weights until the dense budget is spent ("Scratch-B", Liu et al. 2019).

    If it does as well, the weights that the search had trained were of no account. No hyperparameters.
    """

    name: ClassVar[str] = "scratch_longer"


@dataclass(frozen=True)
class DenseShorter(MatchedToCost):
    """Train the unpruned network by a shorter schedule, for what Early-Bird cost."""

    name: ClassVar[str] = "dense_shorter"
