"""`thinet`: cut layer by layer, by what the next layer would miss least (Luo et al. 2017).

The dense network is trained first. Then, for each layer whose channels only one convolution or linear layer reads: that
reader's outputs are sampled, the channels whose joint contribution is smallest are chosen greedily, the weights of the
others are rescaled by least squares, the network is cut, and trained a little. Last, what is left is trained over the
whole schedule. In residual networks these are the layers inside a block, such as the first two of a bottleneck.
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
    from earlybird.methods.trained import TrainedDense


@dataclass(frozen=True)
class ThiNet:
    """Train, then cut layer by layer what the next layer would miss least (Luo et al. 2017).

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    name: ClassVar[str] = "thinet"

    prune_ratio: float = field(default=0.5, metadata={"help": "fraction of each layer's channels to remove, in [0, 1)"})
    images_per_class: int = field(default=10, metadata={"help": "training images per class to sample"})
    locations: int = field(default=10, metadata={"help": "(output channel, position) pairs to sample in each image"})
    finetune_steps: int = field(default=100, metadata={"help": "training steps after each layer"})
    finetune_lr: float = field(default=1e-3, metadata={"help": "learning rate of these steps"})
    policy: Literal["inner", "tie"] = field(
        default="inner", metadata={"help": "residual policy: what crosses an add stays, or is cut together"}
    )
    min_channels: int = field(default=1, metadata={"help": "channels that stay in every layer"})
    round_to: int = field(
        default=DEFAULT_ROUND_TO, metadata={"help": "kept widths are multiples of this; 1 = int((1 - p) * C)"}
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        require("method.prune_ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        for name in ("images_per_class", "locations", "min_channels", "round_to"):
            require(f"method.{name}", getattr(self, name), getattr(self, name) >= 1, "an integer >= 1")
        require("method.finetune_steps", self.finetune_steps, self.finetune_steps >= 0, "an integer >= 0")
        require("method.finetune_lr", self.finetune_lr, 0 < self.finetune_lr < float("inf"), "a number > 0")

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless some layer has one reader whose outputs can be sampled."""
        from earlybird.methods.thinet_layers import prunable_layers
        from earlybird.slimming import channel_groups

        prunable_layers(model, channel_groups(model, example_input, self.policy), example_input)

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Train dense, then choose, cut and fine-tune layer by layer."""
        from earlybird.methods.thinet_search import cut_layers, train_dense

        is_cutting = resume is not None and "layers_done" in resume
        dense = None if is_cutting else train_dense(task, resume)
        cut_layers(self, task, dense, resume if is_cutting else None)
        return self.restore(task)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the ticket in the run folder."""
        from earlybird.methods.cut import Retrain, cut, ticket_in

        return cut(task, ticket_in(task.folder), Retrain(weights="inherit", schedule="restart", policy=self.policy))

    def starts_from_dense(self) -> bool:
        """Whatever the settings, the dense training comes first."""
        return True

    def from_dense(self, task: Task, trained: TrainedDense) -> Candidate:
        """The candidate, with the dense training taken from a finished run and charged."""
        from earlybird.methods.thinet_search import cut_layers

        dense = trained.load_into(task.build())
        task.session.journal.load_state_dict(dict(trained.journal))
        cut_layers(self, task, dense, None)
        return self.restore(task)
