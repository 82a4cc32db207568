"""`Session`: what stays the same over all phases of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from earlybird.cost import PhaseMeter
from earlybird.data import Batches
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.settings.training import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute
from earlybird.training.interrupt import StopFlag
from earlybird.training.journal import Journal
from earlybird.training.progress import Progress


@dataclass
class Session:
    """Data, settings, device and the places where a run leaves its traces.

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

    def meter(self, phase: str) -> PhaseMeter:
        """A meter for one phase, with the run's energy counter."""
        return PhaseMeter(phase, self.compute.device, self.energy)
