"""`allocate_measured`: an allocation whose real step meets the budget, not only its predicted one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.core.allocation import Cost, Fit, allocate, kept_of_blocks
from earlybird.core.drawing import Ranking
from earlybird.core.mask import ChannelMask
from earlybird.errors import ConfigError, require

# Predicted and measured seconds of a network.
Known = tuple[float, float]


@dataclass(frozen=True)
class MeasuredAllocation:
    """A mask and what its step really costs.

    Attributes:
        mask: the channels that stay.
        seconds: measured seconds of a step.
        corrections: how often the budget was corrected.
    """

    mask: ChannelMask
    seconds: float
    corrections: int


def allocate_measured(
    ranking: Ranking,
    cost: Cost,
    budget_seconds: float,
    measure: Callable[[ChannelMask], float],
    *,
    known: Sequence[Known] = (),
    tolerance: float = 0.03,
    corrections: int = 3,
    allocation: str = "time",
    round_to: int = 8,
    floor: float | None = None,
    within: ChannelMask | None = None,
    fit: Fit = "under",
) -> MeasuredAllocation:
    """Allocate, measure the real step, and allocate anew for a corrected budget while it misses by more.

    What is asked of `cost` lies on the line through the two measured networks nearest to the budget, or in proportion
    to the only one. The nearest of all tried is taken; layers of few multiples may allow none within the tolerance.

    Args:
        budget_seconds: of one step, as `measure` counts; `cost` may count otherwise where a network is known in both.
        measure: seconds of a training step of the network that a mask leaves.
        known: networks that are measured already, such as the dense one.
        tolerance: share of the budget, in (0, 1), by which the step may miss it.
        corrections: at most so many, >= 0.

    Other arguments are those of `allocate`.

    Raises:
        ConfigError, MaskError: as `allocate`, of the first budget that is asked for.
    """
    require("tolerance", tolerance, 0.0 < tolerance < 1.0, "a number in (0, 1)")
    require("corrections", corrections, corrections >= 0, "an integer >= 0")
    how: dict[str, Any] = {"round_to": round_to, "floor": floor, "within": within, "fit": fit}

    def draw(asked: float) -> ChannelMask:
        return allocate(ranking, cost, asked, allocation=allocation, **how)

    points, tried = list(known), dict[ChannelMask, MeasuredAllocation]()
    for number in range(corrections + 1):
        if (mask := _next(draw, budget_seconds, points, tried)) is None:
            break
        tried[mask] = MeasuredAllocation(mask, seconds := measure(mask), number)
        points.append((cost.seconds(kept_of_blocks(mask, ranking.groups)), seconds))
        if abs(seconds / budget_seconds - 1.0) <= tolerance:
            break
    return min(tried.values(), key=lambda found: abs(found.seconds - budget_seconds))


def _next(
    draw: Callable[[float], ChannelMask], budget: float, points: Sequence[Known],
    tried: Mapping[ChannelMask, MeasuredAllocation],
) -> ChannelMask | None:  # fmt: skip
    """The mask that the points so far lead to, or None where they lead to no other than those that were tried.

    Raises:
        ConfigError: nothing was tried, and the budget is too small.
    """
    asked = _asked(budget, points)
    try:
        mask = draw(asked)
        if mask in tried:  # Widths are coarse: as far again, to the next ones.
            mask = draw(asked * budget / tried[mask].seconds)
    except ConfigError:
        if tried:  # A corrected budget is below the floors: nothing smaller is to be had.
            return None
        raise
    return None if mask in tried else mask


def _asked(budget: float, points: Sequence[Known]) -> float:
    """Predicted seconds of the network that is expected to measure `budget`."""
    if not points:
        return budget
    (x, y), *others = sorted(points, key=lambda point: abs(point[1] - budget))
    for x2, y2 in others:
        if (x2 - x) * (y2 - y) > 0:  # Else noise, or the same network.
            asked = x + (budget - y) * (x2 - x) / (y2 - y)
            return asked if asked > 0 else budget * x / y
    return budget * x / y
