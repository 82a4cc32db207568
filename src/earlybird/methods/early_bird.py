"""`early_bird`: search until the mask stops changing, cut, train only the small network (You et al. 2020, Algorithm 1).

The hyperparameters are here, in plain values; the search itself is `early_bird_search`, imported when it starts, so
that the command line can show its options without loading torch. The re-initialised variant and the controls that take
the ticket's own search (`random`, `shuffled`, a ticket of a chosen draw) are presets of this method (`catalog.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from earlybird.errors import ConfigError
from earlybird.methods.requests import DrawAt
from earlybird.settings.fields import check_types, require
from earlybird.user_code import is_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.methods.candidate import Candidate
    from earlybird.methods.task import Task

CRITERION_NAMES = ("bn_scale", "filter_l1", "filter_l2", "taylor")

# What runs without a paper preset snap widths to: odd channel counts are slow (`docs/method.md` section 9).
DEFAULT_ROUND_TO = 8


@dataclass(frozen=True)
class EarlyBirdTraining:
    """Search until the mask stops changing, cut, train only the small network (You et al. 2020).

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "early_bird"

    prune_ratio: float = field(default=0.5, metadata={"help": "fraction of prunable channels to remove, in [0, 1)"})
    weights: Literal["inherit", "rewind", "reinit"] = field(
        default="inherit", metadata={"help": "weights of the ticket: trained, of an earlier epoch, or new"}
    )
    schedule: Literal["auto", "continue", "restart"] = field(
        default="auto",
        metadata={"help": "retrain schedule; auto = continue for inherit and rewind, restart for reinit"},
    )
    rewind_epoch: int = field(default=0, metadata={"help": "epoch whose weights and schedule 'rewind' goes back to"})
    carry_momentum: bool = field(
        default=False,
        metadata={"help": "with inherit: the retrain starts with the search's momentum, cut like the weights"},
    )
    clock: Literal["scaled", "epochs"] = field(
        default="scaled", metadata={"help": "scaled: 160 draws over the schedule; epochs: one draw per epoch"}
    )
    rule: Literal["paper", "authors_code", "epi"] = field(default="paper", metadata={"help": "stop rule"})
    window: int = field(default=5, metadata={"help": "distances (paper) or masks (authors_code) the rule looks at"})
    epsilon: float = field(default=0.1, metadata={"help": "threshold on the mask distance"})
    penalty: float = field(default=1e-4, metadata={"help": "L1 strength s on BatchNorm scales; scaled by the clock"})
    penalty_form: Literal["subgradient", "proximal"] = field(default="subgradient", metadata={"help": "form of the L1"})
    retrain_penalty: float = field(default=0.0, metadata={"help": "L1 strength in the retrain, as it stands"})
    criterion: str = field(
        default="bn_scale",
        metadata={"help": f"channel score: {', '.join(CRITERION_NAMES)}, pkg.mod:function, file.py:function"},
    )
    policy: Literal["auto", "inner", "tie", "select"] = field(default="auto", metadata={"help": "residual policy"})
    tie_score: Literal["mean", "max", "sum"] = field(
        default="mean", metadata={"help": "what channels that are cut together score"}
    )
    min_channels: int = field(default=1, metadata={"help": "channels that stay in every layer"})
    round_to: int = field(
        default=DEFAULT_ROUND_TO, metadata={"help": "kept widths are multiples of this; 1 = the paper's exact count"}
    )
    draw_at: DrawAt = field(
        default="rule",
        metadata={"help": "rule: when the stop rule fires; N: at draw N, 0 before the first step; last: at the end"},
    )
    channels: Literal["ranked", "shuffled", "random"] = field(
        default="ranked",
        metadata={
            "help": "which channels go: the lowest ranked; as many in each layer, by lot; as many in all, by lot"
        },
    )
    max_search_epochs: int = field(default=0, metadata={"help": "stop drawing after this many epochs; 0 = T"})
    on_no_ticket: Literal["finish", "draw", "error"] = field(
        default="finish",
        metadata={"help": "a search that never fires: finish the dense training, draw anyway, or fail"},
    )

    def __post_init__(self) -> None:
        check_types("method", self)
        require("method.prune_ratio", self.prune_ratio, 0 <= self.prune_ratio < 1, "a number in [0, 1)")
        require("method.rewind_epoch", self.rewind_epoch, self.rewind_epoch >= 0, "an integer >= 0")
        least_window = 2 if self.rule == "authors_code" else 1
        require("method.window", self.window, self.window >= least_window, f"an integer >= {least_window}")
        require("method.epsilon", self.epsilon, 0 < self.epsilon <= 1, "a number in (0, 1]")
        require("method.penalty", self.penalty, 0 <= self.penalty < float("inf"), "a number >= 0")
        retrain_penalty = self.retrain_penalty
        require("method.retrain_penalty", retrain_penalty, 0 <= retrain_penalty < float("inf"), "a number >= 0")
        require("method.min_channels", self.min_channels, self.min_channels >= 1, "an integer >= 1")
        require("method.round_to", self.round_to, self.round_to >= 1, "an integer >= 1")
        is_draw = isinstance(self.draw_at, str) or self.draw_at >= 0
        require("method.draw_at", self.draw_at, is_draw, "rule, last, or a number of draws >= 0")
        known = self.criterion in CRITERION_NAMES or is_code(self.criterion, "criterion")
        require(
            "method.criterion", self.criterion, known,
            f"one of {', '.join(CRITERION_NAMES)}, pkg.mod:function or file.py:function",
        )  # fmt: skip
        require("method.max_search_epochs", self.max_search_epochs, self.max_search_epochs >= 0, "an integer >= 0")
        if self.carry_momentum and self.weights != "inherit":
            raise ConfigError(
                f"method.carry_momentum contradicts method.weights {self.weights!r}: momentum belongs to the weights "
                "that it moved; give inherit"
            )
        if self.weights == "rewind" and self.schedule == "restart":
            raise ConfigError(
                "method.schedule 'restart' contradicts method.weights 'rewind'; rewind to epoch 0 instead"
            )

    @property
    def resolved_schedule(self) -> Literal["continue", "restart"]:
        """What "auto" means for these weights."""
        if self.schedule == "auto":
            return "restart" if self.weights == "reinit" else "continue"
        return self.schedule

    @property
    def retrain_start(self) -> int | Literal["ticket"]:
        """The epoch of the schedule at which training goes on after the cut; "ticket" where it was drawn."""
        if self.weights == "rewind":
            return self.rewind_epoch
        return 0 if self.resolved_schedule == "restart" else "ticket"

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are channels to cut and scores to rank them by."""
        from earlybird.errors import MaskError
        from earlybird.methods.early_bird_search import refuse_nothing_to_cut
        from earlybird.slimming import channel_groups

        if self.criterion == "taylor" and self.draw_at == 0:
            raise MaskError("criterion 'taylor' reads gradients, of which there are none at draw 0; give a later draw")
        refuse_nothing_to_cut(self.criterion, model, channel_groups(model, example_input, self.policy))

    def search(self, task: Task, resume: dict[str, Any] | None) -> Candidate:
        """Train dense with the penalty until the rule fires, save the ticket, cut.

        Raises:
            EarlyBirdError: nothing fired and `on_no_ticket` is "error".
        """
        from earlybird.methods.early_bird_search import candidate_from_search

        return candidate_from_search(self, task, resume)

    def restore(self, task: Task) -> Candidate:
        """The candidate again, from the ticket in the run folder."""
        from earlybird.methods.cut import Retrain, cut, ticket_in
        from earlybird.methods.lots import drawn_by_lot

        ticket = drawn_by_lot(task, ticket_in(task.folder), self)
        retrain = Retrain(
            weights=self.weights,
            schedule=self.resolved_schedule,
            rewind_epoch=self.rewind_epoch,
            carry_momentum=self.carry_momentum,
            penalty=self.retrain_penalty,
            policy=self.policy,
        )
        candidate = cut(task, ticket, retrain)
        if candidate.start_step >= candidate.end_step:
            flag = "drawn when the schedule was over: nothing was trained after the cut"
            return replace(candidate, flags=(*candidate.flags, flag))
        return candidate

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """The candidate of a ticket that another search left; that search is charged.

        Raises:
            TicketError: another method left it.
        """
        from earlybird.methods.cut import refuse_foreign_ticket

        refuse_foreign_ticket(ticket, self.name)
        task.session.journal.load_state_dict(ticket.notes["journal"])
        return self.restore(task)

    def shared_search(self) -> EarlyBirdTraining:
        """This method as far as its search goes."""
        rewinds = self.weights == "rewind"
        return replace(
            self,
            weights="rewind" if rewinds else "inherit",
            rewind_epoch=self.rewind_epoch if rewinds else 0,
            schedule="auto",
            retrain_penalty=0.0,
            channels="ranked",
        )
