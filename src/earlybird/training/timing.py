"""Measured training steps: those of the real training loop, on copies, with networks in turns.

Batches with augmentation, forward, backward, penalty, optimizer: what a step of a run takes, not what a network does.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.core import bn_l1_subgradient_
from earlybird.cost import ModelCost, read_clocks
from earlybird.data import Batches
from earlybird.energy import EnergyCounter, NoCounter
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import Compute
from earlybird.training.loop import fit
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import FitState, Hooks, Span

WARM_UP_STEPS = 2
# Steps of a turn, and turns of each network.
STEPS, TURNS = 4, 3
_PENALTY = 1e-4


@dataclass(frozen=True)
class Seconds:
    """Time of a piece of work: of all threads together, and by the clock; joules where a counter measured them."""

    cpu: float
    wall: float
    joules: float | None = None

    def times(self, count: float) -> Seconds:
        """The same `count` times over."""
        return Seconds(self.cpu * count, self.wall * count, None if self.joules is None else self.joules * count)

    def __add__(self, other: Seconds) -> Seconds:
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        return Seconds(self.cpu + other.cpu, self.wall + other.wall, joules)


def step_times(
    networks: Mapping[str, nn.Module], train: Batches, settings: TrainingSettings, compute: Compute
) -> dict[str, Seconds]:
    """Median time of a training step of each network, which take turns; copies are trained.

    Args:
        networks: name -> network, placed on the device.
        train: batches of the run.
    """
    measured: dict[str, list[Seconds]] = {name: [] for name in networks}
    counter = NoCounter("none was asked for")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        session = timing_session(train, settings, compute, Path(folder), STEPS)
        models = {name: copied(model) for name, model in networks.items()}
        for _ in range(TURNS):
            for name, model in models.items():
                measured[name] += timed_steps(session, model, STEPS, math.inf, counter)
    return {name: median_seconds(pieces) for name, pieces in measured.items()}


class StepTimer(Hooks):
    """Penalises as a search does, reads the clocks after every step, and ends the phase after enough, or past `end`."""

    def __init__(self, steps: int, end: float, counter: EnergyCounter) -> None:
        self.steps, self.end, self.counter = steps, end, counter  # `end` by `time.monotonic`
        self.clocks: list[tuple[float, float]] = []  # at the start, and after each step
        self.joules: float | None = None

    def at_start(self, state: FitState) -> bool:
        """Note when the first step began."""
        self.clocks.append(read_clocks(state.session.compute.device))
        return False

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """The subgradient, which costs next to nothing."""
        bn_l1_subgradient_(model, _PENALTY)

    def after_step(self, state: FitState) -> bool:
        """Note when the step ended."""
        self.clocks.append(read_clocks(state.session.compute.device))
        done = len(self.clocks) - 1
        if done == WARM_UP_STEPS:
            self.counter.start()
        if done < WARM_UP_STEPS + self.steps and time.monotonic() < self.end:
            return False
        if done >= WARM_UP_STEPS:
            joules = self.counter.take() if done > WARM_UP_STEPS else None
            self.joules = None if self.counter.others else joules  # On a shared card they are not of these steps alone.
            self.counter.stop()
        return True


def timed_steps(session: Session, model: nn.Module, steps: int, end: float, counter: EnergyCounter) -> list[Seconds]:
    """Time of each of so many steps after the warm-up, fewer where `end` (by `time.monotonic`) comes first."""
    timer = StepTimer(steps, end, counter)
    # What the steps cost is known; here it is asked for nothing.
    fit(session, model, Span("train", 0, session.total_steps), ModelCost(0, 0, 0, 0.0), hooks=timer)
    clocks = timer.clocks[min(WARM_UP_STEPS, len(timer.clocks) - 2) :]  # Where steps are dear, the first counts.
    joules, measured = None if timer.joules is None else timer.joules / (len(clocks) - 1), pairwise(clocks)
    return [Seconds(cpu=b[1] - a[1], wall=b[0] - a[0], joules=joules) for a, b in measured]


def median_seconds(pieces: Sequence[Seconds]) -> Seconds:
    """Median time of pieces of work; of joules the mean."""
    joules = [piece.joules for piece in pieces if piece.joules is not None]
    return Seconds(
        cpu=statistics.median(piece.cpu for piece in pieces),
        wall=statistics.median(piece.wall for piece in pieces),
        joules=statistics.fmean(joules) if joules else None,
    )


def timing_session(train: Batches, settings: TrainingSettings, compute: Compute, folder: Path, steps: int) -> Session:
    """A session of a few steps of these batches, of whole images, which leaves its checkpoints in `folder`."""
    epochs = math.ceil((WARM_UP_STEPS + steps) / train.steps_per_epoch)
    # Small steps: on noise large ones might end in numbers that are none.
    settings = replace(settings, lr=1e-4, epochs=epochs, checkpoint_every=0, low_resolution=0.0)
    progress = Progress(train.steps_per_epoch, epochs, quiet=True)
    return Session(train, None, settings, compute, Checkpoints(folder), Journal(), progress)
