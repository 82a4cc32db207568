"""`Session`: data, settings, device and records that all phases of one run share; its progress line and stop flag."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TextIO

from earlybird.cost import CostLedger, PhaseMeter, PlannedData
from earlybird.data import Batches
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.errors import CheckpointError, Terminated
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute

_SECONDS_BETWEEN_REPAINTS = 0.5


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
        """Restore a state; rows written after it are gone.

        Raises:
            CheckpointError: it holds something else than rows and costs.
        """
        rows, ledger = state.get("rows"), state.get("ledger")
        if not isinstance(rows, list) or not isinstance(ledger, list) or not all(map(_is_row, rows)):
            raise CheckpointError("the journal of rows and costs was changed; restore the file or start again")
        self.rows = list(rows)
        self.ledger = CostLedger.from_state(ledger)
        self._on_change(self.rows)


def _is_row(row: Any) -> bool:
    """Tell whether a value is an epoch's metrics: a phase, and numbers of 0 or more."""
    if not isinstance(row, dict) or not isinstance(row.get("phase"), str) or row.get("epoch") is None:
        return False
    numbers = [value for key, value in row.items() if key != "phase" and value is not None]
    return all(type(number) in (int, float) and 0 <= number < math.inf for number in numbers)


class Progress:
    """Paints one line in place on a terminal; elsewhere prints one line per epoch. `quiet` prints nothing.

    Args:
        epochs: T of the schedule.
        stream: where to print; stderr by default, so that tables on stdout stay clean.
    """

    def __init__(self, steps_per_epoch: int, epochs: int, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._steps_per_epoch, self._end_step, self._quiet = steps_per_epoch, steps_per_epoch * epochs, quiet
        self._live = self._stream.isatty()
        self._painted = 0.0
        self._began: tuple[float, int] | None = None

    def due(self) -> bool:
        """True if it is time to repaint; asking before reading the loss spares the device a synchronisation."""
        return self._live and not self._quiet and time.monotonic() - self._painted > _SECONDS_BETWEEN_REPAINTS

    def step(self, phase: str, step: int, loss: float, accuracy: float, note: str) -> None:
        """Repaint the live line after optimizer step `step` (counted from 1 over the whole schedule)."""
        self._painted = time.monotonic()
        self._write(self._line(phase, step, loss, accuracy, note))

    def epoch(self, phase: str, step: int, loss: float, accuracy: float, note: str) -> None:
        """Print the line of a finished epoch and keep it."""
        self.say(self._line(phase, step, loss, accuracy, note))

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if not self._quiet:
            self._write(text + "\n")

    def start(self, step: int, end_step: int) -> None:
        """Begin a phase of these steps; the time left is judged from here."""
        self._began, self._end_step = (time.monotonic(), step), end_step

    def _line(self, phase: str, step: int, loss: float, accuracy: float, note: str) -> str:
        epoch, in_epoch = divmod(max(0, step - 1), self._steps_per_epoch)
        epochs = -(-self._end_step // self._steps_per_epoch)
        place = f"{phase:<7} epoch {epoch + 1:>3}/{epochs}  step {in_epoch + 1:>4}/{self._steps_per_epoch}"
        parts = (place, f"loss {loss:6.3f}  acc {100 * accuracy:5.1f} %", note, self._left(step))
        return "  ".join(filter(None, parts))

    def _left(self, step: int) -> str:
        if self._began is None or step <= self._began[1]:
            return ""
        seconds = (time.monotonic() - self._began[0]) / (step - self._began[1])
        left = round(seconds * max(0, self._end_step - step))
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"

    def _write(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + text)
        self._stream.flush()


class StopFlag:
    """Signal that asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def raise_if_set(self) -> None:
        """Raise `Terminated` if a signal has come; call it where everything is saved."""
        if self.signal_number is not None:
            raise Terminated(self.signal_number)


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turn SIGTERM and SIGINT into a `StopFlag` inside the block. A second signal acts as it did before.

    Outside the main thread Python delivers no signals, so there the flag stays unset and nothing is changed.
    """
    flag = StopFlag()
    previous: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        flag.signal_number = number
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN:  # Under nohup, or in the background of a script: somebody chose that.
                # None: a handler that Python did not install and could not put back.
                previous[number] = signal.SIG_DFL if handler is None else handler
                signal.signal(number, remember)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass
class Session:
    """Data, settings, device, checkpoints and records of a run.

    `val` is None unless a part of the training images was set aside: without one nothing may be selected, and the test
    set is not in here at all. `budget_steps` are the dense training steps that the run's budget buys, None without one.
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
    # Phases whose step could not take the form that was settled.
    eager_phases: list[str] = field(default_factory=list)
    budget_steps: int | None = None
    _meter: PhaseMeter | None = field(default=None, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last, partial batch counts."""
        return self.train.steps_per_epoch

    @property
    def whole_steps(self) -> int:
        """Optimizer steps of T epochs."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the schedule: of T epochs, or the dense ones that the run's budget buys."""
        return self.whole_steps if self.budget_steps is None else self.budget_steps

    @property
    def planned_data(self) -> PlannedData:
        """Images of the run as plans count them, the test set left out."""
        val = () if self.val is None else (self.val.num_samples, self.val.batch_size)
        return PlannedData(self.train.num_samples, 0, self.train.batch_size, *val)

    def meter(self, phase: str) -> PhaseMeter:
        """A meter for one phase, with the run's energy counter; it has the seconds since the phase before too."""
        self._meter = PhaseMeter(phase, self.compute.device, self.energy, after=self._meter)
        return self._meter
