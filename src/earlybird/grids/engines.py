"""Engines of a sweep: worker processes of this machine, or Ray tasks on it or on a cluster (extra `ray`).

What a node is, when it is done and who holds it is decided by its folder and its lock, whatever the engine. So several
may work on one folder at the same time; a cluster must see it under the same path.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earlybird.errors import ConfigError, SweepError, first_line, one_line, reason, require
from earlybird.grids.grid import RunNode
from earlybird.grids.run_node import fail
from earlybird.grids.sweep import SECONDS_BETWEEN_LOOKS, Sweep, attempt, read_grid
from earlybird.training.session import StopFlag, stop_on_signals

_SECONDS_BETWEEN_EVENTS = 0.2
_SECONDS_TO_CONNECT = 10


def run_workers(
    sweep: Sweep, workers: int, command: Sequence[str], said: Callable[[str], None], look: Callable[[], None]
) -> None:
    """Start worker processes and wait for all of them; if one dies, a line says so and the others take over its work.

    Args:
        sweep: nodes to work on.
        workers: how many, >= 2 (one needs no process of its own).
        command: what a worker is started with; the folder and the sweep's token are added. It is to unblock SIGINT.
        said: prints a line.
        look: called again and again while they work.

    Raises:
        Terminated: a signal asked to stop; the workers have saved and ended.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // workers)  # With more threads than cores they spin while they wait.
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    with stop_on_signals() as stop:
        whole = [*command, str(sweep.root), sweep.token]
        # Inherited: Ctrl-C reaches them too, and finds a traceback until they have said what it means to them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        processes = [subprocess.Popen(whole, env=environment) for _ in range(workers)]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            _wait(processes, stop, said, look)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        stop.raise_if_set()


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
        time.sleep(_SECONDS_BETWEEN_EVENTS)
    look()


@dataclass(frozen=True)
class RaySettings:
    """Cluster and resources of Ray tasks.

    Attributes:
        address: of a cluster to join, or None for one of this machine's, which ends with the sweep.
        cpus_per_run: cores of each run; Ray sets its number of threads by it.
        gpus_per_run: GPUs of each run.
        retries: how often a run whose process died is started again.

    Raises:
        ConfigError: a number is out of range.
    """

    address: str | None = None
    cpus_per_run: float = 1.0
    gpus_per_run: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        require("--cpus-per-run", self.cpus_per_run, self.cpus_per_run > 0, "a number > 0")
        require("--gpus-per-run", self.gpus_per_run, self.gpus_per_run >= 0, "a number >= 0")
        require("--retries", self.retries, self.retries >= 0, "an integer >= 0")


def run_on_ray(
    sweep: Sweep, settings: RaySettings, on_event: Callable[[RunNode, str], None], before: Callable[[], Any]
) -> None:
    """Execute all nodes as tasks, each after those it starts from; failures are written down, not raised.

    Args:
        sweep: the sweep; its folder must be seen by every machine under the same path.
        settings: cluster and resources.
        on_event: called with a node and "finished" or "failed".
        before: called in each worker process before its first node.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be joined.
    """
    ray = _started(settings.address)
    try:
        cpus, gpus = settings.cpus_per_run, settings.gpus_per_run
        remote = ray.remote(_do_node).options(num_cpus=cpus, num_gpus=gpus, max_retries=settings.retries)
        root = sweep.root.resolve()
        tasks: dict[str, Any] = {}
        nodes: dict[Any, RunNode] = {}
        for node in sweep.left():
            needs = [tasks.get(need, "done") for need in node.needs]
            tasks[node.id] = remote.remote(str(root), sweep.token, node.id, before, *needs)
            nodes[tasks[node.id]] = node
        waiting = list(nodes)
        while waiting:
            ended, waiting = ray.wait(waiting)
            for task in ended:
                try:
                    state = "finished" if ray.get(task) == "done" else "failed"
                except ray.exceptions.RayError as error:
                    died = f"its process died {settings.retries + 1} times or could not be started"
                    fail(sweep.root, nodes[task], sweep.token, SweepError(f"{died} ({first_line(error)})"))
                    state = "failed"
                on_event(nodes[task], state)
    finally:
        ray.shutdown()


def _started(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray; pip install 'earlybird[ray]', or give --engine local") from error
    except Exception as error:  # Ray 2.56 and newer stumble over the amdsmi that zeus brings, where no ROCm is.
        raise ConfigError(
            f"Ray cannot be imported ({one_line(error)}); pip install 'earlybird[ray]' brings one that can be, or give "
            "--engine local"
        ) from error
    host, colon, port = (address or "").rpartition(":")
    try:
        if colon and port.isdecimal() and "/" not in host:  # Where nobody listens Ray would end the whole process.
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise ConfigError(
            f"--ray-address {address!r} cannot be joined ({reason(error)}); start a cluster there"
        ) from error
    try:
        ray.init(address=address or "local", include_dashboard=False if address is None else None, log_to_driver=False)
    except Exception as error:
        told = f"--ray-address {address!r} cannot be joined ({first_line(error)}); start a cluster there"
        raise ConfigError(told) from error
    return ray


def _do_node(root: str, token: str, node_id: str, before: Callable[[], Any], *needs: str) -> str:
    """Execute one node, or wait for the process that has it; Ray starts this once the tasks of `needs` have ended."""
    before()
    sweep = Sweep(Path(root), read_grid(Path(root)), token)
    node = next(node for node in sweep.nodes if node.id == node_id)
    while sweep.state(node) == "open":
        if not attempt(sweep, node):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return sweep.state(node)
