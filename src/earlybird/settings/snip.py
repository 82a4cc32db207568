"""`Snip`: settings of SNIP (Lee et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from earlybird.core import PolicyChoice
from earlybird.settings.early_bird import DEFAULT_ROUND_TO
from earlybird.settings.fields import setting
from earlybird.settings.method import MethodSettings


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
    round_to: int = setting(DEFAULT_ROUND_TO, "with channels: kept widths are multiples of this; 1 = exact", ">= 1")
