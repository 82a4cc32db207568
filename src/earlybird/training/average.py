"""`WeightAverage`: the exponential moving average of a network's weights, kept beside those that are trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.training.checkpoint import whole_number


class WeightAverage:
    """Exponential moving average of a network's parameters.

    Update k (from 0) keeps min(`decay`, (1 + k) / (10 + k)) of it, as TensorFlow's `ExponentialMovingAverage` does with
    `num_updates`: a short training averages over about its last tenth, a long one over about 1 / (1 - decay) steps.
    Buffers are not averaged: the statistics of norms are the network's newest (docs/decisions.md, "Training").

    Args:
        model: the network that is trained; the average begins with its weights.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._own = dict(model.named_parameters())
        self._average = {name: x.detach().clone() for name, x in self._own.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights, without waiting for the device."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_([*self._average.values()], [*self._own.values()], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the place of the network's weights, inside; they come back to the bit."""
        before = [x.detach().clone() for x in self._own.values()]
        self.store_()
        try:
            yield
        finally:
            _write([*self._own.values()], before)

    def store_(self) -> None:
        """Write the average into the network, in place."""
        _write([*self._own.values()], [*self._average.values()])

    def state_dict(self) -> dict[str, Any]:
        """`weights`: name of each parameter -> its average; `updates`: how many there were."""
        return {"weights": dict(self._average), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a `state_dict`.

        Raises:
            ValueError: it is of another network, or not finite; which tensor.
            CheckpointError: it counts no updates.
        """
        self.updates, weights = whole_number(state, "updates", 0, sys.maxsize), state["weights"]
        if list(weights) != list(self._average):
            raise ValueError("the average of its weights is of other parameters")
        for name, own in self._average.items():
            theirs = weights[name]
            if (theirs.shape, theirs.dtype) != (own.shape, own.dtype):
                raise ValueError(f"the average of {name} is {theirs.dtype} {list(theirs.shape)}, not {list(own.shape)}")
            if not bool(theirs.isfinite().all()):
                raise ValueError(f"the average of {name} is NaN or infinite")
        _write([*self._average.values()], [*weights.values()])


@torch.no_grad()
def _write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for x, value in zip(tensors, values, strict=True):
        x.copy_(value)
