"""Exact structured slimming on `torch.fx`: what may be cut (`channel_groups`), the cut (`slim`), the check (`certify`).

`tracing` records what a network runs, `rules` and `layers` say what each operation means for channels, `propagation`
applies them, `groups` decides what may go and counts it, `surgery` cuts. Nothing here trains.
"""

from earlybird.slimming.check import Difference, difference
from earlybird.slimming.groups import channel_costs, channel_groups
from earlybird.slimming.surgery import certify, expanded, kept_indices, masked, sliced, slim, zero_channels_

__all__ = [
    "Difference", "certify", "channel_costs", "channel_groups", "difference", "expanded", "kept_indices", "masked",
    "sliced", "slim", "zero_channels_",
]  # fmt: skip
