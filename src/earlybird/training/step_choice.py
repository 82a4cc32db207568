"""Which form a run's step takes, and which layout on a GPU: `choose_step`, settled once by measuring."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.copying import copied
from earlybird.cost import read_clocks
from earlybird.errors import require
from earlybird.settings.run import StepKind, TrainingSettings
from earlybird.training.compute import SMALLER_STEPS, Compute, Layout, explain_out_of_memory
from earlybird.training.graphs import graphs_of
from earlybird.training.state import Hooks
from earlybird.training.step import STEPS, EpochSums, StepParts, make_optimizer

_LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels_last")
_ROUNDS, _STEPS = 3, 10
# Slow steps are told apart by one round.
_SECONDS = 5.0


def choose_step(settings: TrainingSettings, model: nn.Module, shape: Sequence[int], compute: Compute) -> Compute:
    """`compute` with the form that `settings.step` asks for and, on a GPU, the layout that is measured to be faster.

    On a CPU "auto" is eager and the layout is known. On a GPU the dense network's step is timed in both layouts, and
    for "auto" eager and captured.

    Args:
        model: the dense network; it is not changed.
        shape: (n, c, h, w) of a batch like those of the run.

    Raises:
        ConfigError: "captured" is asked for and the step cannot be: the device is a CPU, or the network waits for it.

    Warns:
        UserWarning: for "auto" the step cannot be captured; why.
    """
    if settings.step == "captured":
        graphs_of(compute.device)  # which refuses a CPU
    if compute.device.type == "cpu":
        return replace(compute, step="eager" if settings.step == "auto" else settings.step, layout="channels_last")
    kinds: tuple[StepKind, ...] = ("eager",)  # The compiler takes minutes; its layout is that of the eager step.
    if settings.step in ("auto", "captured"):
        kinds = ("eager", "captured") if settings.step == "auto" else ("captured",)
    batch = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(compute.device)
    candidates = [replace(compute, step=kind, layout=layout) for kind, layout in product(kinds, _LAYOUTS)]
    best = fastest(candidates, settings, model, batch)
    return replace(best, step="compiled") if settings.step == "compiled" else best


def fastest(candidates: Sequence[Compute], settings: TrainingSettings, model: nn.Module, batch: Tensor) -> Compute:
    """The candidate whose training step takes the fewest seconds, of those that run as they are meant to.

    Args:
        batch: images `[n, c, h, w]` on the device.

    Raises:
        ConfigError: "captured" is asked for and the step cannot be.
        OutOfMemoryError: a step found too little memory.
    """
    with explain_out_of_memory("in a trial of the training step", SMALLER_STEPS):
        seconds = [_step_seconds(candidate, settings, model, batch) for candidate in candidates]
    return candidates[seconds.index(min(seconds))]


def resolved_compute(compute: Compute, resolved: Mapping[str, Any]) -> Compute:
    """`compute` with the step and layout that an earlier start resolved; those of older versions ran eager.

    Raises:
        ConfigError: what it resolved is none of these.
    """
    step, layout = resolved.get("step", "eager"), resolved.get("layout")
    require("resolved.step", step, step in STEPS, "eager, captured or compiled")
    require("resolved.layout", layout, layout in (None, *_LAYOUTS), "contiguous or channels_last")
    return replace(compute, step=step, layout=layout)


def _step_seconds(compute: Compute, settings: TrainingSettings, model: nn.Module, batch: Tensor) -> float:
    """Least mean seconds of a round of steps of a copy, after one that warms up; infinite where they ran otherwise."""
    x = batch.contiguous(memory_format=compute.memory_format)
    y = torch.zeros(len(batch), dtype=torch.int64, device=compute.device)
    network = compute.place(copied(model)).train()
    optimizer, sums = make_optimizer(network, settings, compute.step), EpochSums(compute.device)
    parts = StepParts(network, optimizer, Hooks(), sums, settings, compute, "trial", len(batch))
    best, end = math.inf, time.monotonic() + _SECONDS
    with compute.float32_rules(), closing(STEPS[compute.step](parts)) as step:
        for round_number in range(1 + _ROUNDS):
            start, _ = read_clocks(compute.device)
            for number in range(1, 1 + _STEPS):  # From 1: at 0 the loss would be looked at, and noise may have any.
                step(x, y, number, settings.lr)
            took = (read_clocks(compute.device)[0] - start) / _STEPS
            if step.kind != compute.step:
                return math.inf
            best = min(best, took) if round_number else best
            if round_number and time.monotonic() > end:
                break
    return best
