"""`draw_mask`: a `ChannelMask` from scores and a prune ratio, within floors and rounding.

The units of the whole network are ranked together and `round(p * N)` of the lowest go (You et al. 2020, Section 3.1);
`draw_mask_per_layer` removes the same share of every layer instead.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from earlybird.core.choices import TieScore
from earlybird.core.groups import ChannelGroups
from earlybird.core.mask import ChannelMask
from earlybird.core.ranking import Ranking, rank_units, scored_groups
from earlybird.errors import require


def draw_mask(
    scores: Mapping[str, Tensor],
    prune_ratio: float,
    groups: ChannelGroups | None = None,
    *,
    min_channels: int = 1,
    round_to: int = 1,
    tie_score: TieScore = "mean",
) -> ChannelMask:
    """Remove the `round(prune_ratio * N)` units with the lowest scores.

    Of equal scores the larger (index + 1) / width goes first, then the earlier layer, so that all-equal scores give
    uniform widths. A unit whose removal would leave a layer with fewer than `min_channels` channels is skipped and the
    next lowest goes.

    Args:
        scores: layer name -> `[channels]`, higher = keep (see `earlybird.core.criteria`).
        prune_ratio: fraction of the units to remove, in [0, 1).
        groups: channels that are cut together; without them every scored channel is its own unit (a plain chain).
        min_channels: channels that stay in every layer, >= 1.
        round_to: snap each layer's kept count to a multiple of this (1: not at all).
        tie_score: score of a tied unit: the "mean", "max" or "sum" over its scored members.

    Raises:
        ConfigError: `prune_ratio`, `min_channels`, `round_to` or `tie_score` is out of range.
        MaskError: the scores name no layer of the groups, or have another width.
        NonFiniteError: a score is NaN or infinite.

    Warns:
        UserWarning: the floors leave fewer units to remove than requested.

    Example:
        >>> mask = draw_mask({"bn": torch.tensor([0.1, 0.9, 0.5, 0.7])}, 0.5)
        >>> mask["bn"].tolist()
        [False, True, False, True]
    """
    ranking = rank_units(scores, scored_groups(scores, groups), tie_score)
    return draw_ranked(ranking, prune_ratio, min_channels=min_channels, round_to=round_to)


def draw_mask_per_layer(
    scores: Mapping[str, Tensor],
    prune_ratio: float,
    groups: ChannelGroups | None = None,
    *,
    min_channels: int = 1,
    round_to: int = 1,
    tie_score: TieScore = "mean",
) -> ChannelMask:
    """Remove the `floor(prune_ratio * C)` lowest of the C units of each layer: the same ratio everywhere.

    Units that belong to the same layers are ranked among themselves (He et al. 2018; `draw_mask` ranks all together).

    Arguments and errors are those of `draw_mask`.

    Example:
        >>> mask = draw_mask_per_layer({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.1, 0.2, 0.3])}, 0.5)
        >>> mask["a"].tolist(), mask["b"].tolist()
        ([False, True], [False, True, True])
    """
    _check_arguments(prune_ratio, min_channels, round_to)
    ranking = rank_units(scores, scored_groups(scores, groups), tie_score)
    rank = np.argsort(ranking.lowest_first)
    keep = np.ones(rank.size, dtype=bool)
    for block in ranking.groups.blocks:
        lowest_first = block[np.argsort(rank[block])]
        keep[lowest_first[: removed_count(block.size, prune_ratio, min_channels, round_to)]] = False
    return ranking.groups.mask_of(torch.from_numpy(keep))


def removed_count(size: int, prune_ratio: float, min_channels: int = 1, round_to: int = 1) -> int:
    """Units of a layer of `size` that go at a ratio: `floor(prune_ratio * size)`, within floor and rounding.

    Example:
        >>> removed_count(10, 0.35), removed_count(10, 0.7), removed_count(64, 0.3, round_to=8)
        (3, 7, 16)
    """
    # 0.7 * 10 is a bit below 7, which the floor must not see.
    removed = min(math.floor(prune_ratio * size + 1e-9), max(0, size - min_channels))
    return size - nearest_count(size - removed, size, round_to, min_channels) if round_to > 1 else removed


def draw_ranked(ranking: Ranking, prune_ratio: float, *, min_channels: int = 1, round_to: int = 1) -> ChannelMask:
    """`draw_mask` for units that are ranked already: many ratios share one ranking."""
    _check_arguments(prune_ratio, min_channels, round_to)
    units = ranking.lowest_first.size
    target = round(prune_ratio * units)
    removed = remove_lowest(ranking, target, min_channels)
    if removed.sum() < target:
        warnings.warn(
            f"a floor of {min_channels} channels per layer leaves {removed.sum() / units:.3f} of the units to remove "
            f"where prune_ratio={prune_ratio} asks for {target / units:.3f}",
            stacklevel=3,
        )
    keep = ~removed
    if round_to > 1:
        keep = snap_widths(keep, ranking, round_to=round_to, min_channels=min_channels)
    return ranking.groups.mask_of(torch.from_numpy(keep))


def realised_ratio(mask: ChannelMask, groups: ChannelGroups | None = None) -> float:
    """Fraction of the units (without groups: of the channels) that a mask really removes, in [0, 1].

    Raises:
        MaskError: the mask does not fit the groups.
    """
    keep = mask.flat() if groups is None else groups.keep_units(mask)
    return 1.0 - float(keep.double().mean()) if keep.numel() else 0.0


def remove_lowest(ranking: Ranking, target: int, min_channels: int) -> np.ndarray:
    """Bool `[N]`, True = removed: the lowest `target` units that no floor holds back, fewer where floors leave fewer.

    A unit whose removal would leave one of its layers fewer than `min_channels` channels is skipped. A layer here is a
    mask key or a conv or linear that feeds one: behind a concatenation a norm can keep channels while one of the convs
    in front of it would lose all.
    """
    removed = np.zeros(ranking.lowest_first.size, dtype=bool)
    removed[ranking.lowest_first[:target]] = True
    return removed if _all_floors_hold(ranking, removed, min_channels) else _one_by_one(ranking, target, min_channels)


def _all_floors_hold(ranking: Ranking, removed: np.ndarray, min_channels: int) -> bool:
    left = ranking.groups.channels_left(~removed)
    return bool(((left == ranking.groups.layer_widths) | (left >= min_channels)).all())


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


def snap_widths(keep: np.ndarray, ranking: Ranking, *, round_to: int, min_channels: int) -> np.ndarray:
    """Bool `[N]`, True = keep, with the kept count of every block (`ChannelGroups.blocks`) at the nearest multiple.

    Odd channel counts are slow (`docs/method.md` section 9). Units nearest the threshold are taken back or given up.

    Args:
        keep: bool `[N]`, the units kept so far.
        min_channels: floor per layer; a block is never snapped below it.
    """
    snapped = np.zeros_like(keep)
    rank = np.argsort(ranking.lowest_first)
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


def _check_arguments(prune_ratio: float, min_channels: int, round_to: int) -> None:
    require("prune_ratio", prune_ratio, 0.0 <= prune_ratio < 1.0, "a number in [0, 1)")
    require("min_channels", min_channels, min_channels >= 1, "an integer >= 1")
    require("round_to", round_to, round_to >= 1, "an integer >= 1 (1: no rounding)")
