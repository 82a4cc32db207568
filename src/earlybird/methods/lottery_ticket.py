"""`lottery_ticket`: train, keep the largest weights, set them back to where they started, train them alone.

Frankle & Carbin 2019; with `rewind_epoch` the weights and the schedule of an early epoch instead (Frankle et al. 2020).
One round is the one-shot form; several remove the same share of what is left in each. Single weights are masked, which
keeps the network's shape, so every training costs a dense one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from earlybird.errors import ConfigError
from earlybird.settings.fields import check_types, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task
    from earlybird.methods.trained import TrainedDense


@dataclass(frozen=True)
class LotteryTicket:
    """Train, keep the largest weights, set them back to where they started, train them alone (Frankle & Carbin 2019).

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "lottery_ticket"

    prune_ratio: float = field(
        default=0.5, metadata={"help": "fraction of conv and linear weights to remove, in [0, 1)"}
    )
    weights: Literal["rewind", "reinit"] = field(
        default="rewind", metadata={"help": "weights of the ticket: of the rewind epoch, or new"}
    )
    rewind_epoch: int = field(default=0, metadata={"help": "epoch whose weights and schedule 'rewind' goes back to"})
    rounds: int = field(default=1, metadata={"help": "trainings that are pruned, one after another; 1 = one-shot"})

    def __post_init__(self) -> None:
        check_types("method", self)
        require("method.prune_ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        require("method.rewind_epoch", self.rewind_epoch, self.rewind_epoch >= 0, "an integer >= 0")
        require("method.rounds", self.rounds, self.rounds >= 1, "an integer >= 1")
        if self.weights == "reinit" and self.rewind_epoch:
            raise ConfigError("method.rewind_epoch contradicts method.weights 'reinit'; give one of the two")

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are weights to remove."""
        from earlybird.core import prunable_weights

        prunable_weights(model)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Train and prune, round by round, each from the weights that the last training will start from."""
        from earlybird.methods.lottery_search import train_rounds

        epochs = task.session.settings.epochs
        require("method.rewind_epoch", self.rewind_epoch, self.rewind_epoch < epochs, f"an integer in [0, {epochs})")
        train_rounds(self, task, resume, first_round=0)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the weight mask in the run folder."""
        from earlybird.methods.lottery_search import candidate_of_rounds

        return candidate_of_rounds(self, task)

    def starts_from_dense(self) -> bool:
        """The first round is the dense training; weights of an epoch are not in a finished run."""
        return self.rewind_epoch == 0

    def from_dense(self, task: Task, trained: TrainedDense) -> Candidate:
        """The candidate, with the first training taken from a finished dense run and charged."""
        from earlybird.methods.lottery_search import prune_dense, train_rounds

        prune_dense(self, task, trained)
        train_rounds(self, task, None, first_round=1)
        return self.restore(task)
