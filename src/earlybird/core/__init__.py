"""The idea, usable in any training loop: masks, units, criteria, drawing, detection, penalty, tickets.

Imports torch, safetensors and `earlybird.errors`, nothing else of ours.
"""

from earlybird.core.criteria import Criterion, bn_scale, filter_l1, filter_l2, taylor
from earlybird.core.detector import EarlyBird
from earlybird.core.distance import chance_distance, mask_distance, relative_to_chance
from earlybird.core.drawing import draw_mask, draw_mask_per_layer, realised_ratio
from earlybird.core.groups import ChannelGroups
from earlybird.core.mask import ChannelMask
from earlybird.core.penalty import bn_l1_proximal_, bn_l1_subgradient_
from earlybird.core.stopping import STOP_RULES, StopRule, first_firing_draw
from earlybird.core.ticket import Ticket
from earlybird.core.weight_mask import WeightMask, keep_largest, mask_weights_, prunable_weights

__all__ = [
    "STOP_RULES",
    "ChannelGroups",
    "ChannelMask",
    "Criterion",
    "EarlyBird",
    "StopRule",
    "Ticket",
    "WeightMask",
    "bn_l1_proximal_",
    "bn_l1_subgradient_",
    "bn_scale",
    "chance_distance",
    "draw_mask",
    "draw_mask_per_layer",
    "filter_l1",
    "filter_l2",
    "first_firing_draw",
    "keep_largest",
    "mask_distance",
    "mask_weights_",
    "prunable_weights",
    "realised_ratio",
    "relative_to_chance",
    "taylor",
]
