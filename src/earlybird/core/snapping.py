"""Snap each layer's kept count to a multiple, because odd channel counts are slow (`docs/method.md` section 9).

Units that belong to the same layers form a *block* (`ChannelGroups.blocks`). Each block is snapped to the nearest
multiple, or to its full size; the units nearest the threshold are taken back or given up.
"""

from __future__ import annotations

import numpy as np

from earlybird.core.ranking import Ranking


def snap_widths(keep: np.ndarray, ranking: Ranking, *, round_to: int, min_channels: int) -> np.ndarray:
    """Bool `[N]`, True = keep, with every block's kept count snapped.

    Args:
        keep: bool `[N]`, the units kept so far.
        ranking: the units in order.
        round_to: the multiple, > 1.
        min_channels: floor per layer; a block is never snapped below it.
    """
    snapped = np.zeros_like(keep)
    rank = np.empty(keep.size, dtype=np.int64)
    rank[ranking.lowest_first] = np.arange(keep.size)
    for block in ranking.groups.blocks:
        count = nearest_count(int(keep[block].sum()), block.size, round_to, min_channels)
        # The highest ranked stay: against the kept set this gives up or takes back the units nearest the threshold.
        snapped[block[np.argsort(-rank[block])[:count]]] = True
    return snapped


def nearest_count(kept: int, size: int, round_to: int, min_channels: int = 1) -> int:
    """The count nearest to `kept` that is a multiple of `round_to` or the full `size`; of two equally near the larger.

    Example:
        >>> nearest_count(13, 16, 8), nearest_count(3, 6, 8), nearest_count(2, 64, 8)
        (16, 6, 8)
    """
    multiples = range(round_to, size, round_to)
    allowed: list[int] = [count for count in (*multiples, size) if count >= min(min_channels, size)]
    return min(allowed, key=lambda count: (abs(count - kept), -count))
