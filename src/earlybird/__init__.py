"""earlybird: find the subnetwork worth training within the first epochs, cut the network, train only the small one.

The names below are the library; they are imported when first used, so that `earlybird --help` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earlybird.core.criteria import bn_scale, filter_l1, taylor
    from earlybird.core.detector import EarlyBird
    from earlybird.core.drawing import draw_mask
    from earlybird.core.groups import ChannelGroups, mask_distance
    from earlybird.core.mask import ChannelMask
    from earlybird.core.penalty import bn_l1_proximal_, bn_l1_subgradient_
    from earlybird.core.saliency import BNSaliency
    from earlybird.core.ticket import Ticket
    from earlybird.models import load, save
    from earlybird.slimming import channel_groups, masked, slim

__version__ = "0.1.0"

# Where a public name is defined, if not in core.
_HOMES = {"channel_groups": "slimming", "masked": "slimming", "slim": "slimming", "load": "models", "save": "models"}

__all__ = [
    "BNSaliency", "ChannelGroups", "ChannelMask", "EarlyBird", "Ticket", "__version__", "bn_l1_proximal_",
    "bn_l1_subgradient_", "bn_scale", "channel_groups", "draw_mask", "filter_l1", "load", "mask_distance", "masked",
    "save", "slim", "taylor",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"earlybird.{_HOMES.get(name, 'core')}"), name)
    raise AttributeError(f"module 'earlybird' has no attribute {name!r}")
