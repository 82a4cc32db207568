"""Measured training steps, as a run does them, on copies: in its loop, or with networks in turns.

Batches with augmentation, forward, backward, penalty, optimizer: what a step of a run takes, not what a network does.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.core import bn_l1_subgradient_
from earlybird.cost import ModelCost, read_clocks
from earlybird.data import Batches
from earlybird.energy import EnergyCounter
from earlybird.settings.run import TrainingSettings
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.compute import SMALLER_STEPS, Compute, explain_out_of_memory
from earlybird.training.loop import fit
from earlybird.training.session import Journal, Progress, Session
from earlybird.training.state import FitState, Hooks, Span
from earlybird.training.step import STEPS as FORMS
from earlybird.training.step import EpochSums, StepParts, make_optimizer

WARM_UP_STEPS = 2
# Turns of `step_times`, each a step of every network; the median is to be known to such a fraction.
_LEAST_TURNS, _MOST_TURNS, _ENOUGH_SECONDS, _PRECISION = 6, 12, 20.0, 0.01
_PENALTY = 1e-4
# On noise a large one might end in numbers that are none.
_SMALL_LR = 1e-4


@dataclass(frozen=True)
class Seconds:
    """Time of a piece of work: of all threads together, and by the clock; joules where a counter measured them."""

    cpu: float
    wall: float
    joules: float | None = None

    def times(self, count: float) -> Seconds:
        """The same `count` times over."""
        return Seconds(self.cpu * count, self.wall * count, None if self.joules is None else self.joules * count)

    def over(self, other: Seconds) -> tuple[float, float]:
        """Ratios of CPU and of wall seconds to another's."""
        return self.cpu / max(other.cpu, 1e-9), self.wall / max(other.wall, 1e-9)

    def __add__(self, other: Seconds) -> Seconds:
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        return Seconds(self.cpu + other.cpu, self.wall + other.wall, joules)


def step_times(
    networks: Mapping[str, nn.Module], train: Batches, settings: TrainingSettings, compute: Compute
) -> dict[str, Seconds]:
    """Time of a training step of each network, step by step in turns; copies are trained, each on the same batches.

    Of the first its median; of each other that times the median of its ratios to the first, turn by turn, so that what
    else the machine does falls on both. Turns end when the standard error of every median, estimated from the median
    deviation, is below 1 %, after 12 turns, or after 20 seconds.

    Args:
        networks: name -> network, placed on the device.
        train: batches of the run.
    """
    is_cpu, turns, end = compute.device.type == "cpu", list[list[Seconds]](), math.inf
    explained = explain_out_of_memory("in a measurement of training steps", SMALLER_STEPS)
    with torch.random.fork_rng(), compute.float32_rules(), explained:
        steps = [_timed_steps(copied(model), train, settings, compute) for model in networks.values()]
        for number in range(WARM_UP_STEPS + _MOST_TURNS):
            turn = [next(each) for each in steps]
            end = time.monotonic() + _ENOUGH_SECONDS if number == 0 else end
            if number >= WARM_UP_STEPS:
                turns.append(turn)
            if len(turns) >= _LEAST_TURNS and (time.monotonic() > end or _are_precise(turns, is_cpu)):
                break
        for each in steps:
            each.close()
    first = median_seconds([turn[0] for turn in turns])
    ratios = [[turn[place].over(turn[0]) for turn in turns] for place in range(len(steps))]
    medians = [Seconds(*(statistics.median(values) for values in zip(*each, strict=True))) for each in ratios]
    found = [Seconds(first.cpu * median.cpu, first.wall * median.wall) for median in medians]
    return dict(zip(networks, found, strict=True))


def _are_precise(turns: Sequence[Sequence[Seconds]], is_cpu: bool) -> bool:
    """True if the median of the first network's seconds, or each other's ratio to them, is known to 1 %."""
    if len(turns[0]) == 1:
        return _is_precise([turn[0].cpu if is_cpu else turn[0].wall for turn in turns])
    ratios = [[turn[place].over(turn[0])[0 if is_cpu else 1] for turn in turns] for place in range(1, len(turns[0]))]
    return all(map(_is_precise, ratios))


def _is_precise(values: Sequence[float]) -> bool:
    middle = statistics.median(values)
    # Of a normal distribution: standard deviation = 1.48 median deviations, error of the median = 1.25 of the mean's.
    deviation = 1.48 * statistics.median(abs(value - middle) for value in values)
    return 1.25 * deviation / math.sqrt(len(values)) <= _PRECISION * middle


def _timed_steps(
    model: nn.Module, train: Batches, settings: TrainingSettings, compute: Compute
) -> Generator[Seconds, None, None]:
    """Time of one step after the other, each on a full batch, the making of that batch included."""
    full = min(train.batch_size, train.num_samples)
    optimizer, sums = make_optimizer(model, settings, compute.step), EpochSums(compute.device)
    parts = StepParts(model.train(), optimizer, _Penalised(), sums, settings, compute, "train", full)
    batches = chain.from_iterable(train.epoch(epoch) for epoch in count())
    with closing(FORMS[compute.step](parts)) as step:
        for number in count(1):  # From 1: at 0 a GPU would look at the loss.
            wall, cpu = read_clocks(compute.device)
            x, y = next(batches)
            if len(y) < full:
                wall, cpu = read_clocks(compute.device)
                x, y = next(batches)
            step(x, y, number, _SMALL_LR)
            ended = read_clocks(compute.device)
            yield Seconds(cpu=ended[1] - cpu, wall=ended[0] - wall)


class _Penalised(Hooks):
    """Penalises as a search does."""

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """The subgradient, which costs next to nothing."""
        bn_l1_subgradient_(model, _PENALTY)


class StepTimer(_Penalised):
    """Penalises as a search does, reads the clocks after every step, and ends the phase after enough, or past `end`."""

    def __init__(self, steps: int, end: float, counter: EnergyCounter) -> None:
        self.steps, self.end, self.counter = steps, end, counter  # `end` by `time.monotonic`
        self.clocks: list[tuple[float, float]] = []  # at the start, and after each step
        self.joules: float | None = None

    def at_start(self, state: FitState) -> bool:
        """Note when the first step began."""
        self.clocks.append(read_clocks(state.session.compute.device))
        return False

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
    settings = replace(settings, lr=_SMALL_LR, epochs=epochs, checkpoint_every=0, low_resolution=0.0)
    progress = Progress(train.steps_per_epoch, epochs, quiet=True)
    return Session(train, None, settings, compute, Checkpoints(folder), Journal(), progress)
