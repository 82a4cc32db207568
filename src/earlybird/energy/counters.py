"""Energy counters of the machine, read through zeus: NVML, AMD SMI, RAPL, Jetson and Apple silicon.

What no counter measured is None, never zero and never a guess from a data sheet. zeus is optional (`pip install
'earlybird[energy]'`) and takes two seconds to import, so that it is imported by `find_counter` alone.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from earlybird.energy.sharing import CardWatch
from earlybird.energy.sources import (
    EnergySource,
    chip_source,
    gpu_handle,
    gpu_source,
    rapl_sources,
    unsupported_reason,
)
from earlybird.errors import ConfigError, reason

NO_ENERGY_COUNTER = "not measured (no counter)"
MOST_PACKAGE_WATTS = 1000.0  # no CPU package draws more; zeus assumes the same
_SECONDS_BETWEEN_LOOKS = 2.0  # at who else is on the card
_NO_CHIP = "no Jetson, no Apple silicon with zeus[apple]"


class EnergyCounter:
    """Counter of joules, read one stretch after another; this one measures nothing.

    method: the interfaces read, such as "nvml+rapl", or "not measured (no counter: <reason>)". device: what they cover,
    "" for nothing. notes: what is missing from `device`, and why. idle_watts: power of the quiet machine, where
    `measure_idle` took it. pending: the last `take` gave None because a counter had not ticked, and its joules come
    with the next one; a None while this is False is a loss. others: most other processes that were noticed on the GPU
    during the joules of the last `take`; None where that is not known.
    """

    def __init__(self, method: str, device: str = "", notes: Sequence[str] = ()) -> None:
        self.method, self.device, self.notes = method, device, tuple(notes)
        self.idle_watts: float | None = None
        self.pending = False
        self.others: int | None = None

    def start(self) -> None:
        """Begin a window; a window begun before and not read is dropped."""

    def take(self) -> float | None:
        """Joules since `start` or the last `take`, and go on; None where this stretch could not be measured."""
        return None

    def stop(self) -> None:
        """End the open window, if any; what was not taken is dropped."""


class NoCounter(EnergyCounter):
    """Measures nothing: `take` is None; `method` gives the reason, where one is known."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(f"not measured (no counter: {reason})" if reason else NO_ENERGY_COUNTER)


