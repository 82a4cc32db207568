"""`Candidate`: what a search hands to the last training."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from earlybird.core import Ticket


@dataclass(frozen=True)
class Candidate:
    """A module to train on, and over which steps.

    Attributes:
        model: slim or dense, with the weights to start from, placed on the run's device.
        phase: "train" (nothing was searched) or "retrain".
        start_step: global step at which its training starts.
        end_step: global step at which it ends; equal to `start_step` where nothing is left to train.
        ticket: the ticket it was cut by, if any.
        distances: mask distances of the search, draw k against draw k-1, from k = 2; None where nothing was searched.
        draw_steps: global step of every draw, from draw 1.
        penalty: strength of the L1 penalty in its training.
        flags: what to know before trusting it.
        momentum: parameter name -> momentum that its training starts with; empty for none.
    """

    model: nn.Module
    phase: str
    start_step: int
    end_step: int
    ticket: Ticket | None = None
    distances: tuple[float, ...] | None = None
    draw_steps: tuple[int, ...] = ()
    penalty: float = 0.0
    flags: tuple[str, ...] = ()
    momentum: dict[str, Tensor] = field(default_factory=dict)
