"""`PhaseMeter`: seconds, peak memory and energy of a phase, measured while it runs."""

from __future__ import annotations

import resource
import sys
import time
from typing import Self

import torch

from earlybird.cost.ledger import PHASES, PhaseCost, Work
from earlybird.cost.step_time import read_clocks
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.errors import ConfigError


class PhaseMeter:
    """Context manager that measures wall seconds, CPU seconds, peak memory and joules of one phase.

    It may be entered again after it was left: the seconds add up and the peaks' maximum is kept. Do not nest meters,
    since they share the energy counter and on a GPU entering one resets the device's peak. On CUDA the peak is
    `torch.cuda.max_memory_allocated`. On a CPU it is the resident set of the process, a high-water mark since the
    process began that never falls: a later, smaller phase shows the peak of an earlier one. `cpu_seconds` is
    `time.process_time`, all threads of the process.

    Args:
        phase: one of `PHASES`.

    Raises:
        ConfigError: an unknown phase, or the meter is entered twice without being left.
    """

    def __init__(self, phase: str, device: torch.device | str = "cpu", counter: EnergyCounter | None = None) -> None:
        if phase not in PHASES:
            raise ConfigError(f"cost phase is {phase!r}; choose one of {', '.join(PHASES)}")
        self.phase = phase
        self._device = torch.device(device)
        self._counter = counter or NoCounter("none was asked for")
        self._started: tuple[float, float] | None = None
        self._wall_seconds, self._cpu_seconds, self._peak_bytes = 0.0, 0.0, 0
        self._joules: float | None = None
        # Seconds that the joules are of, and seconds whose joules are still to come.
        self._metered_seconds, self._open_seconds = 0.0, 0.0
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._started is not None:
            raise ConfigError(f"the meter of phase {self.phase!r} is already running; leave it before entering again")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work queued before belongs to the phase before
            torch.cuda.reset_peak_memory_stats(self._device)
        self._counter.start()
        self._open_seconds = 0.0
        self._started = read_clocks(self._device)
        now = time.time()
        self._spans.append((now, now))
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        self._counter.stop()
        self._started = None

    def cost(self, work: Work) -> PhaseCost:
        """The phase's cost up to now, with the counted work given by the caller; allowed while the meter runs.

        Raises:
            ConfigError: a number that is negative or not finite.
        """
        self._read()
        return PhaseCost(
            phase=self.phase,
            images=work.images,
            macs=work.macs,
            paper_flops=work.paper_flops,
            wall_seconds=self._wall_seconds,
            cpu_seconds=self._cpu_seconds,
            peak_bytes=self._peak_bytes,
            joules=self._joules,
            energy_method=self._counter.method,
            energy_device="" if self._joules is None else self._counter.device,
            energy_coverage=min(1.0, self._metered_seconds / self._wall_seconds) if self._metered_seconds else 0.0,
            macs_by_width=work.macs_by_width,
            traffic_bytes=work.traffic_bytes,
            spans=tuple(self._spans),
        )

    def _read(self) -> None:
        """Add the time and the energy since the last reading, where the meter runs."""
        if self._started is None:
            return
        wall, cpu = read_clocks(self._device)
        seconds = wall - self._started[0]
        self._wall_seconds += seconds
        self._cpu_seconds += cpu - self._started[1]
        self._peak_bytes = max(self._peak_bytes, _peak_bytes(self._device))
        # The clock of the day may be set back while we run; a span has the length that was measured.
        self._spans[-1] = (self._spans[-1][0], self._spans[-1][1] + seconds)
        self._add_joules(seconds)
        self._started = (wall, cpu)

    def _add_joules(self, seconds: float) -> None:
        self._open_seconds += seconds
        joules = self._counter.take()
        if joules is not None:
            self._joules = joules + (self._joules or 0.0)
            self._metered_seconds += self._open_seconds
        if not self._counter.pending:  # Otherwise the next reading's joules are of these seconds too.
            self._open_seconds = 0.0


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
