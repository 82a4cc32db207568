"""`Method`: the contract between a method and the pipeline, the command line and a comparison; and `EarlyBirdTraining`.

A method is a frozen dataclass whose fields are its hyperparameters, each with a default. `search` and `restore` are all
that it must have; the other protocols are asked for by the one who needs them. `EarlyBirdTraining` (You et al. 2020,
Algorithm 1) is here because other methods share its search; those, and its variants, are in `catalog.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, runtime_checkable

from earlybird.core import CRITERION_NAMES, STOP_RULES, PolicyChoice, TieScore
from earlybird.errors import ConfigError, require
from earlybird.settings.fields import check_settings, setting
from earlybird.user_code import is_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.core import Ticket
    from earlybird.cost import MethodPlan, Schedule
    from earlybird.methods.task import Candidate, DenseRun, Task

ClockName = Literal["scaled", "epochs"]
DrawAt = int | Literal["rule", "last"]
PenaltyForm = Literal["subgradient", "proximal"]
RoundTo = int | Literal["auto"]

DRAWS = 160
MIN_DRAW_STEPS = 5  # Masks of fewer steps are always alike, whatever has been learnt (`docs/decisions.md`, "Detector").
NO_TICKET_CURE = "raise --method.epsilon or --epochs, or give --on-no-ticket draw"
PAPER_STEPS = 31_360  # 160 epochs of 196 steps: 50,000 images in batches of 256
# What runs without a paper preset snap widths to: odd channel counts are slow (`docs/method.md` section 9).
ROUND_TO = 8
# What `round_to` "auto" takes instead on CUDA in bf16: tensor cores want it (`docs/results/h100.md`).
TENSOR_CORE_ROUND_TO = 16


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
class StartsFromTicket(Protocol):
    """A method that can start from a ticket that was drawn before, or that must."""

    def from_ticket(self, task: Task, ticket: Ticket) -> Candidate:
        """Candidate of a ticket, which lies in the run folder already; what it owes for the search is charged."""

    def shared_search(self) -> EarlyBirdTraining | None:
        """The search that draws its ticket, its own prune ratio included; None: that of the `early_bird` beside it."""


@runtime_checkable
class Plans(Protocol):
    """A method that knows what it will execute; one that does not is taken as one dense training."""

    def plan(self, schedule: Schedule) -> MethodPlan:
        """Stages of a run, the final evaluation left out."""


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a built-in method. `methods/NAME.py` does the work, imported then, so that settings need no torch.

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


def hardware_multiple(device: str, precision: str) -> int:
    """Multiple of the kept widths that runs fast: what `round_to` "auto" means.

    Args:
        device: "cpu", "cuda", "cuda:0", ...
        precision: "fp32" or "bf16".

    Example:
        >>> hardware_multiple("cpu", "bf16"), hardware_multiple("cuda", "fp32"), hardware_multiple("cuda:1", "bf16")
        (8, 8, 16)
    """
    return TENSOR_CORE_ROUND_TO if device.startswith("cuda") and precision == "bf16" else ROUND_TO


def with_multiple(method: Method, multiple: int) -> Method:
    """The method with its `round_to`, where that is "auto", settled."""
    return replace(method, round_to=multiple) if getattr(method, "round_to", None) == "auto" else method


def settled(round_to: RoundTo) -> int:
    """A `round_to` that is a number.

    Raises:
        ConfigError: it is "auto", which a run and a plan settle before a method sees it.
    """
    if round_to == "auto":
        told = 'method.round_to is "auto", which `earlybird.runs.run.run` and `plan_method` settle'
        raise ConfigError(f"{told}; give this method a number, or with_multiple(method, 8)")
    return round_to


@dataclass(frozen=True)
class Clock:
    """Draws and strength of the penalty over a schedule (`docs/method.md` section 1, "Clock").

    Attributes:
        name: "epochs": a mask is drawn after each epoch and s is taken as given. "scaled": a run of any length is the
            paper's protocol in fractions: 160 draws at equal step intervals, and the penalty scaled so that an idle
            BatchNorm scale shrinks over the same fraction of the schedule; its own CIFAR run is its protocol.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps of the whole schedule.
        min_draw_steps: of "scaled", least steps from draw to draw; a shorter schedule has fewer draws, at least one.
    """

    name: ClockName
    steps_per_epoch: int
    total_steps: int
    min_draw_steps: int = MIN_DRAW_STEPS

    @property
    def draws(self) -> int:
        """Draws over the whole schedule."""
        if self.name == "epochs":
            return self.total_steps // self.steps_per_epoch
        return min(DRAWS, max(1, self.total_steps // self.min_draw_steps))

    def draws_by(self, step: int) -> int:
        """Draws that lie at or before `step` completed steps."""
        return step * self.draws // self.total_steps if self.name == "scaled" else step // self.steps_per_epoch

    def is_draw(self, step: int) -> bool:
        """True if a mask is drawn when `step` steps are completed."""
        return self.draws_by(step) > self.draws_by(step - 1)

    def step_of(self, draw: int) -> int:
        """The step after which a draw (1-based) is made, at most the last; 0 for draw 0, before the first step."""
        step = -(-draw * self.total_steps // self.draws) if self.name == "scaled" else draw * self.steps_per_epoch
        return min(step, self.total_steps)

    def penalty(self, strength: float) -> float:
        """The L1 strength to apply at each step, from the paper's s."""
        # In this order, so that s comes out unchanged, to the bit, in a run of the paper's length.
        return strength * (PAPER_STEPS / self.total_steps) if self.name == "scaled" else strength


