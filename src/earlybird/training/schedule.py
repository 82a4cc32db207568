"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math

from earlybird.settings.run import TrainingSettings


def learning_rate(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of optimizer step `step` (0-based) of `total_steps`.

    "step" multiplies by `lr_decay` once the completed fraction reaches each milestone: with T = 160 and (0.5, 0.75) the
    drops come with epochs 80 and 120, the paper's [80, 120]. "cosine" falls to zero over the steps after the warm-up.

    Example:
        >>> learning_rate(50, 100, TrainingSettings(lr=0.1))
        0.01
    """
    done = step / total_steps
    if settings.warmup and done < settings.warmup:
        return settings.lr * (step + 1) / _first_step_at(settings.warmup, total_steps)
    if settings.schedule == "step":
        drops = sum(done >= milestone for milestone in settings.milestones)
        # 0.1 * 0.1 is to print as 0.01, not as 0.010000000000000002.
        return float(f"{settings.lr * settings.lr_decay**drops:.12g}")
    if settings.schedule == "cosine":
        after = (done - settings.warmup) / (1.0 - settings.warmup)
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * after))
    return settings.lr


def drop_steps(total_steps: int, settings: TrainingSettings) -> list[int]:
    """The steps at which "step" lowers the learning rate; empty for the other schedules."""
    if settings.schedule != "step":
        return []
    return [_first_step_at(milestone, total_steps) for milestone in settings.milestones]


def _first_step_at(fraction: float, total_steps: int) -> int:
    """The first step that has completed this fraction: 0.55 of 100 is step 55, though 0.55 * 100 is a bit above it."""
    step = math.ceil(fraction * total_steps)
    return step - 1 if (step - 1) / total_steps >= fraction else step
