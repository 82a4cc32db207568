"""Measurements while a network trains: `PhaseMeter` for the phases of a run, and the seconds of a training step."""

from __future__ import annotations

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlybird.copying import copied
from earlybird.cost.ledger import PHASES, PhaseCost, Work
from earlybird.energy import EnergyCounter, NoCounter, most_others
from earlybird.errors import ConfigError, ModelError, first_line, require


class PhaseMeter:
    """Context manager that measures wall seconds, CPU seconds, peak memory and joules of one phase.

    It may be entered again after it was left: the seconds add up and the peaks' maximum is kept. Leaving it leaves the
    counter running for the phase after it; who owns the counter stops it at the end. Do not nest meters,
    since they share the energy counter and on a GPU entering one resets the device's peak. On CUDA the peak is
    `torch.cuda.max_memory_allocated`. On a CPU it is the resident set of the process at its highest since the phase
    before; where the kernel does not let that mark begin anew (other than Linux), since the process began, so that a
    later, smaller phase shows the peak of an earlier one. `cpu_seconds` is `time.process_time`, all threads.

    Args:
        phase: one of `PHASES`.
        after: the meter of the phase before, with the same counter: seconds and joules between the two are of this one.

    Raises:
        ConfigError: an unknown phase, or the meter is entered twice without being left.
    """

    def __init__(
        self, phase: str, device: torch.device | str = "cpu", counter: EnergyCounter | None = None,
        after: PhaseMeter | None = None,
    ) -> None:  # fmt: skip
        require("cost phase", phase, phase in PHASES, f"one of {', '.join(PHASES)}")
        self.phase = phase
        self._device = torch.device(device)
        self._counter = counter or NoCounter("none was asked for")
        self._started: tuple[float, float] | None = None
        self._wall_seconds, self._cpu_seconds, self._peak_bytes = 0.0, 0.0, 0
        self._joules: float | None = None
        self._others: list[int | None] = []  # on the GPU, one number for each reading of joules
        # Seconds that the joules are of, and seconds whose joules are still to come.
        self._metered_seconds, self._open_seconds = 0.0, 0.0
        self._spans: list[tuple[float, float]] = []
        self._after = after
        self._left: tuple[float, float] | None = None  # clocks when it was left

    def __enter__(self) -> Self:
        if self._started is not None:
            raise ConfigError(f"the meter of phase {self.phase!r} is already running; leave it before entering again")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work queued before belongs to the phase before
            torch.cuda.reset_peak_memory_stats(self._device)
        before = self._after._left if self._after is not None else None
        if before is None:
            self._counter.start()
            if self._device.type == "cpu":
                _forget_peak()
        self._started = read_clocks(self._device)
        between, between_cpu = (now - then for now, then in zip(self._started, before or self._started, strict=True))
        self._wall_seconds += between
        self._cpu_seconds += between_cpu
        self._open_seconds = between  # The counter has run on since: its next reading is of these seconds too.
        self._left, self._after, now = None, None, time.time()
        self._spans.append((now - between, now))
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        if self._counter.pending:
            self._counter.start()  # Joules still to come are of nobody: the phase after must not be charged them.
        if self._device.type == "cpu":
            _forget_peak()
        self._left, self._started = self._started, None

    def cost(self, work: Work) -> PhaseCost:
        """The phase's cost up to now, with the counted work given by the caller; allowed while the meter runs.

        Raises:
            ConfigError: a number that is negative or not finite.
        """
        self._read()
        return PhaseCost(
            phase=self.phase,
            macs=work.macs,
            **vars(work),
            wall_seconds=self._wall_seconds,
            cpu_seconds=self._cpu_seconds,
            peak_bytes=self._peak_bytes,
            joules=self._joules,
            energy_method=self._counter.method,
            energy_device="" if self._joules is None else self._counter.device,
            energy_coverage=min(1.0, self._metered_seconds / self._wall_seconds) if self._metered_seconds else 0.0,
            energy_shared_with=most_others(*self._others),
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
        if self._device.type == "cuda":
            peak_bytes = int(torch.cuda.max_memory_allocated(self._device))
        else:  # ru_maxrss counts bytes on macOS and KiB on Linux
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        # The clock of the day may be set back while we run; a span has the length that was measured.
        self._spans[-1] = (self._spans[-1][0], self._spans[-1][1] + seconds)
        self._started = (wall, cpu)
        self._open_seconds += seconds
        joules = self._counter.take()
        if joules is not None:
            self._joules = joules + (self._joules or 0.0)
            self._others.append(self._counter.others)
            self._metered_seconds += self._open_seconds
        if not self._counter.pending:  # Otherwise the next reading's joules are of these seconds too.
            self._open_seconds = 0.0


def _forget_peak() -> None:
    """Give freed memory back to the kernel and begin the high-water mark anew, where libc and kernel can (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def read_clocks(device: torch.device) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all threads, once the device has done its queued work; differences count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def step_seconds(networks: Mapping[str, nn.Module], images: Tensor, *, rounds: int = 5) -> dict[str, float]:
    """Median seconds of forward, backward and SGD step of each network, on `images` `[n, c, h, w]`, in float32.

    Runs on copies, in train mode, in turns, so that what else the machine does falls on all. The first round warms up
    and does not count. An absolute time means little on a shared machine; the ratio of two in one call does.

    Raises:
        ModelError: a network does not run on these images.
    """
    steps = {name: TrainingStep(copied(model).to(images.device).train(), images) for name, model in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(rounds + 1):
        for name, step in steps.items():
            try:
                took = step.seconds()
            except RuntimeError as error:
                told = f"network {name!r} does not train on images {list(images.shape)}: {first_line(error)}"
                raise ModelError(told) from error
            if round_number:
                seconds[name].append(took)
    return {name: statistics.median(values) for name, values in seconds.items()}


class TrainingStep:
    """Forward, backward and SGD step of a network, in place and repeatable, with a loss that reads every output.

    Args:
        model: in train mode, on the device of the images.
        images: `[n, c, h, w]`.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self.model, self.images, self.autocast = model, images, autocast
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def seconds(self) -> float:
        """Wall seconds of one step."""
        start, _ = read_clocks(self.images.device)
        self.run()
        return read_clocks(self.images.device)[0] - start

    def run(self) -> None:
        """One step; a GPU may not be done with it yet."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = [x for x in pytree.tree_leaves(self.model(self.images)) if isinstance(x, Tensor)]
        torch.stack([x.float().square().mean() for x in outputs]).sum().backward()
        self.optimizer.step()
