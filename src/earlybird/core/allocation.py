"""Allocation: how many channels each layer keeps for a budget in seconds (`docs/method.md`, "Budgets in seconds").

`global` is the paper's ranking of all units; `uniform` keeps the same fraction of each layer; `time` keeps the widths
of which the scores say most for the seconds. Nothing is timed here: seconds are a `StepCost`, which
`earlybird.cost.layer_table` measures. Which channels of a layer stay is always decided by score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import numpy as np
import torch

from earlybird.core import ALLOCATIONS
from earlybird.core.chain_program import best_of_chain
from earlybird.core.drawing import Ranking, highest_of_blocks, nearest_count, remove_lowest
from earlybird.core.groups import ChannelGroups
from earlybird.core.mask import ChannelMask
from earlybird.errors import ConfigError, MaskError, require, wrong_value

# The largest network that costs no more than the budget, or the one that comes nearest to it from either side.
Fit = Literal["under", "nearest"]
# What "time" leaves of each block at least, where no floor is given.
_FLOOR = 0.25
# Halvings of an interval of multipliers or fractions: 2 ** -40 of it is less than any step between two networks.
_HALVINGS = 40
_SWEEPS = 20


@dataclass(frozen=True, eq=False)
class CostTerm:
    """Seconds of one layer by the channels that it reads and makes, bilinear between the widths where they are known.

    Beyond the widths the nearest one counts. "Block" is the place of a block in `ChannelGroups.blocks`.

    Attributes:
        name: of the layer.
        reads: block -> channels that the layer reads for each unit of it that stays.
        makes: block -> channels that it makes for each.
        always_reads: channels that it reads whatever is cut.
        always_makes: channels that it makes whatever is cut.
        read_widths: float64 `[r]`, ascending.
        made_widths: float64 `[m]`, ascending.
        grid: float64 `[r, m]`, seconds.
    """

    name: str
    reads: Mapping[int, float]
    makes: Mapping[int, float]
    always_reads: float
    always_makes: float
    read_widths: np.ndarray
    made_widths: np.ndarray
    grid: np.ndarray

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks on which it depends, ascending."""
        return tuple(sorted({*self.reads, *self.makes}))

    def seconds(self, counts: Mapping[int, np.ndarray] | np.ndarray) -> np.ndarray:
        """Seconds for units kept of each block: numbers, or arrays that broadcast."""
        read = self.always_reads + sum((per * counts[block] for block, per in self.reads.items()), np.zeros(()))
        made = self.always_makes + sum((per * counts[block] for block, per in self.makes.items()), np.zeros(()))
        return self.at(read, made)

    def at(self, read: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Seconds for widths that broadcast."""
        (i, x), (j, y) = _place(self.read_widths, read), _place(self.made_widths, made)
        i2, j2 = np.minimum(i + 1, self.read_widths.size - 1), np.minimum(j + 1, self.made_widths.size - 1)
        low = self.grid[i, j] * (1 - y) + self.grid[i, j2] * y
        high = self.grid[i2, j] * (1 - y) + self.grid[i2, j2] * y
        found: np.ndarray = low * (1 - x) + high * x
        return found


def _place(widths: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the interval below, and the fraction of the way to its end."""
    exact = np.interp(at, widths, np.arange(widths.size))
    index = np.floor(exact).astype(np.int64)
    return index, exact - index


@dataclass(frozen=True, eq=False)
class StepCost:
    """Seconds of a training step by the units kept of each block: the sum of its terms and what never changes."""

    terms: Sequence[CostTerm]
    constant_seconds: float = 0.0

    def seconds(self, counts: Sequence[int] | np.ndarray) -> float:
        """Seconds of a step, units kept of each block given."""
        array = np.asarray(counts, dtype=np.float64)
        return self.constant_seconds + sum(float(term.seconds(array)) for term in self.terms)


class Cost(Protocol):
    """Seconds of a step by the units kept of each block; of layers known one by one it is a `StepCost`."""

    def seconds(self, counts: Sequence[int] | np.ndarray) -> float:
        """Seconds, or any other amount that a budget counts."""


def allocate(
    ranking: Ranking,
    cost: Cost,
    budget_seconds: float,
    *,
    allocation: str = "time",
    round_to: int = 8,
    floor: float | None = None,
    within: ChannelMask | None = None,
    fit: Fit = "under",
) -> ChannelMask:
    """The mask of the best network whose step costs no more than a budget.

    `time` maximises the sum over blocks of log(sum of the n best scores / sum of all scores). Where each layer couples
    no more than two blocks and these form chains (VGG) by an exact dynamic program; else (adds, concatenations) by a
    multiplier on the seconds, halved until the budget fits, with the best count of each block in turn until none
    changes, and what is left of the budget filled up.

    Args:
        ranking: of the units by score (`rank_units`); `cost` is of its groups.
        cost: seconds by units kept of each block of `ranking.groups`; for "time" a `StepCost`.
        budget_seconds: of one step, in the unit of `cost`.
        allocation: "global", "uniform" or "time".
        round_to: kept counts of each block are multiples of this, or the whole block.
        floor: fraction of each block that stays at least, in (0, 1]; None: a quarter for "time", else one multiple.
        within: an earlier cut of the same network: what it removed stays out, whatever its score.
        fit: "nearest" lets "uniform" and "global" exceed the budget where that comes nearer; "time" spends nearly all.

    Raises:
        ConfigError: an argument is out of range, or the budget is smaller than what the smallest network costs (of
            which "nearest" gives that network).
        MaskError: "time", and all scores of a block are zero, or one is negative.
    """
    require("allocation", allocation, allocation in ALLOCATIONS, f"one of {', '.join(ALLOCATIONS)}")
    require("round_to", round_to, round_to >= 1, "an integer >= 1 (1: no rounding)")
    require("floor", floor, floor is None or 0.0 < floor <= 1.0, "a number in (0, 1]")
    require("budget_seconds", budget_seconds, budget_seconds > 0, "a number above 0")
    alive = np.ones(ranking.groups.num_units, dtype=bool)
    if within is not None:
        alive = ranking.groups.keep_units(within).numpy()
        order = ranking.lowest_first
        ranking = replace(ranking, lowest_first=np.concatenate([order[~alive[order]], order[alive[order]]]))
    if allocation == "time":
        require("cost", cost, isinstance(cost, StepCost), "a StepCost for allocation 'time', such as LayerTable.cost")
        choices = choices_of(ranking, round_to, floor or _FLOOR, alive)
        counts: Sequence[int] = time_counts(choices, cast(StepCost, cost), budget_seconds)
    else:
        nested = _Nested(ranking, alive, round_to, floor)
        counts = _that_fits(nested.by(allocation), cost, budget_seconds, fit, nested.smallest(allocation))
    return ranking.groups.mask_of(torch.from_numpy(highest_of_blocks(ranking, counts)))


def kept_of_blocks(mask: ChannelMask, groups: ChannelGroups) -> list[int]:
    """Units kept of each block: what a `StepCost` takes.

    Raises:
        MaskError: the mask does not fit the groups.
    """
    keep = groups.keep_units(mask).numpy()
    return [int(keep[block].sum()) for block in groups.blocks]


@dataclass(frozen=True, eq=False)
class _Nested:
    """Counts of the blocks for ever stronger cuts, each within the one before.

    Attributes:
        alive: bool `[num_units]`, the units that may stay.
        floor: fraction of each block that stays at least, in (0, 1]; None for one multiple.
    """

    ranking: Ranking
    alive: np.ndarray
    round_to: int
    floor: float | None

    def by(self, allocation: str) -> Callable[[float], list[int]]:
        """Counts by the fraction that is removed: of all units by rank ("global"), or of each block ("uniform")."""
        return self._by_rank if allocation == "global" else self._by_fraction

    def smallest(self, allocation: str) -> str:
        """Its smallest network in words."""
        by_multiples = allocation == "uniform" and self.floor is None
        return f"{self.round_to} channels of each layer" if by_multiples else "the smallest network"

    def _by_rank(self, removed: float) -> list[int]:
        keep = ~remove_lowest(self.ranking, round(removed * self.alive.size), 1)
        return self._snapped([int(keep[block].sum()) for block in self.ranking.groups.blocks])

    def _by_fraction(self, removed: float) -> list[int]:
        return self._snapped([round((1.0 - removed) * block.size) for block in self.ranking.groups.blocks])

    def _snapped(self, wanted: Sequence[int]) -> list[int]:
        """At the nearest multiple, of what may stay and no less than the floor."""
        counts = []
        for kept, block in zip(wanted, self.ranking.groups.blocks, strict=True):
            least = max(1, round((self.floor or 0.0) * block.size))
            counts.append(min(nearest_count(kept, block.size, self.round_to, least), int(self.alive[block].sum())))
        return counts


def _that_fits(
    counts_at: Callable[[float], Sequence[int]], cost: Cost, budget: float, fit: Fit, smallest: str
) -> Sequence[int]:
    """Counts of the least cut, in [0, 1], whose step fits the budget, found by halving."""

    def seconds(cut: float) -> float:
        return cost.seconds(counts_at(cut))

    if seconds(0.0) <= budget:
        return counts_at(0.0)
    if seconds(1.0) > budget:
        if fit == "nearest":
            return counts_at(1.0)
        raise _too_small(budget, seconds(1.0), smallest)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if seconds(middle) <= budget else (middle, high)
    is_nearer = fit == "nearest" and seconds(low) - budget < budget - seconds(high)
    return counts_at(low if is_nearer else high)


@dataclass(frozen=True, eq=False)
class Choices:
    """Counts that each block may keep, and their values.

    Attributes:
        counts: for each block int64 `[k]`, ascending.
        values: for each block float64 `[k]`, log of the share of its scores that stays, <= 0.
    """

    counts: Sequence[np.ndarray]
    values: Sequence[np.ndarray]


def choices_of(ranking: Ranking, round_to: int = 8, floor: float = 0.25, alive: np.ndarray | None = None) -> Choices:
    """Multiples of `round_to` from `floor` of each block on, and the whole block, with the log of their score share.

    Args:
        alive: bool `[num_units]`, the units that may stay; all by default.

    Raises:
        MaskError: all scores of a block are zero, or one is negative.
    """
    counts, values = [], []
    names = list(ranking.groups.units_of_layer)
    for block in ranking.groups.blocks:
        mine = block if alive is None else block[alive[block]]
        scores = np.sort(ranking.scores[mine])[::-1]
        where = f"layer {names[ranking.groups.layers_of[block[0]][0]]!r}"
        if scores[-1] < 0:
            raise MaskError(f"{where}: score {scores[-1]:g} is negative; allocation 'time' takes shares of scores >= 0")
        if scores[0] == 0:
            cure = "gather the score over more steps, or leave the layer whole with keep"
            raise MaskError(f"{where}: all {mine.size} scores are zero, so that no share can be taken; {cure}")
        multiples = range(round_to, mine.size, round_to)
        kept = np.array([count for count in multiples if count >= floor * block.size] + [mine.size])
        counts.append(kept)
        values.append(np.log(np.cumsum(scores)[kept - 1] / scores.sum()))
    return Choices(counts, values)


def time_counts(choices: Choices, cost: StepCost, budget_seconds: float) -> list[int]:
    """Units kept of each block that are worth most within the budget; see `allocate`.

    Raises:
        ConfigError: the smallest choices cost more than the budget.
    """
    least = [int(counts[0]) for counts in choices.counts]
    if (smallest := cost.seconds(least)) > budget_seconds:
        raise _too_small(budget_seconds, smallest, "the smallest choices (floor)")
    most = [int(counts[-1]) for counts in choices.counts]
    if cost.seconds(most) <= budget_seconds:
        return most
    places = best_of_chain(choices.counts, choices.values, cost.terms, budget_seconds - cost.constant_seconds)
    if places is None:
        places = _Alternation(choices, cost).best(budget_seconds)
    return [int(counts[place]) for counts, place in zip(choices.counts, places, strict=True)]


def _too_small(budget: float, least: float, network: str) -> ConfigError:
    told = wrong_value("budget_seconds", budget, f"at least {least:.4g}, what a step of {network} costs")
    return ConfigError(told)


class _Alternation:
    """Best count of each block in turn, under a multiplier on the seconds that is halved until the budget fits."""

    def __init__(self, choices: Choices, cost: StepCost) -> None:
        self.choices, self.cost = choices, cost
        self.terms_of = [[t for t in cost.terms if block in t.blocks] for block in range(len(choices.counts))]

    def best(self, budget: float) -> list[int]:
        """Place of each block's count among its choices."""
        smallest, largest = [0] * len(self.terms_of), [counts.size - 1 for counts in self.choices.counts]
        best, low, high = smallest, 0.0, self._multiplier_of_the_floor()
        for _ in range(_HALVINGS):
            multiplier = (low + high) / 2
            ends = [self._settled(start, multiplier) for start in (smallest, largest)]
            places = max(ends, key=lambda end: self._value(end) - multiplier * self._seconds(end))
            fits = self._seconds(places) <= budget
            low, high = (low, multiplier) if fits else (multiplier, high)
            if fits and self._value(places) > self._value(best):
                best = places
        return self._filled(best, budget)

    def _multiplier_of_the_floor(self) -> float:
        """One that no gain is worth: the whole value for the least seconds that a step up can cost."""
        whole = self._value([counts.size - 1 for counts in self.choices.counts]) - self._value([0] * len(self.terms_of))
        steps = [
            np.diff(self._seconds_of_block(block, [0] * len(self.terms_of))) for block in range(len(self.terms_of))
        ]
        least = min((float(step[step > 0].min()) for step in steps if (step > 0).any()), default=1e-9)
        return max(whole, 1e-9) / least

    def _settled(self, start: Sequence[int], multiplier: float) -> list[int]:
        places = list(start)
        for _ in range(_SWEEPS):
            before = list(places)
            for block, values in enumerate(self.choices.values):
                gain = values - multiplier * self._seconds_of_block(block, places)
                places[block] = int(gain.argmax())
            if places == before:
                break
        return places

    def _filled(self, places: Sequence[int], budget: float) -> list[int]:
        """Step by step up where it is worth most per second, until nothing more fits."""
        places, left = list(places), budget - self._seconds(places)
        while True:
            steps = []
            for block, values in enumerate(self.choices.values):
                seconds = self._seconds_of_block(block, places)
                for place in range(places[block] + 1, values.size):
                    more = float(seconds[place] - seconds[places[block]])
                    if more <= left:
                        worth = float(values[place] - values[places[block]])
                        steps.append((worth / max(more, 1e-12), block, place, more))
            if not steps:
                return places
            _, block, place, more = max(steps)
            places[block], left = place, left - more

    def _seconds_of_block(self, block: int, places: Sequence[int]) -> np.ndarray:
        """Seconds of the layers that a block has a part in, for each of its choices."""
        counts = {other: c[place] for other, (c, place) in enumerate(zip(self.choices.counts, places, strict=True))}
        counts[block] = self.choices.counts[block]
        total: np.ndarray = np.zeros(self.choices.counts[block].size)
        for term in self.terms_of[block]:
            total = total + term.seconds(counts)
        return total

    def _seconds(self, places: Sequence[int]) -> float:
        return self.cost.seconds([int(c[place]) for c, place in zip(self.choices.counts, places, strict=True)])

    def _value(self, places: Sequence[int]) -> float:
        return float(sum(v[place] for v, place in zip(self.choices.values, places, strict=True)))
