"""`Ranking`: the units of a network in the order of their removal.

Two choices decide how the same scores are ranked: the score of a tied unit, and the order of equal scores
(`docs/method.md` section 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from earlybird.core.choices import TieScore
from earlybird.core.groups import ChannelGroups, one_unit_per_channel, restrict_to_scored
from earlybird.errors import MaskError, NonFiniteError, require


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
    for name, score in scores.items():
        if not isinstance(score, Tensor) or score.dim() != 1 or score.numel() == 0:
            what = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise MaskError(f"scores of layer {name!r} are {what}; give a tensor of shape [channels]")
    if not scores:
        raise MaskError("the criterion scores no layer; give scores for at least one")
    if groups is None:
        return one_unit_per_channel({name: score.numel() for name, score in scores.items()})
    if all(groups.units_of_layer(name) is None for name in scores):
        raise MaskError(f"no scored layer belongs to the groups, not even {next(iter(scores))!r}; score this network")
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
    values = _finite(scores)
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


def _finite(scores: Mapping[str, Tensor]) -> np.ndarray:
    """Float64 `[all scored channels]`."""
    values: np.ndarray = torch.cat([score.detach().to("cpu", torch.float64) for score in scores.values()]).numpy()
    if not np.isfinite(values).all():
        name = next(name for name, score in scores.items() if not bool(torch.isfinite(score).all()))
        raise NonFiniteError(f"layer {name!r}: a score is NaN or infinite; the training has diverged (lower lr)")
    return values


def _units(groups: ChannelGroups, name: str, channels: int) -> np.ndarray:
    units = groups.units_of_layer(name)
    if units is None:
        return np.full(channels, -1)
    if units.numel() != channels:
        raise MaskError(f"layer {name!r} has {channels} scores for {units.numel()} channels; score this network")
    return units.numpy()
