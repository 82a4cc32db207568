"""Progress line: epoch, step, loss, accuracy, mask distance against epsilon, time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_SECONDS_BETWEEN_REPAINTS = 0.5


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
        parts = [
            f"{phase:<7} epoch {epoch + 1:>3}/{epochs}  step {in_epoch + 1:>4}/{self._steps_per_epoch}",
            f"loss {loss:6.3f}  acc {100 * accuracy:5.1f} %",
            *([note] if note else []),
            self._left(step),
        ]
        return "  ".join(part for part in parts if part)

    def _left(self, step: int) -> str:
        if self._began is None or step <= self._began[1]:
            return ""
        seconds = (time.monotonic() - self._began[0]) / (step - self._began[1])
        left = round(seconds * max(0, self._end_step - step))
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"

    def _write(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + text)
        self._stream.flush()
