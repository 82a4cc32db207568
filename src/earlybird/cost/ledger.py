"""What a run has cost so far: one `PhaseCost` per finished stretch of work, added up by phase in a `CostLedger`.

`PhaseMeter` reads the clocks and the memory. No energy counter is read: joules are None, never 0, where nothing was
measured, and `energy_method` says why.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Any, Self

import torch

from earlybird.errors import CheckpointError, ConfigError

PHASES = ("search", "slim", "train", "retrain", "evaluate")
TOTAL = "total"
NO_ENERGY_COUNTER = "not measured (no counter)"


@dataclass(frozen=True)
class PhaseCost:
    """Cost of one stretch of work.

    phase: one of `PHASES`, or "total". images: images run through the network. macs: multiply-accumulates as executed.
    paper_flops: FLOPs in the paper's convention; 0.0 where the paper charges nothing, None where it cannot be said.
    wall_seconds: by the clock. cpu_seconds: of all threads of the process together. peak_bytes: memory at its highest.
    joules: measured energy, or None. energy_method: how joules were got, or why they were not.

    Raises:
        ConfigError: an unknown phase, or a number that is negative or not finite.
    """

    phase: str
    images: int
    macs: int
    paper_flops: float | None
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    joules: float | None = None
    energy_method: str = NO_ENERGY_COUNTER

    def __post_init__(self) -> None:
        if self.phase not in (*PHASES, TOTAL):
            raise ConfigError(f"cost phase is {self.phase!r}; choose one of {', '.join(PHASES)}")
        for name in ("images", "macs", "paper_flops", "wall_seconds", "cpu_seconds", "peak_bytes", "joules"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} of phase {self.phase!r} is {value}; a cost is finite and not negative")


class CostLedger:
    """The phases of one run in the order they were closed.

    Example:
        ledger = CostLedger()
        with PhaseMeter("search", device) as meter:
            ...
        ledger.add(meter.cost(images=50_000, macs=10**15, paper_flops=2e15))
        ledger.total().wall_seconds
    """

    def __init__(self) -> None:
        self._phases: list[PhaseCost] = []

    def __len__(self) -> int:
        return len(self._phases)

    def __iter__(self) -> Iterator[PhaseCost]:
        return iter(self._phases)

    def add(self, cost: PhaseCost) -> None:
        """Append one stretch of work.

        Raises:
            ConfigError: the cost is itself a total, which would be counted twice.
        """
        if cost.phase == TOTAL:
            raise ConfigError(f"a ledger takes single phases ({', '.join(PHASES)}), not a total")
        self._phases.append(cost)

    def merged(self) -> dict[str, PhaseCost]:
        """One cost per phase that occurred, in the order of `PHASES`: sums, and the highest of the memory peaks."""
        found = {cost.phase for cost in self._phases}
        return {
            phase: _sum(phase, [cost for cost in self._phases if cost.phase == phase])
            for phase in PHASES
            if phase in found
        }

    def total(self) -> PhaseCost:
        """All phases as one cost of phase "total"; zeros, and joules None, for an empty ledger."""
        return _sum(TOTAL, self._phases)

    def state_dict(self) -> list[dict[str, Any]]:
        """The phases as plain JSON types, in order."""
        return [asdict(cost) for cost in self._phases]

    @classmethod
    def from_state(cls, state: Sequence[Mapping[str, Any]]) -> Self:
        """Rebuild a ledger from `state_dict()`.

        Raises:
            CheckpointError: an entry lacks a field, has an unknown one or holds an illegal value.
        """
        ledger = cls()
        names = {field.name for field in fields(PhaseCost)}
        for position, entry in enumerate(state):
            if set(entry) != names:
                wrong = ", ".join(sorted(names ^ set(entry)))
                raise CheckpointError(f"cost entry {position} has missing or unknown fields: {wrong}")
            try:
                ledger.add(PhaseCost(**entry))
            except (ConfigError, TypeError) as error:
                raise CheckpointError(f"cost entry {position} cannot be read: {error}") from error
        return ledger


class PhaseMeter:
    """Measures wall seconds, CPU seconds and peak memory of one phase, as a context manager.

    It may be entered again after it was left: the seconds add up and the peaks' maximum is kept. Do not nest meters on
    a GPU, since entering one resets the device's peak. On CUDA the peak is `torch.cuda.max_memory_allocated`. On a CPU
    it is the resident set of the process, a high-water mark since the process began that never falls: a later, smaller
    phase shows the peak of an earlier one. `cpu_seconds` is `time.process_time`, all threads of the process.

    Raises:
        ConfigError: an unknown phase, or the meter is entered twice without being left.
    """

    def __init__(self, phase: str, device: torch.device | str = "cpu") -> None:
        if phase not in PHASES:
            raise ConfigError(f"cost phase is {phase!r}; choose one of {', '.join(PHASES)}")
        self.phase = phase
        self._device = torch.device(device)
        self._started: tuple[float, float] | None = None
        self._wall_seconds = 0.0
        self._cpu_seconds = 0.0
        self._peak_bytes = 0

    def __enter__(self) -> Self:
        if self._started is not None:
            raise ConfigError(f"the meter of phase {self.phase!r} is already running; leave it before entering again")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work queued before belongs to the phase before
            torch.cuda.reset_peak_memory_stats(self._device)
        self._started = (time.perf_counter(), time.process_time())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read()
        self._started = None

    def cost(self, *, images: int, macs: int, paper_flops: float | None) -> PhaseCost:
        """The phase's cost up to now, with the counted work given by the caller; allowed while the meter runs.

        Raises:
            ConfigError: a number that is negative or not finite.
        """
        self._read()
        return PhaseCost(
            phase=self.phase,
            images=images,
            macs=macs,
            paper_flops=paper_flops,
            wall_seconds=self._wall_seconds,
            cpu_seconds=self._cpu_seconds,
            peak_bytes=self._peak_bytes,
        )

    def _read(self) -> None:
        """Add the time since the last reading, where the meter runs."""
        if self._started is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        wall, cpu = time.perf_counter(), time.process_time()
        self._wall_seconds += wall - self._started[0]
        self._cpu_seconds += cpu - self._started[1]
        self._peak_bytes = max(self._peak_bytes, _peak_bytes(self._device))
        self._started = (wall, cpu)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _sum(phase: str, costs: Sequence[PhaseCost]) -> PhaseCost:
    methods = list(dict.fromkeys(cost.energy_method for cost in costs))
    return PhaseCost(
        phase=phase,
        images=sum(cost.images for cost in costs),
        macs=sum(cost.macs for cost in costs),
        paper_flops=_sum_or_none([cost.paper_flops for cost in costs]),
        wall_seconds=math.fsum(cost.wall_seconds for cost in costs),
        cpu_seconds=math.fsum(cost.cpu_seconds for cost in costs),
        peak_bytes=max((cost.peak_bytes for cost in costs), default=0),
        # Measured and estimated joules, or joules of two counters, are never added together.
        joules=_sum_or_none([cost.joules for cost in costs]) if len(methods) == 1 else None,
        energy_method="; ".join(methods) or NO_ENERGY_COUNTER,
    )


def _sum_or_none(values: Sequence[float | None]) -> float | None:
    """The sum, or None where one part is unknown: a sum without it would look smaller than it is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None
