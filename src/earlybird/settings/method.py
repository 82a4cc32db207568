"""`Method`: the contract between a method and the pipeline, the command line and a comparison.

A method is a frozen dataclass whose fields are its hyperparameters, each with a default. `search` and `restore` are all
that it must have; the other protocols are asked for by the one who needs them. `MethodSettings` is the base of the
built-in ones: it imports `methods/NAME.py` when work begins, so that settings are read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

from earlybird.settings.fields import check_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.cost.plan import MethodPlan, Schedule
    from earlybird.methods.task import Candidate, DenseRun, Task


class Method(Protocol):
    """Find a network and train it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Find the network that is trained last, charging what that costs.

        Args:
            resume: a checkpoint of phase "search" to go on from, or None at the beginning.
        """

    def restore(self, task: Task) -> Candidate:
        """Rebuild the candidate from what the search left in the folder: its last training was interrupted."""


@runtime_checkable
class ChecksNetwork(Protocol):
    """A method that knows before any training whether it can handle a network."""

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise `SlimError` or `MaskError` where it cannot; the network is left as found."""


@runtime_checkable
class StartsFromDense(Protocol):
    """A method whose first training is the unpruned one, so that a finished `dense` run can stand for it."""

    def from_dense(self, task: Task, dense: DenseRun) -> Candidate:
        """Candidate, given the trained dense network; its training is charged in full."""

    def starts_from_dense(self) -> bool:
        """True if these settings can use it: weights of an earlier epoch, for one, are not in a finished run."""


@runtime_checkable
class Plans(Protocol):
    """A method that knows what it will execute; one that does not is taken as one dense training."""

    def plan(self, schedule: Schedule) -> MethodPlan:
        """Stages of a run, the final evaluation left out."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a built-in method; its file in `methods` does the work.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_settings("method", self)

    @property
    def work(self) -> Any:
        """The method's module: `search`, `restore` and what else it can do, each a function of these settings."""
        # A user's subclass may have a name of its own; its work is that of the built-in method.
        built_in = next(kind for kind in type(self).__mro__ if kind.__module__.startswith("earlybird.settings."))
        return import_module(f"earlybird.methods.{built_in.name}")  # type: ignore[attr-defined]

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise `SlimError` or `MaskError` unless the method can handle the network; some can handle any."""
        if check := getattr(self.work, "check_network", None):
            check(self, model, example_input)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Find the network that is trained last, from the beginning or from a checkpoint of phase "search"."""
        return cast("Candidate", self.work.search(self, task, resume))

    def restore(self, task: Task) -> Candidate:
        """Rebuild the candidate from what the search left in the folder."""
        return cast("Candidate", self.work.restore(self, task))

    def plan(self, schedule: Schedule) -> MethodPlan:
        """Stages of a run on this schedule."""
        return cast("MethodPlan", self.work.plan(self, schedule))

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """Candidate of a ticket that another search left, whose cost is charged; for one with a `shared_search`."""
        return cast("Candidate", self.work.from_ticket(self, task, ticket))

    def from_dense(self, task: Task, dense: DenseRun) -> Candidate:
        """Candidate, with the dense training taken from a finished run and charged; if it `starts_from_dense`."""
        return cast("Candidate", self.work.from_dense(self, task, dense))
