"""Snap each layer's kept count to a multiple, because odd channel counts are slow (`method.md` section 9).

Units that belong to the same layers form a *block*. Each block is snapped to the nearest multiple, or to its full size;
the units nearest the threshold are taken back or given up.
"""

from __future__ import annotations

import numpy as np

from earlybird.core.groups import ChannelGroups


def snap_widths(
    keep: np.ndarray, ranking: np.ndarray, groups: ChannelGroups, *, round_to: int, min_channels: int
) -> np.ndarray:
    """Bool `[N]`, True = keep, with every block's kept count snapped.

    Args:
        keep: bool `[N]`, the units kept so far.
        ranking: unit indices `[N]`, lowest score first.
        groups: the units and their layers.
        round_to: the multiple, > 1.
        min_channels: floor per layer; a block is never snapped below it.
    """
    snapped = keep.copy()
    for block in _blocks(groups):
        lowest_first = ranking[np.isin(ranking, block)]
        count = nearest_count(int(keep[block].sum()), block.size, round_to, min_channels)
        snapped[lowest_first] = False
        # The highest ranked stay: against the kept set this gives up or takes back the units nearest the threshold.
        snapped[lowest_first[lowest_first.size - count :]] = True
    return snapped


def nearest_count(kept: int, size: int, round_to: int, min_channels: int = 1) -> int:
    """The count nearest to `kept` that is a multiple of `round_to` or the full `size`; of two equally near the larger.

    Example:
        >>> nearest_count(13, 16, 8), nearest_count(3, 6, 8), nearest_count(2, 64, 8)
        (16, 6, 8)
    """
    allowed = [n for n in (*range(round_to, size, round_to), size) if n >= min(min_channels, size)]
    nearest: int = min(allowed, key=lambda n: (abs(n - kept), -n))
    return nearest


def _blocks(groups: ChannelGroups) -> list[np.ndarray]:
    layers_of: list[list[int]] = [[] for _ in range(groups.num_units)]
    for number, units in enumerate(groups.unit_of.values()):
        for unit in units[units >= 0].tolist():
            layers_of[unit].append(number)
    members: dict[tuple[int, ...], list[int]] = {}
    for unit, layers in enumerate(layers_of):
        members.setdefault(tuple(layers), []).append(unit)
    return [np.asarray(units, dtype=np.int64) for units in members.values()]
