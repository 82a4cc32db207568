"""Runs at equal cost: as long as the training cost of Early-Bird allows, search included.

What is left of the cost after the search goes into the last training (`training.budget_macs`). A ticket that Early-Bird
draws before the end of its schedule stays the ticket that it is, and so does its search. A search as long as the
schedule leaves too little: there the whole schedule is shortened first. Most of a run shrinks with its schedule; what
does not (ThiNet's fine-tuning, the epochs that late rewinding saves) follows from the method's plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from earlybird.errors import MethodError
from earlybird.methods.pipeline import plan_method
from earlybird.runs.record import recorded_schedule
from earlybird.runs.record_file import recorded_training_macs
from earlybird.settings.method import Plans, StartsFromTicket
from earlybird.settings.run import RunConfig

# A search is kept where the last training gets at least this share of what Early-Bird's got, and the last training of a
# shortened schedule is at least this share of the schedule.
LEAST_LAST_TRAINING = 0.5


@dataclass(frozen=True)
class EqualCost:
    """Schedule and budget by which a run comes to a cost.

    Attributes:
        epochs: T of its schedule.
        budget_macs: its cost, for `training.budget_macs`.
        keeps_search: it starts from the ticket of the run with the full schedule.
    """

    epochs: int
    budget_macs: int
    keeps_search: bool


def at_equal_cost(config: RunConfig, full: Mapping[str, Any], early_bird: Mapping[str, Any]) -> EqualCost:
    """Fit a run to the cost of an Early-Bird run; `config` and its record `full` are of the full schedule."""
    macs = recorded_training_macs(early_bird)
    keeps_search = _keeps_search(config, full, early_bird)
    epochs = config.training.epochs if keeps_search else _epochs_at_cost(config, full, macs)
    return EqualCost(epochs, macs, keeps_search)


def _keeps_search(config: RunConfig, full: Mapping[str, Any], early_bird: Mapping[str, Any]) -> bool:
    """True if the cost of `early_bird` leaves enough to train the ticket of `full`, drawn before the end."""
    search = config.method.shared_search() if isinstance(config.method, StartsFromTicket) else None
    if search is None or search.draw_at == "last":
        return False
    retrained, theirs = (record["cost"]["phases"].get("retrain", {}).get("macs", 0) for record in (full, early_bird))
    left = recorded_training_macs(early_bird) - (recorded_training_macs(full) - retrained)
    return bool(retrained and left > 0 and left >= LEAST_LAST_TRAINING * theirs)


def _epochs_at_cost(config: RunConfig, record: Mapping[str, Any], macs: int) -> int:
    """Number of epochs, at least 1, of a whole schedule whose training cost comes nearest to `macs`, search included.

    One that costs more takes the difference from the last training, so there may be fewer epochs where that is cheap.
    """
    per_epoch = _macs_per_epoch(config, record)
    fixed = recorded_training_macs(record) - config.training.epochs * per_epoch
    last = record["cost"]["phases"].get("retrain", {}).get("macs", 0) / config.training.epochs
    epochs = max(1, round((macs - fixed) / per_epoch))
    while epochs > 1 and macs - fixed - epochs * (per_epoch - last) < LEAST_LAST_TRAINING * epochs * last:
        epochs -= 1
    return epochs


def _macs_per_epoch(config: RunConfig, record: Mapping[str, Any]) -> float:
    """Training MACs that one epoch more of the whole schedule costs; the rest, such as ThiNet's fine-tuning, is fixed.

    A method without a plan, and a run whose record does not say its data (an older version), grows as a whole.

    Raises:
        MethodError: the cost does not depend on the schedule, by the method's plan.
    """
    epochs = config.training.epochs
    if not isinstance(config.method, Plans) or not record.get("data"):
        return recorded_training_macs(record) / epochs
    once, twice = (recorded_schedule(record, epochs=factor * epochs) for factor in (1, 2))
    planned = (plan_method(config.method, schedule).training_macs(schedule) for schedule in (twice, once))
    per_epoch = (next(planned) - next(planned)) / epochs
    if per_epoch <= 0:
        name = config.method.name
        raise MethodError(f"by its plan the cost of method {name} does not depend on --epochs; no --equal-cost for it")
    return per_epoch
