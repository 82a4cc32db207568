"""`Session`: data, settings, device and records that all phases of one run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from earlybird.cost import CostLedger, PhaseMeter
from earlybird.cost.plan import PlannedData
from earlybird.data import Batches
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute
from earlybird.training.interrupt import StopFlag
from earlybird.training.progress import Progress


class Journal:
    """Metrics rows and finished costs of one run so far; it rides in every checkpoint.

    Args:
        on_change: called with all rows whenever one is added (the run folder mirrors them into `metrics.jsonl`).
    """

    def __init__(self, on_change: Callable[[list[dict[str, Any]]], None] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ledger = CostLedger()
        self._on_change = on_change or (lambda rows: None)

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one epoch's metrics."""
        self.rows.append(row)
        self._on_change(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {"rows": self.rows, "ledger": self.ledger.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; rows written after it are gone."""
        self.rows = list(state["rows"])
        self.ledger = CostLedger.from_state(state["ledger"])
        self._on_change(self.rows)


@dataclass
class Session:
    """Data, settings, device, checkpoints and records of a run.

    `val` is None unless a part of the training images was set aside: without one nothing may be selected, and the test
    set is not in here at all.
    """

    train: Batches
    val: Batches | None
    settings: TrainingSettings
    compute: Compute
    checkpoints: Checkpoints
    journal: Journal
    progress: Progress
    stop: StopFlag = field(default_factory=StopFlag)
    energy: EnergyCounter = field(default_factory=lambda: NoCounter("none was asked for"))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last, partial batch counts."""
        return self.train.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole schedule, T * steps_per_epoch."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def planned_data(self) -> PlannedData:
        """Images of the run as plans count them, the test set left out."""
        val = () if self.val is None else (self.val.num_samples, self.val.batch_size)
        return PlannedData(self.train.num_samples, 0, self.train.batch_size, *val)

    def meter(self, phase: str) -> PhaseMeter:
        """A meter for one phase, with the run's energy counter."""
        return PhaseMeter(phase, self.compute.device, self.energy)
