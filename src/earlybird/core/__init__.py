"""The idea, usable in any training loop: masks, groups, criteria, drawing, detection, penalty, tickets.

Needs torch, numpy, safetensors, `earlybird.errors` and `atomic`; stop rules and the choices below load without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from earlybird.core.stop_rules import STOP_RULES, StopRule, first_firing_draw

if TYPE_CHECKING:
    from earlybird.core.allocation import CostTerm, StepCost, allocate
    from earlybird.core.criteria import Criterion, bn_scale, filter_l1, filter_l2, taylor
    from earlybird.core.detector import EarlyBird
    from earlybird.core.drawing import draw_mask, draw_mask_per_layer, realised_ratio
    from earlybird.core.groups import ChannelGroups, mask_distance
    from earlybird.core.mask import ChannelMask
    from earlybird.core.measured_allocation import MeasuredAllocation, allocate_measured
    from earlybird.core.penalty import bn_l1_proximal_, bn_l1_subgradient_
    from earlybird.core.saliency import BNSaliency
    from earlybird.core.ticket import Ticket
    from earlybird.core.weight_mask import WeightMask, keep_largest, mask_weights_, prunable_weights

# Built-in criteria: functions of `core/criteria.py`, and `bn_saliency` of `core/saliency.py`, which gathers over steps.
CRITERION_NAMES = ("bn_scale", "bn_saliency", "filter_l1", "filter_l2", "taylor")
# How a budget in seconds is shared among layers (`core/allocation.py`).
ALLOCATIONS = ("global", "uniform", "time")
# What a unit that ties several scored channels scores.
TieScore = Literal["mean", "max", "sum"]
# Residual policies (`docs/method.md` section 3); "auto" is resolved when a network is traced.
Policy = Literal["inner", "tie", "select"]
PolicyChoice = Literal["auto", "inner", "tie", "select"]

_MODULES = "allocation criteria detector drawing groups mask measured_allocation penalty saliency ticket weight_mask"

__all__ = [
    "ALLOCATIONS", "CRITERION_NAMES", "STOP_RULES", "BNSaliency", "ChannelGroups", "ChannelMask", "CostTerm",
    "Criterion", "EarlyBird", "MeasuredAllocation", "Policy", "PolicyChoice", "StepCost", "StopRule", "Ticket",
    "TieScore", "WeightMask", "allocate", "allocate_measured", "bn_l1_proximal_", "bn_l1_subgradient_", "bn_scale",
    "draw_mask", "draw_mask_per_layer", "filter_l1", "filter_l2", "first_firing_draw", "keep_largest", "mask_distance",
    "mask_weights_", "prunable_weights", "realised_ratio", "taylor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module in _MODULES.split() if name in __all__ else ():
        if hasattr(found := import_module(f"earlybird.core.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'earlybird.core' has no attribute {name!r}")
