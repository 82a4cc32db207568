"""`draw_mask`: a `ChannelMask` from scores and a prune ratio, within floors and rounding (`docs/method.md` section 1).

The units of the whole network are ranked together (You et al. 2020, Section 3.1), or those of each layer by themselves.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from earlybird.core import TieScore
from earlybird.core.groups import ChannelGroups, one_unit_per_channel, restrict_to_scored
from earlybird.core.mask import ChannelMask
from earlybird.errors import MaskError, NonFiniteError, is_integer, is_number, require, require_type

GIVE_GROUPS = "give groups=channel_groups(model, example_input)"


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
        UserWarning: the floors, or channels that must stay, leave fewer to remove than requested; the reason is named.

    Example:
        >>> mask = draw_mask({"bn": torch.tensor([0.1, 0.9, 0.5, 0.7])}, 0.5)
        >>> mask["bn"].tolist()
        [False, True, False, True]
    """
    _check_arguments(prune_ratio, min_channels, round_to)
    ranking = rank_units(scores, scored_groups(scores, groups), tie_score)
    mask = draw_ranked(ranking, prune_ratio, min_channels=min_channels, round_to=round_to)
    if told := shortfall(ranking.groups, prune_ratio):
        warnings.warn(told, stacklevel=2)
    return mask


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
    sizes = (block.size for block in ranking.groups.blocks)
    counts = [size - removed_count(size, prune_ratio, min_channels, round_to) for size in sizes]
    if told := shortfall(ranking.groups, prune_ratio):
        warnings.warn(told, stacklevel=2)
    return ranking.groups.mask_of(torch.from_numpy(highest_of_blocks(ranking, counts)))


def removed_count(size: int, prune_ratio: float, min_channels: int = 1, round_to: int = 1) -> int:
    """Units of a layer of `size` that go at a ratio: `floor(prune_ratio * size)`, within floor and rounding.

    Example:
        >>> removed_count(10, 0.35), removed_count(10, 0.7), removed_count(64, 0.3, round_to=8)
        (3, 7, 16)
    """
    # 0.7 * 10 is a bit below 7, which the floor must not see.
    return size - nearest_count(size - math.floor(prune_ratio * size + 1e-9), size, round_to, min_channels)


def draw_ranked(ranking: Ranking, prune_ratio: float, *, min_channels: int = 1, round_to: int = 1) -> ChannelMask:
    """`draw_mask` for units that are ranked already: many ratios share one ranking."""
    _check_arguments(prune_ratio, min_channels, round_to)
    units = ranking.lowest_first.size
    target = round(prune_ratio * units)
    removed = remove_lowest(ranking, target, min_channels)
    if removed.sum() < target:
        told = f"a floor of {min_channels} channels per layer leaves {removed.sum() / units:.3f} of the units to remove"
        asked = f"where prune_ratio={prune_ratio} asks for {target / units:.3f}"
        warnings.warn(f"{told} {asked}", stacklevel=3)
    keep = ~removed
    if round_to > 1:
        keep = snap_widths(keep, ranking, round_to=round_to, min_channels=min_channels)
    return ranking.groups.mask_of(torch.from_numpy(keep))


def shortfall(groups: ChannelGroups, prune_ratio: float) -> str:
    """Requested and realised ratio where channels that must stay part them, with the reason; else empty."""
    reasons, units = groups.reasons_to_stay(), groups.num_units
    stay = reasons.total()
    if prune_ratio * stay < 1:  # No more than rounding.
        return ""
    (reason, count), realised = reasons.most_common(1)[0], round(prune_ratio * units) / (units + stay)
    told = f"prune_ratio={prune_ratio:g} is taken of the {units} units that may go and removes {realised:.3f} of all"
    return f"{told}: {stay} channels stay, {count} of them because {reason}"


def shortfall_of(mask: ChannelMask, groups: ChannelGroups, prune_ratio: float, round_to: int = 1) -> str:
    """`shortfall`, also where floors or the method keep more than the rounding of each block explains; else empty."""
    units, most = groups.num_units, max(1, round_to) * len(groups.blocks)
    removed = units - int(groups.keep_units(mask).sum())
    if (told := shortfall(groups, prune_ratio)) or prune_ratio * units - removed <= most:
        return told
    told = f"prune_ratio={prune_ratio:g} asks for {round(prune_ratio * units)} of the {units} units that may go"
    told = f"{told} and {removed} go ({removed / units:.3f})"
    return f"{told}: floors, or layers that the method does not cut, keep the rest"


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
    left = ranking.groups.channels_left(~removed)
    all_floors_hold = ((left == ranking.groups.layer_widths) | (left >= min_channels)).all()
    return removed if all_floors_hold else _one_by_one(ranking, target, min_channels)


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
    blocks = ranking.groups.blocks
    counts = [nearest_count(int(keep[block].sum()), block.size, round_to, min_channels) for block in blocks]
    # Against the kept set this gives up or takes back the units nearest the threshold.
    return highest_of_blocks(ranking, counts)