class ZeusCounter(EnergyCounter):
    """Sums the sources of a `ZeusMonitor`; the caller has synchronised the GPU.

    A GPU's counter ticks every 20 to 100 ms, RAPL's every millisecond. While one source has not ticked since the last
    reading, `take` is None with `pending` True, the window stays open, and the next `take` gives the joules of both
    stretches; a phase that ends before the first tick has no measured energy. A reading that fails (GPU lost,
    permission revoked) makes its stretch None with one warning, and the counter goes on with the next stretch.
    `start`, `take` and `stop` belong to one thread. `watch` is asked at both ends of a stretch and every two seconds
    within it; the first time that it cannot tell, `notes` say why.
    """

    def __init__(
        self, monitor: Any, sources: Sequence[EnergySource], method: str, notes: Sequence[str] = (),
        watch: CardWatch | None = None,
    ) -> None:  # fmt: skip
        super().__init__(method, ", ".join(source.name for source in sources), notes)
        self._monitor, self._sources, self._watch = monitor, tuple(sources), watch
        self._window: str | None = None
        self._windows, self._failing = 0, False
        self._lock = threading.Lock()
        self._stopped: threading.Event | None = None
        ranges = [source.range_uj for source in sources if source.range_uj is not None]
        self._split_seconds = min(ranges) / 1e6 / MOST_PACKAGE_WATTS / 2 if ranges else None
        self._forget()

    def start(self) -> None:
        """Begin a window; a window begun before and not read is dropped."""
        self.stop()
        with self._lock:
            if self._watch is not None:
                self._watch.start()
            self._open()
        self._stopped = threading.Event()
        looks = None if self._watch is None else _SECONDS_BETWEEN_LOOKS
        if periods := [seconds for seconds in (self._split_seconds, looks) if seconds is not None]:
            arguments = (weakref.ref(self), self._stopped, min(periods))
            threading.Thread(target=_tend, args=arguments, name="energy windows", daemon=True).start()

    def take(self) -> float | None:
        """Joules since `start` or the last `take`; None where they could not be measured, or without a `start`."""
        with self._lock:
            if self._stopped is None:
                return None
            self._advance()
            self._look()
            self.pending = not self._lost and not all(self._joules)
            if self.pending:
                return None
            joules = None if self._lost else sum(self._joules)
            if self._watch is not None:
                self.others = self._watch.take()
            self._forget()
            return joules

    def stop(self) -> None:
        """End the open window, if any; what was not taken is dropped."""
        if self._stopped is not None:
            self._stopped.set()
        with self._lock:
            self._stopped = None
            if self._window is not None:
                with suppress(Exception):  # nobody asks for these joules any more
                    self._monitor.end_window(self._window, sync_execution=False, cancel=True)
            self._window, self.pending = None, False
            self._forget()

    def _forget(self) -> None:
        self._joules = [0.0] * len(self._sources)
        self._lost = False

    def _advance(self) -> None:
        """Add the open window to the stretch and begin the next one.

        The next one begins before the last one ends: no joule falls between them, at the price of counting twice what
        the machine draws during one reading. Where a counter has not ticked, both begin at the same count, so that the
        new window is the old one, continued.
        """
        last = self._window
        self._open()
        if last is None:
            self._lost = True
            return
        try:
            measurement = self._monitor.end_window(last, sync_execution=False)
            parts = [source.joules(measurement) for source in self._sources]
        except Exception as error:  # whatever a driver may raise: energy is not worth a training
            self._lost = True
            self._warn(error)
            return
        self._joules = [total + part for total, part in zip(self._joules, parts, strict=True)]
        self._failing = self._window is None

    def _look(self) -> None:
        """See who else is on the card; where that cannot be told, say so once."""
        if self._watch is None:
            return
        self._watch.look()
        told = f"whether others computed on the GPU is not known: {self._watch.reason}"
        if self._watch.reason and told not in self.notes:
            self.notes = (*self.notes, told)

    def _open(self) -> None:
        """Begin a window under a fresh name; where that fails, there is none and the stretch to come is lost."""
        self._windows += 1
        name = f"earlybird {self._windows}"
        try:
            self._monitor.begin_window(name, sync_execution=False)
            self._window = name
        except Exception as error:
            self._window = None
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Warn once per row of failures, not once per epoch."""
        if not self._failing:
            self._failing = True
            told = f"energy is not measured for now ({self.method}): {reason(error)}"
            warnings.warn(told, RuntimeWarning, stacklevel=4)


def _tend(counter: weakref.ref[ZeusCounter], stopped: threading.Event, seconds: float) -> None:
    """Keep each window below one counter range (see `EnergySource.joules`), however seldom `take` is called, and look.

    A card is looked at more often than windows need to be split, which costs what two readings draw (`_advance`).
    """
    looks = 0
    while not stopped.wait(seconds):
        alive = counter()
        if alive is None:  # dropped without a `stop`
            return
        with alive._lock:
            if not stopped.is_set():  # no `stop` came in between
                alive._look()
                looks += 1
                if alive._split_seconds is not None and looks % int(alive._split_seconds / seconds) == 0:
                    alive._advance()
        del alive


def measure_idle(counter: EnergyCounter, seconds: float = 1.0) -> float | None:
    """Watts of the quiet machine, also stored as `counter.idle_watts`; None where nothing was measured.

    None as well where others were on the GPU, which then was not quiet. Sleeps for `seconds`; a window that was open is
    dropped. A GPU ticks up to 0.1 s late: 1 s is right to about 10 %.

    Raises:
        ConfigError: seconds is not positive.
    """
    if not seconds > 0:
        raise ConfigError(f"the window for idle power is {seconds} s; give a positive number of seconds")
    counter.idle_watts = None
    if counter.device:
        counter.start()
        began = time.perf_counter()
        time.sleep(seconds)
        joules = counter.take()
        elapsed = time.perf_counter() - began
        counter.stop()
        counter.idle_watts = None if joules is None or counter.others else joules / elapsed
    return counter.idle_watts


def find_counter(device: torch.device) -> EnergyCounter:
    """The counter that covers a run on this device.

    On CUDA: the run's GPU, with the CPU packages and their DRAM where RAPL may be read; never the CPU alone. On a CPU:
    packages and DRAM alone, for the run does not answer for an idle GPU. On a Jetson or on Apple silicon: the chip.
    RAPL counts what the whole package does, other processes included. Call it under `if __name__ == "__main__":`, since
    zeus starts processes that import the main module again.
    """
    if (unsupported := unsupported_reason(device)) is not None:
        return NoCounter(unsupported)
    try:
        import zeus.monitor  # noqa: F401
    except ImportError as error:
        missing = error.name == "zeus"
        cure = "zeus is not installed: pip install 'earlybird[energy]'"
        return NoCounter(cure if missing else f"zeus cannot be imported: {reason(error)}")
    try:
        return _find_with_zeus(device)
    except Exception as error:  # zeus wraps three vendors' drivers, and a run needs none of them
        return NoCounter(f"zeus cannot start: {reason(error)}")


def _find_with_zeus(device: torch.device) -> EnergyCounter:
    from zeus.monitor import ZeusMonitor

    notes: list[str] = []
    gpus: list[int] = []
    watch = None
    packages: dict[int, list[EnergySource]] = {}
    found = [chip] if (chip := chip_source()) is not None else []  # (method, source)
    if chip is None:
        if device.type not in ("cuda", "cpu"):
            return NoCounter(f"device {device.type!r}: {_NO_CHIP}")
        if device.type == "cuda":
            gpus = [torch.cuda.current_device() if device.index is None else device.index]
            if (gpu := gpu_source(gpus[0], notes)) is None:
                return NoCounter("; ".join([*notes, _NO_CHIP]))
            found.append(gpu)
            if gpu[0].startswith("nvml"):
                watch = CardWatch(gpu_handle(gpus[0]))
        packages = rapl_sources(notes)
        found += [("rapl", source) for sources in packages.values() for source in sources]
    if not found:
        return NoCounter("; ".join([*notes, _NO_CHIP]))
    # The case has an answer here (`pending`), and zeus would say it at every short window.
    warnings.filterwarnings("ignore", message="The energy consumption of one or more GPUs was measured as zero")
    monitor = ZeusMonitor(gpu_indices=gpus, cpu_indices=list(packages), approx_instant_energy=False)
    method = "+".join(dict.fromkeys(name for name, _ in found))
    return ZeusCounter(monitor, [source for _, source in found], method, notes, watch)
