"""Worker processes on this machine: one run each, started here, watched, and told to stop when we are."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from earlybird.grids.sweep import Sweep
from earlybird.training.session import StopFlag, stop_on_signals

_SECONDS_BETWEEN_LOOKS = 0.2


def run_workers(
    sweep: Sweep, workers: int, command: Sequence[str], said: Callable[[str], None], look: Callable[[], None]
) -> None:
    """Start worker processes and wait for all of them; if one dies, a line says so and the others take over its work.

    Args:
        sweep: nodes to work on.
        workers: how many, >= 2 (one needs no process of its own).
        command: what a worker is started with; the folder and the sweep's token are added.
        said: prints a line.
        look: called again and again while they work.

    Raises:
        Terminated: a signal asked to stop; the workers have saved and ended.
    """
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_each(workers)))}
    with stop_on_signals() as stop:
        processes = [
            subprocess.Popen([*command, str(sweep.root), sweep.token], env=environment) for _ in range(workers)
        ]
        try:
            _wait(processes, stop, said, look)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        stop.raise_if_set()


def threads_each(workers: int) -> int:
    """Threads of each worker, at least 1: with more threads than cores they spin while they wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def _wait(
    processes: list[subprocess.Popen[bytes]], stop: StopFlag, said: Callable[[str], None], look: Callable[[], None]
) -> None:
    told_to_stop, reported = False, set()
    while any(process.poll() is None for process in processes):
        if stop.signal_number is not None and not told_to_stop:
            told_to_stop = True
            for process in processes:
                process.send_signal(signal.SIGTERM)  # none to one that has ended
        for number, process in enumerate(processes, 1):
            if (code := process.poll()) and number not in reported and not told_to_stop:
                reported.add(number)
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                said(f"worker {number} died ({how}); the others take over its work")
        look()
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    look()
