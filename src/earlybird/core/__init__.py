"""The idea, usable in any training loop: masks, groups, criteria, drawing, detection, penalty, tickets.

Imports torch, safetensors and `earlybird.errors` and `atomic`, nothing else of ours. The names below are imported when
first used, so that settings can read `stop_rules` without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earlybird.core.criteria import Criterion, bn_scale, filter_l1, filter_l2, taylor
    from earlybird.core.detector import EarlyBird
    from earlybird.core.distance import mask_distance
    from earlybird.core.drawing import draw_mask, draw_mask_per_layer, realised_ratio
    from earlybird.core.groups import ChannelGroups
    from earlybird.core.mask import ChannelMask
    from earlybird.core.penalty import bn_l1_proximal_, bn_l1_subgradient_
    from earlybird.core.stop_rules import STOP_RULES, StopRule, first_firing_draw
    from earlybird.core.ticket import Ticket
    from earlybird.core.weight_mask import WeightMask, keep_largest, mask_weights_, prunable_weights

_MODULES = "criteria detector distance drawing groups mask penalty stop_rules ticket weight_mask"

__all__ = [
    "STOP_RULES", "ChannelGroups", "ChannelMask", "Criterion", "EarlyBird", "StopRule", "Ticket", "WeightMask",
    "bn_l1_proximal_", "bn_l1_subgradient_", "bn_scale", "draw_mask", "draw_mask_per_layer", "filter_l1", "filter_l2",
    "first_firing_draw", "keep_largest", "mask_distance", "mask_weights_", "prunable_weights", "realised_ratio",
    "taylor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module in _MODULES.split() if name in __all__ else ():
        if hasattr(found := import_module(f"earlybird.core.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'earlybird.core' has no attribute {name!r}")
