"""`SoftFilterPruning`: settings of soft filter pruning (He et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from earlybird.core import PolicyChoice
from earlybird.settings.early_bird import DEFAULT_ROUND_TO
from earlybird.settings.fields import setting
from earlybird.settings.method import MethodSettings


@dataclass(frozen=True)
class SoftFilterPruning(MethodSettings):
    """Zero the smallest filters after each epoch, go on updating all, cut at the end."""

    name: ClassVar[str] = "soft_filter_pruning"

    prune_ratio: float = setting(0.5, "fraction of each layer's filters to zero", "[0, 1)")
    zero_at_start: bool = setting(True, "zero before the first epoch too, as the authors' code does")
    every_epochs: int = setting(1, "epochs between two zeroings; the last epoch always zeroes", ">= 1")
    policy: PolicyChoice = setting("select", "residual policy of the cut")
    min_channels: int = setting(1, "channels that stay in every layer", ">= 1")
    round_to: int = setting(DEFAULT_ROUND_TO, "kept widths are multiples of this; 1 = the exact count", ">= 1")