@dataclass(frozen=True)
class TicketRequest:
    """One ticket of a search.

    Attributes:
        prune_ratio: fraction of the units to remove, in [0, 1).
        draw_at: "rule", when the stop rule fires; a number of draws, 0 for before the first step; "last", when the
            search is over.
    """

    prune_ratio: float
    draw_at: DrawAt = "rule"

    def file_name(self, requests: Sequence[TicketRequest]) -> str:
        """Name of its file: plain for a search of one ticket, with ratio and draw for a search of several."""
        if len(requests) == 1:
            return "ticket.safetensors"
        when = {"rule": "", "last": "-last"}.get(str(self.draw_at), f"-draw{self.draw_at}")
        return f"ticket-p{self.prune_ratio:g}{when}.safetensors"


TICKET_FILE = TicketRequest(0.0).file_name([TicketRequest(0.0)])


def requests_of(ratios: Sequence[float], draws: Sequence[DrawAt] = ("rule",)) -> list[TicketRequest]:
    """Every ratio at every draw."""
    return [TicketRequest(ratio, draw) for ratio in ratios for draw in draws]


def check_requests(requests: Sequence[TicketRequest]) -> None:
    """Raise unless the tickets can be told apart and be drawn.

    Raises:
        ConfigError: a ratio or draw is out of range, or a ticket is asked for twice.
    """
    ratios = [request.prune_ratio for request in requests]
    draws = list(dict.fromkeys(request.draw_at for request in requests))
    names = [request.file_name([request, request]) for request in requests]
    legal_ratios = len(set(names)) == len(names) > 0 and all(0 <= ratio < 1 for ratio in ratios)
    require("--ratios", ratios, legal_ratios, "different numbers in [0, 1)")
    legal_draws = all(isinstance(draw, str) or draw >= 0 for draw in draws)
    require("--draws", draws, legal_draws, "rule, last, or numbers of draws >= 0")


