"""`Method`: what the pipeline, the command line and a comparison ask of a way to train.

A method is a frozen dataclass whose fields are its hyperparameters, each with a default. `search` and `restore` are all
that it must have. What else a method can do stands in the protocols below; each is asked for by the one who needs it.
Nothing here imports torch: the command line shows a method's options without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.early_bird import EarlyBirdTraining
    from earlybird.methods.task import Task
    from earlybird.methods.trained import TrainedDense


class Method(Protocol):
    """A way to find a network and train it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Find what is trained last, charging what it costs.

        Args:
            task: the network, its data and the run folder.
            resume: a checkpoint of phase "search" to go on from, or None at the beginning.
        """
        ...

    def restore(self, task: Task) -> Candidate:
        """The candidate once more, from what the search left in the folder: its last training was interrupted."""
        ...


@runtime_checkable
class ChecksNetwork(Protocol):
    """A method that knows before any training whether it can handle a network."""

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise `SlimError` or `MaskError` where it cannot; the network is left as found."""


@runtime_checkable
class StartsFromTicket(Protocol):
    """A method that can start from a ticket that was drawn before, or that must."""

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The candidate of a ticket, which lies in the run folder already; what it owes for the search is charged."""
        ...

    def shared_search(self) -> EarlyBirdTraining | None:
        """The search that draws its ticket, its own prune ratio included; None: that of the `early_bird` beside it."""
        ...


@runtime_checkable
class StartsFromDense(Protocol):
    """A method whose first training is the unpruned one, so that a finished `dense` run can stand for it."""

    def from_dense(self, task: Task, trained: TrainedDense) -> Candidate:
        """The candidate, given the trained dense network; its training is charged in full."""
        ...

    def starts_from_dense(self) -> bool:
        """Can these settings make use of it? Weights of an earlier epoch, for one, are not in a finished run."""
        ...
