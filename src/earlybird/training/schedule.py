"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from earlybird.training.settings import TrainingSettings


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
        return settings.lr * (step + 1) / math.ceil(settings.warmup * total_steps)
    if settings.schedule == "step":
        drops = sum(done >= milestone for milestone in settings.milestones)
        return float(
            f"{settings.lr * settings.lr_decay**drops:.12g}"
        )  # 0.1 * 0.1 prints as 0.01, not 0.010000000000000002
    if settings.schedule == "cosine":
        after = (done - settings.warmup) / (1.0 - settings.warmup)
        return settings.lr * 0.5 * (1.0 + math.cos(math.pi * after))
    return settings.lr


def drop_steps(total_steps: int, settings: TrainingSettings) -> list[int]:
    """The steps at which "step" lowers the learning rate; empty for the other schedules."""
    if settings.schedule != "step":
        return []
    return [math.ceil(milestone * total_steps) for milestone in settings.milestones]
