"""Remove the lowest units, but leave every layer some channels.

A layer here is a mask key or a conv or linear that feeds one: behind a concatenation a norm can keep channels while one
of the convs in front of it would lose all.
"""

from __future__ import annotations

import numpy as np

from earlybird.core.ranking import Ranking


def remove_lowest(ranking: Ranking, target: int, min_channels: int) -> np.ndarray:
    """Bool `[N]`, True = removed: the lowest `target` units that no floor holds back, fewer where floors leave fewer.

    A unit whose removal would leave one of its layers fewer than `min_channels` channels is skipped.
    """
    removed = np.zeros(ranking.lowest_first.size, dtype=bool)
    removed[ranking.lowest_first[:target]] = True
    return removed if _all_floors_hold(ranking, removed, min_channels) else _one_by_one(ranking, target, min_channels)


def _all_floors_hold(ranking: Ranking, removed: np.ndarray, min_channels: int) -> bool:
    units, layers = ranking.groups.memberships
    widths = ranking.groups.layer_widths
    lost = np.bincount(layers[removed[units]], minlength=widths.size)
    return bool(((lost == 0) | (widths - lost >= min_channels)).all())


def _one_by_one(ranking: Ranking, target: int, min_channels: int) -> np.ndarray:
    layers_of = ranking.groups.layers_of
    spare = (ranking.groups.layer_widths - min_channels).tolist()
    removed, count = np.zeros(ranking.lowest_first.size, dtype=bool), 0
    for unit in ranking.lowest_first.tolist():
        if count == target:
            break
        layers = layers_of[unit]
        if all(spare[layer] >= layers.count(layer) for layer in layers):
            removed[unit] = True
            count += 1
            for layer in layers:
                spare[layer] -= 1
    return removed
