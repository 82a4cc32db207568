"""Exact dynamic program of allocation `time`, where blocks form chains: each layer couples no more than two of them.

Along the chain it keeps, for each count of the newest block, every pair (seconds, value) that no other beats in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

# Pairs kept for a count. More are thinned to the best of as many equal intervals of seconds, which costs at most the
# last thousandth of the budget for each block; without thinning the result is exact.
MOST_PAIRS = 1000


class Term(Protocol):
    """Seconds of a layer, of which some blocks decide."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that decide, ascending."""

    def seconds(self, counts: dict[int, np.ndarray]) -> np.ndarray:
        """Seconds for counts of its blocks that broadcast."""


def best_of_chain(
    counts: Sequence[np.ndarray], values: Sequence[np.ndarray], terms: Sequence[Term], budget_seconds: float
) -> list[int] | None:
    """Place of each block's count that is worth most within the budget; None where the blocks form no chain.

    Args:
        counts: for each block `[k]`, what it may keep.
        values: for each block `[k]`, what that is worth.
        terms: seconds; the smallest counts together must fit the budget.
    """
    order = chain_order(len(counts), [term.blocks for term in terms])
    if order is None:
        return None
    own = [np.zeros(block.size) for block in counts]
    joint = [np.zeros((counts[a].size, counts[b].size)) for a, b in pairwise(order)]
    place_of = {block: place for place, block in enumerate(order)}
    for term in terms:
        if len(term.blocks) == 2:
            a, b = sorted(term.blocks, key=place_of.__getitem__)
            joint[place_of[a]] = joint[place_of[a]] + term.seconds({a: counts[a][:, None], b: counts[b][None, :]})
        elif term.blocks:
            (a,) = term.blocks
            own[a] = own[a] + term.seconds({a: counts[a]})
        else:
            budget_seconds -= float(term.seconds({}))
    found = _best_path([own[b] for b in order], [values[b] for b in order], joint, budget_seconds)
    return [found[place_of[block]] for block in range(len(counts))]


def chain_order(blocks: int, couples: Sequence[tuple[int, ...]]) -> list[int] | None:
    """The blocks in an order in which only neighbours are coupled; None where there is none."""
    if any(len(couple) > 2 for couple in couples):
        return None
    neighbours: dict[int, set[int]] = {block: set() for block in range(blocks)}
    for couple in couples:
        if len(couple) == 2:
            neighbours[couple[0]].add(couple[1])
            neighbours[couple[1]].add(couple[0])
    order: list[int] = []
    for end in range(blocks):
        if end in order or len(neighbours[end]) > 1:
            continue
        block, before = end, -1
        while True:
            order.append(block)
            onward = neighbours[block] - {before}
            if len(onward) != 1:
                break
            block, before = onward.pop(), block
        if onward:
            return None
    return order if len(order) == blocks else None  # The rest would be circles.


def _best_path(
    own: Sequence[np.ndarray], values: Sequence[np.ndarray], joint: Sequence[np.ndarray], budget: float
) -> list[int]:
    """Index of the choice at each place of the chain."""
    to_come = [np.zeros(own[-1].size)]  # Least seconds after each place.
    for costs, following in zip(reversed(joint), reversed(own[1:]), strict=True):
        to_come.insert(0, (costs + following + to_come[0]).min(axis=1))
    # What stays at each place: choice, seconds, value, and the row of the place before that it goes on from.
    stages: list[tuple[np.ndarray, ...]] = []
    for place, alone in enumerate(own):
        fronts = []
        for k, here in enumerate(alone):
            seconds, value = np.array([here]), values[place][k : k + 1]
            if stages:
                choice, so_far, worth, _ = stages[-1]
                seconds, value = so_far + joint[place - 1][choice, k] + here, worth + values[place][k]
            kept = _undominated(seconds, value, budget * (1 + 1e-9) - to_come[place][k])
            fronts.append((np.full(kept.size, k), seconds[kept], value[kept], kept))
        stages.append(tuple(np.concatenate(parts) for parts in zip(*fronts, strict=True)))
    row, path = int(stages[-1][2].argmax()), []
    for choice, _, _, origin in reversed(stages):
        path.append(int(choice[row]))
        row = int(origin[row])
    return path[::-1]


def _undominated(seconds: np.ndarray, value: np.ndarray, limit: float) -> np.ndarray:
    """Indices of the pairs within the limit that no other beats in both, by seconds; thinned where there are many."""
    order: np.ndarray = np.lexsort((-value, seconds))
    order = order[seconds[order] <= limit]
    best = np.maximum.accumulate(value[order])
    order = order[np.concatenate([np.ones(min(1, order.size), dtype=bool), value[order][1:] > best[:-1]])]
    if order.size <= MOST_PAIRS:
        return order
    interval = np.floor((seconds[order] - seconds[order[0]]) * (MOST_PAIRS / (limit - seconds[order[0]])))
    is_last = np.concatenate([interval[1:] != interval[:-1], [True]])  # the most valuable of its interval
    is_last[0] = True  # the cheapest
    thinned: np.ndarray = order[is_last]
    return thinned
