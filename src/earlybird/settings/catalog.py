"""Methods by name: settings of the built-in ones (but `early_bird`), presets of them, and the user's own by path.

A configuration holds the method and all its settings; the preset that they are is written into the record of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from earlybird.core import PolicyChoice, TieScore
from earlybird.errors import ConfigError, MethodError, require, wrong_value
from earlybird.settings.fields import setting
from earlybird.settings.method import (
    ROUND_TO,
    ClockName,
    EarlyBirdTraining,
    Method,
    MethodSettings,
    PenaltyForm,
    RoundTo,
)
from earlybird.user_code import find_callable, is_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from earlybird.methods.task import Candidate, Task

# How a budget of step time is shared among the layers (`core/allocation.py`).
Allocation = Literal["uniform", "global", "time"]


@dataclass(frozen=True)
class Dense(MethodSettings):
    """Train the unpruned network for the whole schedule."""

    name: ClassVar[str] = "dense"


@dataclass(frozen=True)
class LotteryTicket(MethodSettings):
    """Train, keep the largest weights, set them back to where they started, train them alone.

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "lottery_ticket"

    prune_ratio: float = setting(0.5, "fraction of conv and linear weights to remove", "[0, 1)")
    weights: Literal["rewind", "reinit"] = setting("rewind", "weights of the ticket: of the rewind epoch, or new")
    rewind_epoch: int = setting(0, "epoch whose weights and schedule 'rewind' goes back to", ">= 0")
    rounds: int = setting(1, "trainings that are pruned, one after another; 1 = one-shot", ">= 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "reinit" and self.rewind_epoch:
            raise ConfigError("method.rewind_epoch contradicts method.weights 'reinit'; give one of the two")

    def starts_from_dense(self) -> bool:
        """The first round is the dense training; weights of an epoch are not in a finished run."""
        return self.rewind_epoch == 0


@dataclass(frozen=True)
class Snip(MethodSettings):
    """Before any training, keep the weights on which the loss depends most, and train them alone."""

    name: ClassVar[str] = "snip"

    prune_ratio: float = setting(0.5, "fraction of weights, or of prunable channels, to remove", "[0, 1)")
    form: Literal["weights", "channels"] = setting(
        "weights", "weights: single ones are held at zero; channels: the network is cut"
    )
    batches: int = setting(1, "batches whose mean loss is scored", ">= 1")
    policy: PolicyChoice = setting("auto", "with channels: residual policy")
    min_channels: int = setting(1, "with channels: how many stay in every layer", ">= 1")
    round_to: RoundTo = setting(ROUND_TO, "with channels: kept widths are multiples of this; 1 = exact", ">= 1")


@dataclass(frozen=True)
class NetworkSlimming(MethodSettings):
    """Train to the end under the penalty, cut by a global threshold on |gamma|, train again."""

    name: ClassVar[str] = "network_slimming"

    prune_ratio: float = setting(0.5, "fraction of prunable channels to remove", "[0, 1)")
    weights: Literal["inherit", "reinit"] = setting(
        "inherit", "weights of the second training: the trained ones, or new"
    )
    clock: ClockName = setting("scaled", "scaled: the penalty grows as the schedule is shorter; epochs: as given")
    penalty: float = setting(1e-4, "L1 strength s on BatchNorm scales; scaled by the clock", ">= 0")
    penalty_form: PenaltyForm = setting("subgradient", "form of the L1")
    policy: PolicyChoice = setting("auto", "residual policy")
    tie_score: TieScore = setting("mean", "score of channels that are cut together")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: RoundTo = setting(ROUND_TO, "kept widths are multiples of this; 1 = the exact count", ">= 1")

    def shared_search(self) -> EarlyBirdTraining:
        """The Early-Bird search whose last ticket is this method's."""
        shared = {name: value for name, value in vars(self).items() if name != "weights"}
        return EarlyBirdTraining(**shared, draw_at="last")


@dataclass(frozen=True)
class ThiNet(MethodSettings):
    """Train dense, cut layer by layer what the next layer would miss least, fine-tune after each, retrain."""

    name: ClassVar[str] = "thinet"

    prune_ratio: float = setting(0.5, "fraction of each layer's channels to remove", "[0, 1)")
    images_per_class: int = setting(10, "training images per class to sample", ">= 1")
    locations: int = setting(10, "(output channel, position) pairs to sample in each image", ">= 1")
    finetune_steps: int = setting(100, "fine-tuning steps after each layer", ">= 0")
    finetune_lr: float = setting(1e-3, "learning rate of these steps", "> 0")
    policy: Literal["inner", "tie"] = setting("inner", "residual policy: what crosses an add stays, or is cut together")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: RoundTo = setting(ROUND_TO, "kept widths are multiples of this; 1 = int((1 - p) * C)", ">= 1")

    def starts_from_dense(self) -> bool:
        """The dense training comes first, whatever the settings."""
        return True


@dataclass(frozen=True)
class SoftFilterPruning(MethodSettings):
    """Zero the smallest filters after each epoch, cut last; on a chain = pruning at initialisation by filter norm."""

    name: ClassVar[str] = "soft_filter_pruning"

    prune_ratio: float = setting(0.5, "fraction of each layer's filters to zero", "[0, 1)")
    zero_at_start: bool = setting(True, "zero before the first epoch too, as the authors' code does")
    every_epochs: int = setting(1, "epochs between two zeroings; the last epoch always zeroes", ">= 1")
    policy: PolicyChoice = setting("select", "residual policy of the cut")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: RoundTo = setting(ROUND_TO, "kept widths are multiples of this; 1 = the exact count", ">= 1")


@dataclass(frozen=True)
class MatchedToTicket(MethodSettings):
    """A control that needs a ticket for its widths or its budget; it pays for no search."""

    def check_network(self, model: nn.Module, example_input: Tensor) -> None:
        """Raise unless there are channels to cut."""
        EarlyBirdTraining(criterion="filter_l1").check_network(model, example_input)

    def search(self, task: Task, resume: dict[str, Any] | None) -> NoReturn:
        """Refuse: there is nothing to search for.

        Raises:
            MethodError: always; the message says how to give a ticket.
        """
        told = f"method {self.name} is matched to an Early-Bird ticket and searches none"
        command = f"`earlybird retrain --ticket FILE --method {self.name}`"
        raise MethodError(f"{told}; give it to {command}, or let `earlybird compare` do so")

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


@dataclass(frozen=True)
class WideStart(MethodSettings):
    """Train dense for a share of a budget, cut to a step time, go on with the weights; needs `--budget`.

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "wide_start"

    share: float | Literal["rule"] = setting(
        0.03,
        "share of the budget that is trained dense before the cut; 0 = none; rule = until the paper's rule on mask "
        "distances fires, at most latest_share",
        "[0, 1)",
    )
    latest_share: float = setting(0.35, "with share rule: share of the budget at which the cut is due", "(0, 1)")
    step_ratio: float | Literal["auto"] = setting(
        "auto",
        "seconds of a training step after the cut, as a share of the dense network's; auto = the share that the budget "
        "is of the dense training, so that the cut network has a whole schedule",
        "(0, 1]",
    )
    cuts: str = setting("", "several cuts instead of one, SHARE/STEP_RATIO each: 0.03/0.8+0.08/0.62+0.15/0.5")
    allocation: Allocation = setting(
        "uniform",
        "which layers go: uniform = the same fraction of each; global = the lowest scores of all; time = what keeps "
        "most of the scores for the seconds (measures the layers first)",
    )
    criterion: Literal["bn_scale", "bn_saliency"] = setting("bn_scale", "score by which channels stay")
    weights: Literal["inherit", "initial"] = setting("inherit", "weights after the cut: trained, or the run's initial")
    schedule: Literal["auto", "continue", "restart"] = setting(
        "auto", "learning rate after the cut: auto = restart after one cut, continue after several"
    )
    warmup: float = setting(
        0.0,
        "share of the training after the last cut in which the learning rate rises linearly to its schedule",
        "[0, 1)",
    )
    policy: PolicyChoice = setting("auto", "residual policy")
    tie_score: TieScore = setting("mean", "score of channels that are cut together")
    min_share: float = setting(0.25, "share of each layer's channels that stays at least", "(0, 1]")
    round_to: RoundTo = setting(
        "auto", "kept widths are multiples of this; 1 = exact; auto = 8 on CPUs, 16 on CUDA in bf16, else 8", ">= 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        shares, ratios = zip(*self.planned_cuts(1.0), strict=True)
        legal = all(0 <= share < 1 for share in shares) and all(0 < ratio <= 1 for ratio in ratios)
        rising = list(shares) == sorted(set(shares)) and list(ratios) == sorted(set(ratios), reverse=True)
        expected = "SHARE/STEP_RATIO pairs, shares rising in [0, 1), ratios falling in (0, 1]"
        require("method.cuts", self.cuts, legal and rising, expected)
        if self.cuts and self.share == "rule":
            raise ConfigError("method.share 'rule' contradicts method.cuts, which says when to cut; give one of them")
        if self.criterion == "bn_saliency" and not shares[0]:
            raise ConfigError("method.criterion 'bn_saliency' gathers gradients; give --method.share above 0")

    @property
    def resolved_schedule(self) -> Literal["continue", "restart"]:
        """Learning rate after the cut, "auto" resolved for the number of cuts."""
        if self.schedule == "auto":
            return "continue" if "+" in self.cuts else "restart"
        return self.schedule

    def planned_cuts(self, budget_share: float) -> list[tuple[float, float]]:
        """Share of the budget at which each cut is made, by a rule at the latest, and the step ratio after it.

        Args:
            budget_share: what the budget is of the dense training.
        """
        if not self.cuts:
            share = self.latest_share if self.share == "rule" else self.share
            return [(share, min(1.0, budget_share) if self.step_ratio == "auto" else self.step_ratio)]
        try:
            pairs = [cut.split("/") for cut in self.cuts.split("+")]
            return [(float(share), float(ratio)) for share, ratio in pairs]
        except ValueError:
            raise ConfigError(
                wrong_value("method.cuts", self.cuts, "SHARE/STEP_RATIO pairs such as 0.03/0.8+0.08/0.5")
            ) from None


_CLASSES: tuple[type[Method], ...] = (
    EarlyBirdTraining, Dense, LotteryTicket, Snip, NetworkSlimming, ThiNet, SoftFilterPruning, Uniform, ScratchLonger,
    DenseShorter, WideStart,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in _CLASSES}

_IMPORTED: dict[str, type[Method]] = {}

# Preset -> the method that it is, and the settings in which it differs.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinit": ("early_bird", {"weights": "reinit"}),
    "random": ("early_bird", {"channels": "random"}),
    "shuffled": ("early_bird", {"channels": "shuffled"}),
    **{f"draw_{draw}": ("early_bird", {"draw_at": draw}) for draw in (0, 1, 5, "last")},
    "early_bird_restart": ("early_bird", {"schedule": "restart"}),
    "early_bird_as_released": ("early_bird", {"rule": "authors_code", "retrain_penalty": "search"}),
    "lottery_ticket_reinit": ("lottery_ticket", {"weights": "reinit"}),
    "lottery_ticket_iterative": ("lottery_ticket", {"rounds": 3}),
    "soft_filter_pruning_as_written": ("soft_filter_pruning", {"zero_at_start": False}),
    "snip_channels": ("snip", {"form": "channels"}),
    "narrow": ("wide_start", {"share": 0.0, "weights": "initial"}),
}


def method_names() -> list[str]:
    """Methods and presets; the user's own (`pkg.mod:Class`, `file.py:Class`) come on top of these."""
    return [*METHODS, *PRESETS]


def method_class(name: str) -> type[Method]:
    """The dataclass of a method, or of the method that a preset is of.

    Raises:
        ConfigError: no method has this name, or code of the user's is no method.
    """
    if isinstance(name, str) and name in PRESETS:
        name = PRESETS[name][0]
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if not isinstance(name, str) or not is_code(name, "method"):
        legal = f"one of {', '.join(method_names())}, pkg.mod:Class or file.py:Class"
        raise ConfigError(wrong_value("method.name", name, legal))
    if name not in _IMPORTED:
        _IMPORTED[name] = _checked(name, find_callable(name, "method", ConfigError))
    return _IMPORTED[name]


def summary_of(name: str) -> str:
    """First docstring line of a method's class; for a preset, its method and the settings in which it differs."""
    if name in PRESETS:
        base, changed = PRESETS[name]
        return f"{base} with {', '.join(f'{key}={value}' for key, value in changed.items())}"
    return (method_class(name).__doc__ or "").strip().partition("\n")[0].rstrip(".")


def name_of(method: Method) -> str:
    """The name by which `method_class` finds a method's class again."""
    paths = [path for path, kind in _IMPORTED.items() if kind is type(method)]
    return paths[-1] if paths else method.name


def preset_settings(name: str) -> dict[str, Any]:
    """Settings of a preset by which it differs from its method; none for another name."""
    return dict(PRESETS[name][1]) if name in PRESETS else {}


def preset_of(settings: Mapping[str, Any]) -> str | None:
    """Preset that a configured method is, or None; of several that fit, the one that sets most.

    Args:
        settings: `method` of a configuration, its name among them.
    """
    own = {preset: changed for preset, (base, changed) in PRESETS.items() if base == settings.get("name")}
    fitting = [preset for preset, changed in own.items() if all(settings.get(key) == changed[key] for key in changed)]
    return max(fitting, key=lambda preset: len(own[preset]), default=None)


def method_label(settings: Mapping[str, Any]) -> str:
    """Name of a configured method: its preset, its own name, or of the user's code the class."""
    return preset_of(settings) or own_name(settings)


def own_name(settings: Mapping[str, Any]) -> str:
    """Name of a configured method itself, or of the user's code the class."""
    return str(settings.get("name", "method")).rpartition(":")[2]


def _checked(name: str, found: Any) -> type[Method]:
    frozen = dataclasses.is_dataclass(found) and isinstance(found, type) and found.__dataclass_params__.frozen  # type: ignore[attr-defined]
    lacking = [part for part in ("name", "search", "restore") if not hasattr(found, part)]
    if not frozen or lacking:
        what = f"lacks {', '.join(lacking)}" if lacking else "is no frozen dataclass"
        raise ConfigError(f"method {name!r} {what}; see docs/extending.md")
    kind: type[Method] = found
    return kind
