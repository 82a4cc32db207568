"""How long the schedule of a method may be so that all of it costs what Early-Bird cost.

Most of a run shrinks with its schedule; what does not (ThiNet's fine-tuning, a search that counts its draws in epochs,
the epochs that late rewinding saves) is known from the run with the full schedule. A method of the user's own is taken
to shrink as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earlybird.methods.early_bird import EarlyBirdTraining
from earlybird.methods.lottery_ticket import LotteryTicket
from earlybird.methods.thinet import ThiNet
from earlybird.runs.config import RunConfig


def training_macs(record: Mapping[str, Any]) -> int:
    """MACs of a finished run without its final evaluation, search included."""
    phases = record["cost"]["phases"]
    return int(record["cost"]["total"]["macs"]) - int(phases.get("evaluate", {}).get("macs", 0))


def epochs_at_cost(config: RunConfig, record: Mapping[str, Any], macs: int) -> int:
    """The number of epochs, at least 1, of a whole schedule whose training cost comes nearest to `macs`.

    Args:
        config: of the run with the full schedule.
        record: of that run, finished.
        macs: training MACs to come near to, search included.
    """
    fixed = fixed_macs(config, record)
    per_epoch = (training_macs(record) - fixed) / config.training.epochs
    return max(1, round((macs - fixed) / per_epoch))


def fixed_macs(config: RunConfig, record: Mapping[str, Any]) -> float:
    """The part of a run's training MACs that stays as it is when the schedule is shorter; it may be negative."""
    method, epochs, full = config.method, config.training.epochs, training_macs(record)
    phases, images = record["cost"]["phases"], record["data"]["train_images"]
    if isinstance(method, ThiNet):  # The dense training and the last one are schedules; what lies between is steps.
        return float(phases["search"]["macs"] - epochs * images * record["dense"]["train_macs"])
    if isinstance(method, LotteryTicket):  # Every training but the first is spared the epochs before the rewinding.
        trained = (1 + method.rounds) * epochs - method.rounds * method.rewind_epoch
        return -method.rounds * method.rewind_epoch * full / trained
    if isinstance(method, EarlyBirdTraining) and method.clock == "epochs" and method.draw_at != "last":
        retrained = phases.get("retrain", {})
        if retrained.get("images"):  # A ticket of the same epoch: a shorter schedule saves epochs of the slim network.
            return float(full - epochs * images * retrained["macs"] / retrained["images"])
    return 0.0
