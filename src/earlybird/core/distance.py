"""`mask_distance`: how much of the ticket changed between two draws (You et al. 2020, Section 3.3)."""

from __future__ import annotations

from earlybird.core.groups import ChannelGroups
from earlybird.core.mask import ChannelMask, check_same_layers
from earlybird.errors import ConfigError


def mask_distance(a: ChannelMask, b: ChannelMask, groups: ChannelGroups | None = None) -> float:
    """Fraction of units on which two masks disagree (normalised Hamming distance).

    0 = same ticket, 1 = complement. Without groups every channel counts once; with groups every unit counts once and
    protected channels never.

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


def chance_distance(prune_ratio: float) -> float:
    """The distance to expect between two independent random masks of one ratio, 2p(1-p).

    Raises:
        ConfigError: `prune_ratio` is outside [0, 1).
    """
    if not 0.0 <= prune_ratio < 1.0:
        raise ConfigError(f"prune_ratio is {prune_ratio}; give a number in [0, 1)")
    return 2.0 * prune_ratio * (1.0 - prune_ratio)


def relative_to_chance(distance: float, prune_ratio: float) -> float:
    """A distance as a fraction of what chance gives: 0.1 is 0.56 of chance at p = 0.1 and 0.2 at p = 0.5.

    Raises:
        ConfigError: `prune_ratio` is 0 or outside [0, 1): chance then says nothing.
    """
    chance = chance_distance(prune_ratio)
    if chance == 0.0:
        raise ConfigError("prune_ratio is 0: every mask is the same and chance gives no distance")
    return distance / chance
