"""`Budget`: what a whole run may cost, as `--budget` says it: a share of the dense training, or seconds."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from earlybird.errors import ConfigError, require

_EXPECTED = "time=F (share of the dense training's seconds), macs=F (of its MACs) or seconds=N, such as time=0.5"


@dataclass(frozen=True)
class Budget:
    """Cost that a run may have, its search included.

    Attributes:
        kind: "time" and "macs" are shares of the dense training of T epochs, "seconds" are seconds.
        amount: > 0.
    """

    kind: Literal["time", "seconds", "macs"]
    amount: float

    def dense_steps(self, whole: int, step_seconds: float | None = None) -> int:
        """Training steps of the dense network that the budget buys.

        Args:
            whole: optimizer steps of the dense training of T epochs.
            step_seconds: measured seconds of one of them; "seconds" needs it.

        Raises:
            ConfigError: it buys not one step, or the seconds of a step are not known.
        """
        if self.kind == "seconds" and not step_seconds:
            raise ConfigError("a budget in seconds needs the dense network's measured step; give time=F instead")
        steps = round(self.amount / (step_seconds or 1) if self.kind == "seconds" else self.amount * whole)
        least = f"{step_seconds:.3g} s" if self.kind == "seconds" and step_seconds else f"{1 / whole:.2g}"
        require("training.budget", str(self), steps >= 1, f"a budget that buys a dense training step ({least})")
        return steps

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:g}"


def parse_budget(text: str) -> Budget | None:
    """Budget of a setting; None for no text.

    Raises:
        ConfigError: it is no budget.

    Example:
        >>> parse_budget("time=0.5")
        Budget(kind='time', amount=0.5)
    """
    if not text:
        return None
    kind, _, number = text.partition("=")
    amount = 0.0
    with suppress(ValueError):
        amount = float(number)
    require("training.budget", text, kind in ("time", "macs", "seconds") and 0 < amount < math.inf, _EXPECTED)
    return Budget(kind, amount)  # type: ignore[arg-type]
