"""`soft_filter_pruning`: zero the smallest filters after each epoch, go on updating all, cut at the end.

He et al. 2018. It trains once. In each layer the same share of filters is zeroed, by Euclidean norm. The BatchNorm
behind a zeroed filter still shifts it; when the training is over scale and shift go with the filter, which changes what
the network computes, so it is evaluated before and after.

The authors' code zeroes before the first epoch too, and there a zero filter in front of BatchNorm and ReLU never gets a
gradient: its output is the shift, 0, where ReLU is flat. So these filters stay zero. As the paper is written
(`zero_at_start` false) they grow back, and BatchNorm multiplies the gradient of a filter without variance by 1 /
sqrt(eps) = 316: here that broke the training (docs/decisions.md).
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
class SoftFilterPruning:
    """Zero the smallest filters after each epoch, go on updating all, cut at the end (He et al. 2018).

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str] = "soft_filter_pruning"

    prune_ratio: float = field(default=0.5, metadata={"help": "fraction of each layer's filters to zero, in [0, 1)"})
    zero_at_start: bool = field(
        default=True, metadata={"help": "zero before the first epoch too, as the authors' code does"}
    )
    every_epochs: int = field(default=1, metadata={"help": "epochs between two zeroings; the last epoch always zeroes"})
    policy: Literal["auto", "inner", "tie", "select"] = field(
        default="select", metadata={"help": "residual policy of the cut"}
    )
    min_channels: int = field(default=1, metadata={"help": "channels that stay in every layer"})
    round_to: int = field(
        default=DEFAULT_ROUND_TO, metadata={"help": "kept widths are multiples of this; 1 = the exact count"}
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        require("method.prune_ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        for name in ("every_epochs", "min_channels", "round_to"):
            require(f"method.{name}", getattr(self, name), getattr(self, name) >= 1, "an integer >= 1")

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are filters that can be cut."""
        from earlybird.core.ranking import scored_groups
        from earlybird.methods.early_bird_search import refuse_nothing_to_cut
        from earlybird.methods.soft_zeroing import conv_norms
        from earlybird.slimming import channel_groups

        groups = channel_groups(model, example_input, self.policy)
        refuse_nothing_to_cut("filter_l2", model, groups)
        scored_groups(conv_norms(model), groups)  # which refuses a network whose convolutions all stay

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Train to the end, zeroing after each epoch, and leave the ticket of the last zeroing."""
        from earlybird.methods.soft_zeroing import train_softly

        train_softly(self, task, resume)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the ticket in the run folder; nothing is left to train."""
        from dataclasses import replace

        from earlybird.methods.cut import Retrain, cut, load_ticket_weights, ticket_in

        ticket = ticket_in(task.folder)
        uncut = task.build()
        load_ticket_weights(uncut, ticket)
        candidate = cut(task, ticket, Retrain(weights="inherit", schedule="continue", policy=self.policy))
        return replace(candidate, uncut=uncut)
