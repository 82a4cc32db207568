"""`Candidate`: the network that a search hands to the last training; `DenseRun`: a dense network trained before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from earlybird.core import Ticket, WeightMask
from earlybird.errors import MethodError


@dataclass(frozen=True)
class Candidate:
    """A module to train on, and over which steps.

    Attributes:
        model: slim or dense, with the weights to start from, placed on the run's device.
        phase: "train" (nothing was searched) or "retrain".
        start_step: global step at which its training starts.
        end_step: global step at which it ends; equal to `start_step` where nothing is left to train.
        schedule_steps: length of its learning-rate schedule in steps; None for the run's own.
        ticket: the ticket it was cut by, if any.
        weight_mask: single weights that are held at zero in every step, if any.
        distances: mask distances of the search, draw k against draw k-1, from k = 2; None where nothing was searched.
        draw_steps: global step of every draw, from draw 1.
        penalty: strength of the L1 penalty in its training.
        flags: what to know before trusting it.
        momentum: parameter name -> momentum that its training starts with; empty for none.
        uncut: the trained network before its channels went, where their going changes what it computes; it is
            evaluated beside the final one.
        notes: JSON values for the record.
    """

    model: nn.Module
    phase: str
    start_step: int
    end_step: int
    schedule_steps: int | None = None
    ticket: Ticket | None = None
    weight_mask: WeightMask | None = None
    distances: tuple[float, ...] | None = None
    draw_steps: tuple[int, ...] = ()
    penalty: float = 0.0
    flags: tuple[str, ...] = ()
    momentum: dict[str, Tensor] = field(default_factory=dict)
    uncut: nn.Module | None = None
    notes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DenseRun:
    """The end of a finished `dense` run.

    Attributes:
        weights: state dict of the network (CPU).
        journal: metrics and costs of its training as a `Journal` has them, of phase "search": whoever starts from it
            owes all of it.
    """

    weights: Mapping[str, Tensor]
    journal: Mapping[str, Any]

    def load_into(self, model: nn.Module) -> nn.Module:
        """`model` with these weights, in place.

        Raises:
            MethodError: they are of another network.
        """
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise MethodError("the dense run is of another network; give one of the same --model and --data") from error
        return model