def highest_of_blocks(ranking: Ranking, counts: Sequence[int]) -> np.ndarray:
    """Bool `[N]`: of each block (`ChannelGroups.blocks`) the highest ranked, as many as its count."""
    highest, rank = np.zeros(ranking.lowest_first.size, dtype=bool), np.argsort(ranking.lowest_first)
    for block, count in zip(ranking.groups.blocks, counts, strict=True):
        highest[block[np.argsort(-rank[block])[:count]]] = True
    return highest


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
    require("prune_ratio", prune_ratio, is_number(prune_ratio) and 0.0 <= prune_ratio < 1.0, "a number in [0, 1)")
    require("min_channels", min_channels, is_integer(min_channels) and min_channels >= 1, "an integer >= 1")
    require("round_to", round_to, is_integer(round_to) and round_to >= 1, "an integer >= 1 (1: no rounding)")


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of a network, lowest score first.

    Attributes:
        groups: the units that are ranked; each has a score.
        scores: float64 `[N]`, the score of each unit over its scored channels.
        lowest_first: int64 `[N]`, unit indices.
    """

    groups: ChannelGroups
    scores: np.ndarray
    lowest_first: np.ndarray

    @property
    def is_uninformative(self) -> bool:
        """True if all units score the same, as at initialisation: the order says nothing of the network."""
        return bool((self.scores == self.scores[:1]).all())


def scored_groups(scores: Mapping[str, Tensor], groups: ChannelGroups | None) -> ChannelGroups:
    """The units that these scores can rank; without groups every scored channel is its own unit.

    Raises:
        MaskError: there are no scores, one is no tensor `[channels]`, or none belongs to the groups.
    """
    require_type("scores", scores, Mapping, MaskError, "give layer name -> tensor [channels], such as bn_scale(model)")
    if groups is not None:
        require_type("groups", groups, ChannelGroups, MaskError, GIVE_GROUPS)
    for name, score in scores.items():
        if isinstance(score, Tensor) and (score.is_meta or score.is_complex()):
            kind = "on meta, without numbers" if score.is_meta else "complex"
            raise MaskError(f"scores of layer {name!r} are {kind}; give real numbers")
        if not isinstance(score, Tensor) or score.dim() != 1 or score.numel() == 0:
            what = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise MaskError(f"scores of layer {name!r} are {what}; give a tensor of shape [channels]")
    if not scores:
        raise MaskError("the criterion scores no layer; give scores for at least one")
    if groups is None:
        return one_unit_per_channel({name: score.numel() for name, score in scores.items()})
    if scores.keys().isdisjoint(groups.units_of_layer):
        if reasons := groups.reasons_to_stay():
            raise MaskError(f"no scored layer may be cut: {reasons.most_common(1)[0][0]}")
        wrapped = next(iter(scores)).startswith(("module.", "_orig_mod."))  # DataParallel and its kin, torch.compile
        cure = "score the network that is wrapped (model.module, model._orig_mod)" if wrapped else "score this network"
        raise MaskError(f"no scored layer belongs to the groups, not even {next(iter(scores))!r}; {cure}")
    return restrict_to_scored(groups, scores)


def rank_units(scores: Mapping[str, Tensor], groups: ChannelGroups, tie_score: TieScore = "mean") -> Ranking:
    """Rank the units by score; of equal scores the larger (index + 1) / width goes first, then the earlier layer.

    Index and width are those of a unit among the units of the same layers, in the order of their first scored channels:
    behind a concatenation each part loses its share.

    Args:
        scores: layer name -> `[channels]`, higher = keep.
        groups: from `scored_groups` for these scores.
        tie_score: score of a tied unit: the "mean", "max" or "sum" over its scored channels.

    Raises:
        ConfigError: `tie_score` is unknown.
        MaskError: a layer has another width than in the groups.
        NonFiniteError: a score is NaN or infinite.
    """
    values: np.ndarray = torch.cat([score.detach().to("cpu", torch.float64) for score in scores.values()]).numpy()
    if not np.isfinite(values).all():
        name = next(name for name, score in scores.items() if not bool(torch.isfinite(score).all()))
        raise NonFiniteError(f"layer {name!r}: a score is NaN or infinite; the training has diverged (lower lr)")
    units = np.concatenate([_units(groups, name, score.numel()) for name, score in scores.items()])
    widths = np.array([score.numel() for score in scores.values()])
    layer = np.repeat(np.arange(widths.size), widths)
    free = units >= 0
    units, values, layer = units[free], values[free], layer[free]
    count = groups.num_units
    combined = _combined(units, values, count, tie_score)
    first = np.zeros(count, dtype=np.int64)
    first[units[::-1]] = np.arange(units.size)[::-1]  # Of repeated indices the last assignment stays.
    place = np.zeros(count)
    for block in groups.blocks:
        place[block[np.argsort(first[block], kind="stable")]] = np.arange(1, block.size + 1) / block.size
    # lexsort: the last key is the first to decide.
    return Ranking(groups, combined, np.lexsort((layer[first], -place, combined)))


def _combined(units: np.ndarray, values: np.ndarray, count: int, tie_score: str) -> np.ndarray:
    """Float64 `[count]`: the score of each unit."""
    require("tie_score", tie_score, tie_score in get_args(TieScore), f"one of {', '.join(get_args(TieScore))}")
    if tie_score == "max":
        largest = np.full(count, -np.inf)
        np.maximum.at(largest, units, values)
        return largest
    total: np.ndarray = np.bincount(units, values, minlength=count)
    return total if tie_score == "sum" else total / np.maximum(1, np.bincount(units, minlength=count))


def _units(groups: ChannelGroups, name: str, channels: int) -> np.ndarray:
    units = groups.units_of_layer.get(name)
    if units is None:
        return np.full(channels, -1)
    if units.numel() != channels:
        raise MaskError(f"layer {name!r} has {channels} scores for {units.numel()} channels; score this network")
    return units.numpy()
