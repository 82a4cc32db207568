"""`DrawMoment`: masks drawn over a wide start, and the paper's rule on their distances, which says when to cut.

Draws come when those of `early_bird` do: 160 over the schedule, at least 5 steps apart; rule, window and epsilon are
the paper's (`docs/method.md` section 1). What is drawn is the method's: by its score, at the widths of the first draw,
or under allocation `global` at the ratio of the first draw over all layers, unrounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from earlybird.core import STOP_RULES, ChannelMask
from earlybird.core.allocation import kept_of_blocks
from earlybird.core.drawing import Ranking, draw_ranked, highest_of_blocks
from earlybird.core.groups import ChannelGroups, mask_distance
from earlybird.core.stop_rules import MaskHistory
from earlybird.errors import EarlyBirdError, first_line
from earlybird.settings.method import Clock, EarlyBirdTraining
from earlybird.training.checkpoint import changed_checkpoint


class DrawMoment:
    """Draws masks where the clock says so, until the paper's rule fires.

    Args:
        groups: the units that are ranked.
        clock: of the search over its schedule.
        allocation: "uniform", "global" or "time".
        first: the mask of the first draw, which fixes what all draws keep.

    Attributes:
        steps: global step of every draw.
        history: the masks and their distances.
        fired: True once the rule is met.
    """

    def __init__(
        self, groups: ChannelGroups, clock: Clock, allocation: str, first: Callable[[Ranking], ChannelMask]
    ) -> None:
        usual = EarlyBirdTraining()
        self.history = MaskHistory(STOP_RULES[usual.rule], usual.window, usual.epsilon)
        self.steps: list[int] = []
        self.fired = False
        self._groups, self._clock, self._allocation, self._first = groups, clock, allocation, first
        self._counts: list[int] = []  # units kept of each block at the first draw

    def is_met(self, step: int, rank: Callable[[], Ranking]) -> bool:
        """Draw if the clock has a draw after `step` steps; True if the rule is met by it."""
        if not self._clock.is_draw(step):
            return False
        ranking = rank()
        self._counts = self._counts or kept_of_blocks(self._first(ranking), self._groups)
        mask = self._mask(ranking)
        self.history.record(mask, [mask_distance(mask, earlier, self._groups) for earlier in self.history.masks[::-1]])
        self.steps.append(step)
        self.fired = self.history.fires()
        return self.fired

    def note(self) -> str:
        """The newest distance, for the progress line."""
        return f"mask distance {self.history.distances[-1]:.3f}" if self.history.distances else ""

    def flags(self, share: float) -> tuple[str, ...]:
        """Warnings about a cut at this share of the budget."""
        if self.fired:
            return ()
        window = self.history.window
        last = ", ".join(f"{distance:.3f}" for distance in self.history.distances[-window:]) or "none"
        told = f"the rule has not fired by {share:.3g} of the budget, where the cut was made"
        needed = self.history.rule.earliest(window)
        return (f"{told}: {len(self.steps)} draws, of which it needs {needed}; last mask distances {last}",)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {"steps": list(self.steps), "counts": list(self._counts), **self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            CheckpointError: it is none, or of another search.
        """
        try:
            masks = [ChannelMask(mask) for mask in state["masks"]]
            steps, counts, distances = (list(state[name]) for name in ("steps", "counts", "distances"))
            for mask in masks:
                mask_distance(mask, mask, self._groups)  # which refuses one of other layers
            blocks = self._groups.blocks
            are_counts = len(counts) == (len(blocks) if steps else 0) and all(
                type(count) is int and 0 < count <= block.size for count, block in zip(counts, blocks, strict=False)
            )
            is_whole = len(distances) == max(0, len(steps) - 1) and len(masks) == min(1, len(steps))
            due = [self._clock.step_of(draw) for draw in range(1, len(steps) + 1)]
            if steps != due or not are_counts or not is_whole or not all(0 <= distance <= 1 for distance in distances):
                raise ValueError(f"{len(steps)} draws, {len(distances)} distances, {len(masks)} masks")
        except (KeyError, TypeError, ValueError, AttributeError, EarlyBirdError) as error:
            raise changed_checkpoint(f"its draws are of another search ({first_line(error)})") from error
        self.steps, self._counts = steps, counts
        self.history.restore(masks, distances, [])

    def _mask(self, ranking: Ranking) -> ChannelMask:
        if self._allocation == "global":
            return draw_ranked(ranking, 1.0 - sum(self._counts) / self._groups.num_units)
        return ranking.groups.mask_of(torch.from_numpy(highest_of_blocks(ranking, self._counts)))
