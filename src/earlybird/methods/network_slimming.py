"""`network_slimming`: train to the end under the penalty, cut by a global threshold on |gamma|, train again.

Liu et al. 2017. It is the Early-Bird search without a bird: the ticket is drawn when the schedule is over. The second
training runs over the whole schedule, as the table of You et al. 2020 charges it, with the penalty off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from earlybird.methods.early_bird import DEFAULT_ROUND_TO, EarlyBirdTraining
from earlybird.methods.requests import TicketRequest
from earlybird.settings.fields import check_types

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class NetworkSlimming:
    """Train to the end under the penalty, cut by a global threshold on |gamma|, train again (Liu et al. 2017).

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str] = "network_slimming"

    prune_ratio: float = field(default=0.5, metadata={"help": "fraction of prunable channels to remove, in [0, 1)"})
    weights: Literal["inherit", "reinit"] = field(
        default="inherit", metadata={"help": "weights of the second training: the trained ones, or new"}
    )
    clock: Literal["scaled", "epochs"] = field(
        default="scaled", metadata={"help": "scaled: the penalty grows as the schedule is shorter; epochs: as given"}
    )
    penalty: float = field(default=1e-4, metadata={"help": "L1 strength s on BatchNorm scales; scaled by the clock"})
    penalty_form: Literal["subgradient", "proximal"] = field(default="subgradient", metadata={"help": "form of the L1"})
    policy: Literal["auto", "inner", "tie", "select"] = field(default="auto", metadata={"help": "residual policy"})
    tie_score: Literal["mean", "max", "sum"] = field(
        default="mean", metadata={"help": "what channels that are cut together score"}
    )
    min_channels: int = field(default=1, metadata={"help": "channels that stay in every layer"})
    round_to: int = field(
        default=DEFAULT_ROUND_TO, metadata={"help": "kept widths are multiples of this; 1 = the exact count"}
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        self.shared_search()  # which refuses what is out of range

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are channels to cut and BatchNorm scales to rank them by."""
        from torch.nn.modules.batchnorm import _BatchNorm

        from earlybird.errors import MaskError

        if not any(isinstance(module, _BatchNorm) and module.affine for module in model.modules()):
            raise MaskError("it ranks BatchNorm scales, and the network has none")
        self.shared_search().check_network(model, example_input)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Train dense with the penalty to the end of the schedule, save the ticket, cut."""
        from earlybird.methods.early_bird_search import search

        search(self.shared_search(), task, [TicketRequest(self.prune_ratio, "last")], resume)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the ticket in the run folder."""
        from earlybird.methods.cut import Retrain, cut, ticket_in

        retrain = Retrain(weights=self.weights, schedule="restart", policy=self.policy)
        return cut(task, ticket_in(task.folder), retrain)

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The candidate of a ticket that a search left at its end; that search is charged.

        Raises:
            TicketError: the ticket was drawn earlier.
        """
        from earlybird.methods.cut import refuse_early_ticket

        refuse_early_ticket(ticket, self.name)
        task.session.journal.load_state_dict(ticket.notes["journal"])
        return self.restore(task)

    def shared_search(self) -> EarlyBirdTraining:
        """The Early-Bird search whose last ticket is this method's."""
        return EarlyBirdTraining(
            prune_ratio=self.prune_ratio,
            clock=self.clock,
            penalty=self.penalty,
            penalty_form=self.penalty_form,
            policy=self.policy,
            tie_score=self.tie_score,
            min_channels=self.min_channels,
            round_to=self.round_to,
            draw_at="last",
        )
