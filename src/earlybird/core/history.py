"""`MaskHistory`: what a stop rule needs to remember of one prune ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earlybird.core.mask import ChannelMask
from earlybird.core.stopping import EPI_LOOKBACK, StopRule, epi_value, fires_authors_code, fires_epi, fires_paper


class MaskHistory:
    """The last masks, every consecutive distance, and whether the rule fires now."""

    def __init__(self, rule: StopRule, window: int, epsilon: float) -> None:
        self.rule, self.window, self.epsilon = rule, window, epsilon
        self.masks: list[ChannelMask] = []
        self.distances: list[float] = []
        self.epi_values: list[float] = []
        self._to_previous: list[float] = []

    def record(self, mask: ChannelMask, to_previous: Sequence[float]) -> None:
        """Add the newest mask; `to_previous[j]` is its distance to the (j+1)-th mask before it, for all of `masks`."""
        if self.rule == "epi":
            value = epi_value([m.kept_counts() for m in (*self.masks, mask)])
            self.epi_values += [] if value is None else [value]
        self.masks = [*self.masks, mask][-self._masks_needed() :]
        self.distances += to_previous[:1]
        self._to_previous = list(to_previous)

    def fires(self) -> bool:
        """True if the rule is met by the history so far; right after `load_state_dict` it says nothing."""
        if self.rule == "paper":
            return fires_paper(self.distances, window=self.window, epsilon=self.epsilon)
        if self.rule == "authors_code":
            return fires_authors_code(self._to_previous, window=self.window, epsilon=self.epsilon)
        return fires_epi(self.epi_values)

    def _masks_needed(self) -> int:
        """Masks that the next one has to be compared with."""
        return {"paper": 1, "authors_code": self.window - 1, "epi": EPI_LOOKBACK}[self.rule]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "masks": [dict(mask) for mask in self.masks],
            "distances": list(self.distances),
            "epi_values": list(self.epi_values),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state back."""
        self.masks = [ChannelMask(layers) for layers in state["masks"]]
        self.distances = [float(d) for d in state["distances"]]
        self.epi_values = [float(v) for v in state["epi_values"]]
        self._to_previous = []
