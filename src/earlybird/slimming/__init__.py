"""Exact structured slimming on `torch.fx`: what may be cut (`channel_groups`), the cut (`slim`), the check (`certify`).

`graph` traces, `rules` say what each operation means for channels, `walk` applies them, `certificate` decides what may
go, `groups` counts it in units, `surgery` cuts. Nothing here scores, ranks or trains.
"""

from earlybird.slimming.check import Difference, difference
from earlybird.slimming.groups import channel_groups
from earlybird.slimming.select import (
    ScatterBatchNorm1d,
    ScatterBatchNorm2d,
    ScatterBatchNorm3d,
    ScatterSyncBatchNorm,
    SelectBatchNorm1d,
    SelectBatchNorm2d,
    SelectBatchNorm3d,
    SelectSyncBatchNorm,
)
from earlybird.slimming.surgery import certify, expanded, kept_indices, masked, sliced, slim, zero_channels_
from earlybird.slimming.unit_cost import channel_costs

__all__ = [
    "Difference",
    "ScatterBatchNorm1d",
    "ScatterBatchNorm2d",
    "ScatterBatchNorm3d",
    "ScatterSyncBatchNorm",
    "SelectBatchNorm1d",
    "SelectBatchNorm2d",
    "SelectBatchNorm3d",
    "SelectSyncBatchNorm",
    "certify",
    "channel_costs",
    "channel_groups",
    "difference",
    "expanded",
    "kept_indices",
    "masked",
    "sliced",
    "slim",
    "zero_channels_",
]
