"""Training steps on one fixed batch, timed in turns, and slim networks by random scales, for the scripts beside this.

A `Trial` is the step of a run (`earlybird.training.step`) without its loop: no data, no augmentation, no checkpoints.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from earlybird import bn_scale, channel_groups, draw_mask, slim
from earlybird.copying import copied
from earlybird.cost import read_clocks
from earlybird.energy import EnergyCounter
from earlybird.settings.run import StepKind, TrainingSettings
from earlybird.training.compute import Compute
from earlybird.training.state import Hooks
from earlybird.training.step import STEPS, EpochSums, StepParts, make_optimizer


class TooLong(Exception):
    """What was to be done took longer than it may."""


@contextmanager
def raises_after(seconds: float) -> Iterator[None]:
    """Raise `TooLong` in the block once so many seconds are over, and again each second until it has left."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def draw_scales_(model: nn.Module) -> None:
    """Give the BatchNorms scales that are uniform in [0.1, 1], the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.1, 1.0, generator=generator)


def slim_networks(
    dense: nn.Module, ratio: float, multiples: Mapping[str, int], shape: Sequence[int]
) -> dict[str, nn.Module]:
    """Slim networks by name, cut by the scales of `dense` to widths in the multiple given; `shape` is (c, h, w)."""
    example = torch.zeros(2, *shape)
    groups = channel_groups(dense, example)
    masks = {name: draw_mask(bn_scale(dense), ratio, groups, round_to=m) for name, m in multiples.items()}
    return {name: slim(dense, mask, example, groups, check=False) for name, mask in masks.items()}


class Trial:
    """The step of a copy of a network, in the form of `compute`, on one batch.

    Args:
        x, y: images `[n, c, h, w]` and labels, on the device.
        hooks: made of the copy, for a step that changes gradients.
        optimizer_of: the form whose optimizer it has; by default its own.
    """

    def __init__(
        self, network: nn.Module, compute: Compute, settings: TrainingSettings, x: Tensor, y: Tensor,
        hooks: Callable[[nn.Module], Hooks] | None = None, optimizer_of: StepKind | None = None,
    ) -> None:  # fmt: skip
        self.compute, self.lr, self.number = compute, settings.lr, 0
        self.x, self.y = x.contiguous(memory_format=compute.memory_format), y
        self.model = compute.place(copied(network)).train()
        optimizer = make_optimizer(self.model, settings, optimizer_of or compute.step)
        made = hooks(self.model) if hooks else Hooks()
        parts = StepParts(self.model, optimizer, made, EpochSums(x.device), settings, compute, "trial", len(y))
        self.step = STEPS[compute.step](parts)

    def run(self, steps: int) -> None:
        """Train for so many steps; a GPU may not be done with them yet."""
        with self.compute.float32_rules():
            for _ in range(steps):
                self.number += 1  # From 1: at 0 the loss would be looked at, and noise may have any.
                self.step(self.x, self.y, self.number, self.lr)

    def seconds(self, steps: int) -> float:
        """Wall seconds of a step, the mean of so many."""
        start, _ = read_clocks(self.x.device)
        self.run(steps)
        return (read_clocks(self.x.device)[0] - start) / steps

    def prepare(self, seconds: float) -> float:
        """Take the first step, which captures or compiles, and two more; seconds of the first.

        Raises:
            TooLong: it took longer than `seconds`.
            RuntimeError: the step runs in another form; why.
        """
        with warnings.catch_warnings(record=True) as told, raises_after(seconds):
            warnings.simplefilter("always")
            first = self.seconds(1)
            self.run(2)
        if self.step.kind != self.compute.step:
            raise RuntimeError(str(told[-1].message) if told else f"it runs {self.step.kind}")
        return first


@dataclass(frozen=True)
class Block:
    """Some steps of a trial: wall seconds of one, joules of one where they were measured, others on the GPU."""

    seconds: float
    joules: float | None
    others: int | None


def blocks_in_turns(
    trials: Mapping[str, Trial], rounds: int, seconds: float, counter: EnergyCounter, end: float = math.inf
) -> dict[str, list[Block]]:
    """Blocks of about so many seconds of every trial, round by round, so that what else happens falls on all alike.

    Each round begins with another trial. At least one round; no other is begun after `end` (by `time.monotonic`).
    """
    blocks: dict[str, list[Block]] = {name: [] for name in trials}
    steps = {name: max(1, round(seconds / trial.seconds(1))) for name, trial in trials.items()}
    for turn in range(rounds):
        if turn and time.monotonic() > end:
            break
        names = list(trials)
        for name in names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]:
            blocks[name].append(_block(trials[name], steps[name], counter))
    return blocks


def _block(trial: Trial, steps: int, counter: EnergyCounter) -> Block:
    read_clocks(trial.x.device)  # What was queued before is none of its joules.
    counter.start()
    seconds = trial.seconds(steps)
    joules = counter.take()
    others = counter.others
    counter.stop()
    return Block(seconds, None if joules is None else joules / steps, others)


def median_block(blocks: Sequence[Block]) -> Block:
    """Median seconds, mean joules of the blocks that have some, most others."""
    joules = [block.joules for block in blocks if block.joules is not None]
    others = [block.others for block in blocks if block.others is not None]
    return Block(
        statistics.median(block.seconds for block in blocks),
        statistics.fmean(joules) if joules else None,
        max(others) if others else None,
    )


def peak_bytes(trial: Trial, before: int) -> int:
    """Most bytes of tensors alive at once in a step, its network, batch and optimizer included.

    On a GPU beyond `before`, what was allocated when there was no trial yet; on a CPU by the allocator's events.
    """
    trial.run(1)  # which makes the momentum
    if trial.x.device.type == "cuda":
        torch.cuda.synchronize(trial.x.device)
        torch.cuda.reset_peak_memory_stats(trial.x.device)
        trial.run(1)
        torch.cuda.synchronize(trial.x.device)
        return torch.cuda.max_memory_allocated(trial.x.device) - before
    optimizer = trial.step.parts.optimizer
    momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
    optimizer.zero_grad(set_to_none=True)  # so that what is alive before the step is known
    held = [*trial.model.parameters(), *trial.model.buffers(), *momentum, trial.x, trial.y]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trial.run(1)
    return sum(tensor.nbytes for tensor in held) + allocated_at_once(profiler)


def allocated_at_once(profiler: profile) -> int:
    """Most bytes that were allocated at once beyond those before, from the allocator's events in order of time."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
