"""How a run is made to cost what Early-Bird cost, search included.

What is left of the cost after the search goes into the last training (`training.budget_macs`). A ticket that Early-Bird
draws before the end of its schedule stays the ticket that it is, and so does its search. A search as long as the
schedule leaves too little: there the whole schedule is shortened first. Most of a run shrinks with its schedule; what
does not (ThiNet's fine-tuning, the epochs that late rewinding saves) is known from the run with the full one. A method
of the user's own is taken to shrink as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from earlybird.runs.config import RunConfig
from earlybird.runs.record_file import recorded_training_macs
from earlybird.settings.lottery_ticket import LotteryTicket
from earlybird.settings.method import StartsFromTicket
from earlybird.settings.thinet import ThiNet

# A search is kept where the last training gets at least this share of what Early-Bird's got, and the last training of a
# shortened schedule is at least this share of the schedule.
LEAST_LAST_TRAINING = 0.5


@dataclass(frozen=True)
class EqualCost:
    """How a run comes to a cost.

    Attributes:
        epochs: T of its schedule.
        budget_macs: its cost, for `training.budget_macs`.
        keeps_search: it starts from the ticket of the run with the full schedule.
    """

    epochs: int
    budget_macs: int
    keeps_search: bool


def at_equal_cost(config: RunConfig, full: Mapping[str, Any], early_bird: Mapping[str, Any]) -> EqualCost:
    """How a run comes to the training cost of an Early-Bird run.

    Args:
        config: of the run with the full schedule.
        full: its record.
        early_bird: the record of the run whose cost it is to have.
    """
    macs = recorded_training_macs(early_bird)
    if keeps_search(config, full, early_bird):
        return EqualCost(config.training.epochs, macs, keeps_search=True)
    return EqualCost(epochs_at_cost(config, full, macs), macs, keeps_search=False)


def keeps_search(config: RunConfig, full: Mapping[str, Any], early_bird: Mapping[str, Any]) -> bool:
    """Does the cost of `early_bird` leave enough for the ticket of `full`, drawn before the end, to be trained?"""
    search = config.method.shared_search() if isinstance(config.method, StartsFromTicket) else None
    if search is None or search.draw_at == "last":
        return False
    retrained, theirs = (record["cost"]["phases"].get("retrain", {}).get("macs", 0) for record in (full, early_bird))
    left = recorded_training_macs(early_bird) - (recorded_training_macs(full) - retrained)
    return bool(retrained and left > 0 and left >= LEAST_LAST_TRAINING * theirs)


def epochs_at_cost(config: RunConfig, record: Mapping[str, Any], macs: int) -> int:
    """The number of epochs, at least 1, of a whole schedule whose training cost comes nearest to `macs`.

    One that costs more takes the difference from the last training, so there may be fewer epochs where that is cheap.

    Args:
        config: of the run with the full schedule.
        record: of that run, finished.
        macs: training MACs to come near to, search included.
    """
    fixed = fixed_macs(config, record)
    per_epoch = (recorded_training_macs(record) - fixed) / config.training.epochs
    last = record["cost"]["phases"].get("retrain", {}).get("macs", 0) / config.training.epochs
    epochs = max(1, round((macs - fixed) / per_epoch))
    while epochs > 1 and macs - fixed - epochs * (per_epoch - last) < LEAST_LAST_TRAINING * epochs * last:
        epochs -= 1
    return epochs


def fixed_macs(config: RunConfig, record: Mapping[str, Any]) -> float:
    """The part of a run's training MACs that stays as it is when the schedule is shorter; it may be negative."""
    method, epochs, full = config.method, config.training.epochs, recorded_training_macs(record)
    phases, images = record["cost"]["phases"], record["data"]["train_images"]
    if isinstance(method, ThiNet):  # The dense training and the last one are schedules; what lies between is steps.
        return float(phases["search"]["macs"] - epochs * images * record["dense"]["train_macs"])
    if isinstance(method, LotteryTicket):  # Every training but the first is spared the epochs before the rewinding.
        trained = (1 + method.rounds) * epochs - method.rounds * method.rewind_epoch
        return -method.rounds * method.rewind_epoch * full / trained
    return 0.0
