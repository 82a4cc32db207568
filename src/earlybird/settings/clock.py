"""`Clock`: draws and strength of the penalty over a schedule (`docs/method.md` section 1, "Clock").

Under `scaled` a run of any length is the paper's protocol in fractions: 160 draws at equal step intervals, and the
penalty scaled so that an idle BatchNorm scale shrinks over the same fraction of the schedule. On the paper's own CIFAR
run (160 epochs of 196 steps) it is the paper's protocol. Under `epochs` a mask is drawn after each epoch and s is taken
as given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ClockName = Literal["scaled", "epochs"]

DRAWS = 160
PAPER_STEPS = 31_360  # 160 epochs of 196 steps: 50,000 images in batches of 256


@dataclass(frozen=True)
class Clock:
    """Maps optimizer steps to draws.

    Attributes:
        name: "scaled" or "epochs".
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps of the whole schedule.
    """

    name: ClockName
    steps_per_epoch: int
    total_steps: int

    def draws_by(self, step: int) -> int:
        """Draws that lie at or before `step` completed steps."""
        return step * DRAWS // self.total_steps if self.name == "scaled" else step // self.steps_per_epoch

    def is_draw(self, step: int) -> bool:
        """True if a mask is drawn when `step` steps are completed.

        A run of fewer than 160 steps draws once per step under `scaled`.
        """
        return self.draws_by(step) > self.draws_by(step - 1)

    def step_of(self, draw: int) -> int:
        """The step after which a draw (1-based) is made; 0 for draw 0, before the first step."""
        if self.name == "epochs":
            return min(draw * self.steps_per_epoch, self.total_steps)
        # Short runs draw once per step, however many draws would fall on it.
        return min(max(draw, -(-draw * self.total_steps // DRAWS)), self.total_steps)

    def draws_within(self, steps: int) -> int:
        """Masks that are really drawn within the first `steps` steps: at most one after each."""
        return min(self.draws_by(steps), steps)

    def penalty(self, strength: float) -> float:
        """The L1 strength to apply at each step, from the paper's s."""
        # In this order, so that s comes out unchanged, to the bit, in a run of the paper's length.
        return strength * (PAPER_STEPS / self.total_steps) if self.name == "scaled" else strength
