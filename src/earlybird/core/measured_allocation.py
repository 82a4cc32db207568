"""`allocate_measured`: an allocation whose real step meets the budget, not only its predicted one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from earlybird.core.allocation import StepCost, allocate
from earlybird.core.drawing import Ranking
from earlybird.core.mask import ChannelMask
from earlybird.errors import ConfigError, require


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
    cost: StepCost,
    budget_seconds: float,
    measure: Callable[[ChannelMask], float],
    *,
    tolerance: float = 0.03,
    corrections: int = 3,
    allocation: str = "time",
    round_to: int = 8,
    floor: float = 0.25,
    within: ChannelMask | None = None,
) -> MeasuredAllocation:
    """Allocate, measure the real step, and allocate anew for a corrected budget while it misses by more.

    Each time the budget that is asked for is divided by what the last network took of it. Of all networks tried the one
    nearest to the budget is taken; layers of few multiples may allow none within the tolerance.

    Args:
        measure: seconds of a training step of the network that a mask leaves.
        tolerance: share of the budget, in (0, 1), by which the step may miss it.
        corrections: at most so many, >= 0.

    Other arguments are those of `allocate`.

    Raises:
        ConfigError, MaskError: as `allocate`, of the budget as given.
    """
    require("tolerance", tolerance, 0.0 < tolerance < 1.0, "a number in (0, 1)")
    require("corrections", corrections, corrections >= 0, "an integer >= 0")

    def tried(asked: float, number: int) -> MeasuredAllocation:
        mask = allocate(ranking, cost, asked, allocation=allocation, round_to=round_to, floor=floor, within=within)
        return MeasuredAllocation(mask, measure(mask), number)

    def miss(found: MeasuredAllocation) -> float:
        return abs(found.seconds / budget_seconds - 1.0)

    best = last = tried(budget_seconds, 0)
    asked = budget_seconds
    with suppress(ConfigError):  # A corrected budget may be below the floors: nothing smaller is to be had.
        for number in range(1, corrections + 1):
            if miss(best) <= tolerance:
                break
            asked *= budget_seconds / last.seconds
            last = tried(asked, number)
            best = min(best, last, key=miss)
    return best
