"""`snip`: before any training, keep the weights on which the loss depends most, and train them alone (Lee et al. 2019).

The sensitivity of a weight is |w * dL/dw|, on one batch or the mean loss of several, BatchNorm in eval mode. By
weights, the highest of all stay and the others are held at zero; by channels, a unit scores the sum over its weights
and the network is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from earlybird.methods.early_bird import DEFAULT_ROUND_TO
from earlybird.settings.fields import check_types, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task


@dataclass(frozen=True)
class Snip:
    """Keep the weights on which the loss depends most at initialisation, train them alone (Lee et al. 2019).

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str] = "snip"

    prune_ratio: float = field(
        default=0.5, metadata={"help": "fraction of weights, or of prunable channels, to remove, in [0, 1)"}
    )
    form: Literal["weights", "channels"] = field(
        default="weights", metadata={"help": "weights: single ones are held at zero; channels: the network is cut"}
    )
    batches: int = field(default=1, metadata={"help": "batches whose mean loss is looked at"})
    policy: Literal["auto", "inner", "tie", "select"] = field(
        default="auto", metadata={"help": "with channels: residual policy"}
    )
    min_channels: int = field(default=1, metadata={"help": "with channels: how many stay in every layer"})
    round_to: int = field(
        default=DEFAULT_ROUND_TO, metadata={"help": "with channels: kept widths are multiples of this; 1 = exact"}
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        require("method.prune_ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        for name in ("batches", "min_channels", "round_to"):
            require(f"method.{name}", getattr(self, name), getattr(self, name) >= 1, "an integer >= 1")

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are weights, or channels, to remove."""
        from earlybird.core import prunable_weights
        from earlybird.methods.early_bird_search import refuse_nothing_to_cut
        from earlybird.slimming import channel_groups

        if self.form == "channels":
            refuse_nothing_to_cut("filter_l1", model, channel_groups(model, example_input, self.policy))
        prunable_weights(model)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Score on the first batches of the first epoch and leave the mask; it takes seconds, so a kill repeats it."""
        from earlybird.methods.snip_search import leave_mask

        leave_mask(self, task)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the mask or ticket in the run folder."""
        from earlybird.methods.cut import Retrain, cut, ticket_in
        from earlybird.methods.weight_candidate import weight_candidate

        if self.form == "weights":
            return weight_candidate(task, task.build())
        return cut(task, ticket_in(task.folder), Retrain(weights="inherit", schedule="restart", policy=self.policy))
