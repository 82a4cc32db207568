"""What each channel weighs: the cost of the layers that make it or read it, shared among their channels.

A ranking by it brackets what any ranking can keep: the cheapest channels removed first leave the most work, the
dearest first the least.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from earlybird.core.groups import ChannelGroups
from earlybird.errors import MaskError
from earlybird.slimming.certificate import certify_channels
from earlybird.slimming.graph import ExampleInput
from earlybird.slimming.surgery import policy_of


def channel_costs(
    model: nn.Module, example_input: ExampleInput, groups: ChannelGroups, layer_costs: Mapping[str, float]
) -> dict[str, Tensor]:
    """Mask key -> float32 `[channels]`: what goes with one channel, at full width.

    Args:
        model: the network of the groups.
        example_input: what the groups were found with.
        groups: what may be cut.
        layer_costs: module path -> cost of a convolution or linear, such as MACs; others cost nothing.

    Raises:
        SlimError: the network cannot be traced.
        MaskError: the groups are of another network.
    """
    certificate = certify_channels(model, example_input, policy_of(groups))
    book, classes = certificate.book, certificate.classes
    cost = np.zeros(book.size)
    for name, total in layer_costs.items():
        for slots in (book.inputs.get(name), book.outputs.get(name)):
            if slots is not None and len(slots):
                # Several slots of a layer may be of one class: it loses all of them at once.
                np.add.at(cost, classes[slots], total / len(slots))
    missing = [name for name in groups.unit_of if name not in book.outputs and bool((groups.unit_of[name] >= 0).any())]
    if missing:
        raise MaskError(f"the channel groups name layer {missing[0]!r}, which this network does not have")
    return {
        name: torch.from_numpy(cost[classes[book.outputs[name]]]).float()
        for name in groups.unit_of
        if name in book.outputs
    }
