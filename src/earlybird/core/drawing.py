"""`draw_mask`: scores and a ratio become a `ChannelMask`.

The units of the whole network are ranked together and `round(p * N)` of the lowest go (You et al. 2020, Section 3.1).
Everything that makes two people draw the same mask from the same scores is here: order of equal scores, floors,
snapping to multiples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from earlybird.core.groups import ChannelGroups, restrict_to_scored
from earlybird.core.mask import ChannelMask
from earlybird.core.snapping import snap_widths
from earlybird.errors import ConfigError, MaskError, NonFiniteError


def draw_mask(
    scores: Mapping[str, Tensor],
    prune_ratio: float,
    groups: ChannelGroups | None = None,
    *,
    min_channels: int = 1,
    round_to: int = 1,
) -> ChannelMask:
    """Remove the `round(prune_ratio * N)` units with the lowest scores.

    A tied unit scores the mean of its scored members. Of equal scores the larger (index + 1) / width goes first, then
    the earlier layer, so that all-equal scores give uniform widths. A unit whose removal would leave a layer with fewer
    than `min_channels` channels is skipped and the next lowest goes.

    Args:
        scores: layer name -> `[channels]`, higher = keep (see `earlybird.core.criteria`).
        prune_ratio: fraction of the units to remove, in [0, 1).
        groups: what may be cut together; without them every scored channel is its own unit (a plain chain).
        min_channels: channels that stay in every layer, >= 1.
        round_to: snap each layer's kept count to a multiple of this (1: not at all).

    Raises:
        ConfigError: `prune_ratio`, `min_channels` or `round_to` is out of range.
        MaskError: the scores name no layer of the groups, or have another width.
        NonFiniteError: a score is NaN or infinite.

    Warns:
        UserWarning: the floors leave fewer units to remove than requested.

    Example:
        >>> mask = draw_mask({"bn": torch.tensor([0.1, 0.9, 0.5, 0.7])}, 0.5)
        >>> mask["bn"].tolist()
        [False, True, False, True]
    """
    _check_arguments(prune_ratio, min_channels, round_to)
    groups = restrict_to_scored(groups, scores) if groups is not None else _every_channel_its_own_unit(scores)
    ranking = _rank(scores, groups)
    floors = _Floors(groups, min_channels)
    target = round(prune_ratio * ranking.size)
    removed = floors.remove_lowest(ranking, target)
    if removed.sum() < target:
        realised = removed.sum() / max(1, ranking.size)
        warnings.warn(
            f"a floor of {min_channels} channels per layer leaves {realised:.3f} of the units to remove "
            f"where prune_ratio={prune_ratio} asks for {target / ranking.size:.3f}",
            stacklevel=2,
        )
    keep = ~removed
    if round_to > 1:
        keep = snap_widths(keep, ranking, groups, round_to=round_to, min_channels=min_channels)
    return groups.mask_of(torch.from_numpy(keep))


def realised_ratio(mask: ChannelMask, groups: ChannelGroups | None = None) -> float:
    """Fraction of the units (without groups: of the channels) that a mask really removes, in [0, 1]."""
    keep = mask.flat() if groups is None else groups.keep_units(mask)
    return 1.0 - float(keep.double().mean()) if keep.numel() else 0.0


def _check_arguments(prune_ratio: float, min_channels: int, round_to: int) -> None:
    if not 0.0 <= prune_ratio < 1.0:
        raise ConfigError(f"prune_ratio is {prune_ratio}; give a number in [0, 1)")
    if min_channels < 1:
        raise ConfigError(f"min_channels is {min_channels}; give an integer >= 1")
    if round_to < 1:
        raise ConfigError(f"round_to is {round_to}; give an integer >= 1 (1: no rounding)")


def _every_channel_its_own_unit(scores: Mapping[str, Tensor]) -> ChannelGroups:
    unit_of, first = {}, 0
    for name, score in scores.items():
        unit_of[name] = torch.arange(first, first + score.numel())
        first += score.numel()
    return ChannelGroups(unit_of, policy="none")


def _rank(scores: Mapping[str, Tensor], groups: ChannelGroups) -> np.ndarray:
    """Unit indices `[N]`, the first to be removed first."""
    total, members = np.zeros(groups.num_units), np.zeros(groups.num_units)
    place, layer = np.full(groups.num_units, -1.0), np.zeros(groups.num_units, dtype=np.int64)
    found = 0
    for number, (name, score) in enumerate(scores.items()):
        units = groups.unit_of.get(name, groups.producer_unit_of.get(name))
        if units is None:
            continue
        found += 1
        if units.numel() != score.numel():
            raise MaskError(
                f"layer {name!r} has {score.numel()} scores for {units.numel()} channels; score this network"
            )
        if not bool(torch.isfinite(score).all()):
            raise NonFiniteError(f"layer {name!r}: a score is NaN or infinite; the training has diverged (lower lr)")
        free = np.flatnonzero(units.numpy() >= 0)
        index = units.numpy()[free]
        np.add.at(total, index, score.double().numpy()[free])
        np.add.at(members, index, 1.0)
        new = place[index] < 0  # The first scored member gives a tied unit its place in the tie order.
        place[index[new]] = (free[new] + 1) / units.numel()
        layer[index[new]] = number
    if not found and scores:
        raise MaskError(
            f"no scored layer belongs to the groups: scores name {next(iter(scores))!r}, ...; score this network"
        )
    # lexsort: the last key is the first to decide.
    return np.lexsort((layer, -place, total / np.maximum(members, 1.0)))


@dataclass
class _Floors:
    """How many channels each layer may still lose."""

    groups: ChannelGroups
    min_channels: int

    def remove_lowest(self, ranking: np.ndarray, target: int) -> np.ndarray:
        """Bool `[N]`, True = removed: the first `target` units of the ranking that no floor holds back."""
        removed = np.zeros(ranking.size, dtype=bool)
        removed[ranking[:target]] = True
        if self._all_floors_hold(removed):
            return removed
        return self._remove_one_by_one(ranking, target)

    def _all_floors_hold(self, removed: np.ndarray) -> bool:
        for units in self.groups.unit_of.values():
            index = units.numpy()
            lost = int(removed[index[index >= 0]].sum())
            if lost and index.size - lost < self.min_channels:
                return False
        return True

    def _remove_one_by_one(self, ranking: np.ndarray, target: int) -> np.ndarray:
        layers_of: list[list[int]] = [[] for _ in range(ranking.size)]
        left = []
        for number, units in enumerate(self.groups.unit_of.values()):
            left.append(units.numel() - self.min_channels)
            for unit in units.tolist():
                if unit >= 0:
                    layers_of[unit].append(number)
        removed, count = np.zeros(ranking.size, dtype=bool), 0
        for unit in ranking.tolist():
            if count == target:
                break
            if all(left[number] >= layers_of[unit].count(number) for number in layers_of[unit]):
                removed[unit] = True
                count += 1
                for number in layers_of[unit]:
                    left[number] -= 1
        return removed