@dataclass(frozen=True)
class EarlyBirdTraining(MethodSettings):
    """Search until the mask stops changing, cut, train only the small network.

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "early_bird"

    prune_ratio: float = setting(0.5, "fraction of prunable channels to remove", "[0, 1)")
    weights: Literal["inherit", "rewind", "reinit"] = setting(
        "inherit", "weights of the ticket: trained, of an earlier epoch, or new"
    )
    schedule: Literal["auto", "continue", "restart"] = setting(
        "auto", "retrain schedule; auto = continue for inherit and rewind, restart for reinit"
    )
    rewind_epoch: int = setting(0, "epoch whose weights and schedule 'rewind' goes back to", ">= 0")
    carry_momentum: bool = setting(
        False, "with inherit: the retrain starts with the search's momentum, cut like the weights"
    )
    clock: ClockName = setting("scaled", "scaled: 160 draws over the schedule; epochs: one draw per epoch")
    min_draw_steps: int = setting(MIN_DRAW_STEPS, "clock scaled: least steps from draw to draw", ">= 1")
    rule: str = setting("paper", "; ".join(f"{name}: {rule.summary}" for name, rule in STOP_RULES.items()))
    window: int = setting(5, "window of the stop rule, in distances or masks")
    epsilon: float = setting(0.1, "threshold on the mask distance", "(0, 1]")
    penalty: float = setting(1e-4, "L1 strength s on BatchNorm scales; scaled by the clock", ">= 0")
    penalty_form: PenaltyForm = setting("subgradient", "form of the L1")
    retrain_penalty: float | Literal["search"] = setting(0.0, "L1 in the retrain, unscaled; search: as there", ">= 0")
    criterion: str = setting(
        "bn_scale", f"channel score: {', '.join(CRITERION_NAMES)}, pkg.mod:function, file.py:function"
    )
    policy: PolicyChoice = setting("auto", "residual policy")
    tie_score: TieScore = setting("mean", "score of channels that are cut together")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: RoundTo = setting(
        ROUND_TO,
        "kept widths are multiples of this; 1 = the paper's exact count; auto = 8 on CPUs, 16 on CUDA in bf16, else 8",
        ">= 1",
    )
    draw_at: DrawAt = setting(
        "rule", "rule: when the stop rule fires; N: at draw N, 0 before the first step; last: at the end"
    )
    channels: Literal["ranked", "shuffled", "random"] = setting(
        "ranked",
        "channels that go: the lowest ranked; as many at random in each layer; as many at random in the whole network",
    )
    max_search_epochs: int = setting(0, "stop drawing after this many epochs; 0 = T", ">= 0")
    on_no_ticket: Literal["finish", "draw", "error"] = setting(
        "finish", "a search that never fires: finish the dense training, draw anyway, or fail"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require("method.rule", self.rule, self.rule in STOP_RULES, f"one of {', '.join(STOP_RULES)}")
        least_window = STOP_RULES[self.rule].least_window
        require("method.window", self.window, self.window >= least_window, f"an integer >= {least_window}")
        is_draw = isinstance(self.draw_at, str) or self.draw_at >= 0
        require("method.draw_at", self.draw_at, is_draw, "rule, last, or a number of draws >= 0")
        known = self.criterion in CRITERION_NAMES or is_code(self.criterion, "criterion")
        expected = f"one of {', '.join(CRITERION_NAMES)}, pkg.mod:function or file.py:function"
        require("method.criterion", self.criterion, known, expected)
        if self.carry_momentum and self.weights != "inherit":
            told = f"method.carry_momentum contradicts method.weights {self.weights!r}"
            raise ConfigError(f"{told}: momentum belongs to the weights that it moved; give inherit")
        if self.weights == "rewind" and self.schedule == "restart":
            told = "method.schedule 'restart' contradicts method.weights 'rewind'; rewind to epoch 0 instead"
            raise ConfigError(told)

    @property
    def resolved_schedule(self) -> Literal["continue", "restart"]:
        """Schedule of the retrain, "auto" resolved for these weights."""
        if self.schedule == "auto":
            return "restart" if self.weights == "reinit" else "continue"
        return self.schedule

    @property
    def retrain_start(self) -> int | Literal["ticket"]:
        """The epoch of the schedule at which training goes on after the cut; "ticket" where it was drawn."""
        if self.weights == "rewind":
            return self.rewind_epoch
        return 0 if self.resolved_schedule == "restart" else "ticket"

    def clock_of(self, steps_per_epoch: int, total_steps: int) -> Clock:
        """Clock of the search over a schedule."""
        return Clock(self.clock, steps_per_epoch, total_steps, self.min_draw_steps)

    def shared_search(self) -> EarlyBirdTraining:
        """This method as far as its search goes."""
        start: dict[str, Any] = {} if self.weights == "rewind" else {"weights": "inherit", "rewind_epoch": 0}
        return replace(self, **start, schedule="auto", retrain_penalty=0.0, channels="ranked")
