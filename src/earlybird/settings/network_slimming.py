"""`NetworkSlimming`: settings of network slimming (Liu et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from earlybird.core import PolicyChoice, TieScore
from earlybird.settings.clock import ClockName
from earlybird.settings.early_bird import DEFAULT_ROUND_TO, EarlyBirdTraining, PenaltyForm
from earlybird.settings.fields import setting
from earlybird.settings.method import TicketSettings


@dataclass(frozen=True)
class NetworkSlimming(TicketSettings):
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
    round_to: int = setting(DEFAULT_ROUND_TO, "kept widths are multiples of this; 1 = the exact count", ">= 1")

    def shared_search(self) -> EarlyBirdTraining:
        """The Early-Bird search whose last ticket is this method's."""
        shared = {name: value for name, value in vars(self).items() if name != "weights"}
        return EarlyBirdTraining(**shared, draw_at="last")
