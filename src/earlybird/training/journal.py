"""`Journal`: what a run has to tell so far; it rides in every checkpoint, so that a resumed run tells it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from earlybird.cost import CostLedger


class Journal:
    """Metrics rows and finished costs of one run.

    Args:
        on_change: called with all rows whenever one is added (the run folder mirrors them into `metrics.jsonl`).
    """

    def __init__(self, on_change: Callable[[list[dict[str, Any]]], None] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ledger = CostLedger()
        self._on_change = on_change

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one epoch's metrics."""
        self.rows.append(row)
        if self._on_change:
            self._on_change(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {"rows": self.rows, "ledger": self.ledger.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state back; rows written after it are gone."""
        self.rows = list(state["rows"])
        self.ledger = CostLedger.from_state(state["ledger"])
        if self._on_change:
            self._on_change(self.rows)
