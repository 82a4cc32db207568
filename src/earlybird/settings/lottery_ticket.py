"""`LotteryTicket`: settings of lottery tickets by magnitude (Frankle & Carbin 2019; Frankle et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from earlybird.errors import ConfigError
from earlybird.settings.fields import setting
from earlybird.settings.method import DenseStartSettings


@dataclass(frozen=True)
class LotteryTicket(DenseStartSettings):
    """Train, keep the largest weights, set them back to where they started, train them alone.

    Raises:
        ConfigError: a value is of another type or out of range, or two contradict each other.
    """

    name: ClassVar[str] = "lottery_ticket"

    prune_ratio: float = setting(0.5, "fraction of conv and linear weights to remove", "[0, 1)")
    weights: Literal["rewind", "reinit"] = setting("rewind", "weights of the ticket: of the rewind epoch, or new")
    rewind_epoch: int = setting(0, "epoch whose weights and schedule 'rewind' goes back to", ">= 0")
    rounds: int = setting(1, "trainings that are pruned, one after another; 1 = one-shot", ">= 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights == "reinit" and self.rewind_epoch:
            raise ConfigError("method.rewind_epoch contradicts method.weights 'reinit'; give one of the two")

    def starts_from_dense(self) -> bool:
        """The first round is the dense training; weights of an epoch are not in a finished run."""
        return self.rewind_epoch == 0
