"""`mask_distance`: the change of the mask between two draws (You et al. 2020, Section 3.3)."""

from __future__ import annotations

from earlybird.core.groups import ChannelGroups
from earlybird.core.mask import ChannelMask, check_same_layers


def mask_distance(a: ChannelMask, b: ChannelMask, groups: ChannelGroups | None = None) -> float:
    """Fraction of units on which two masks disagree (normalised Hamming distance).

    0 = same ticket, 1 = complement; independent random masks of ratio p differ by 2p(1 - p) on average. Without groups
    every channel counts once; with groups every unit counts once and protected channels never.

    Raises:
        MaskError: the masks do not name the same layers with the same widths, or do not fit the groups.

    Example:
        >>> import torch
        >>> a = ChannelMask({"bn": torch.tensor([True, True, False, False])})
        >>> b = ChannelMask({"bn": torch.tensor([True, False, True, False])})
        >>> mask_distance(a, b)
        0.5
    """
    check_same_layers(a, b)
    if groups is None:
        left, right = a.flat(), b.flat(a)
    else:
        left, right = groups.keep_units(a), groups.keep_units(b)
    return float((left != right).double().mean()) if left.numel() else 0.0
