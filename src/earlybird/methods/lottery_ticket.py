"""`lottery_ticket`: train, keep the largest weights, set them back to where they started, train them alone.

Frankle & Carbin 2019; with `rewind_epoch` the weights and schedule of an early epoch (Frankle et al. 2020). Each round
removes the same share of what is left. Single weights are masked: the shape stays, so every training costs a dense one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from earlybird.core import WeightMask, keep_largest, prunable_weights
from earlybird.cost import MASKED, MethodPlan, Schedule, Stage
from earlybird.errors import require
from earlybird.methods.hooks import HoldHooks, keep_weights_of_epoch
from earlybird.methods.retrain import REINIT_SEED_OFFSET, WEIGHT_MASK_FILE, load_weights_of_epoch_, weight_candidate
from earlybird.methods.task import Candidate, DenseRun, Task
from earlybird.settings.catalog import LotteryTicket
from earlybird.training.checkpoint import whole_number
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Span


def check_network(method: LotteryTicket, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are weights to remove."""
    prunable_weights(model)


def search(method: LotteryTicket, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train and prune, round by round, each from the weights that the last training will start from."""
    _check_rewind(method, task.session.settings.epochs)
    train_rounds(method, task, resume, first_round=0)
    return restore(method, task)


def restore(method: LotteryTicket, task: Task) -> Candidate:
    """Rebuild the candidate from the weight mask in the run folder: the start weights, the mask held."""
    start = method.rewind_epoch * task.session.steps_per_epoch
    return weight_candidate(task, _start_weights(method, task), start_step=start)


def from_dense(method: LotteryTicket, task: Task, dense: DenseRun) -> Candidate:
    """Candidate, with the first training taken from a finished dense run and charged."""
    _prune(method, task, dense.take_over(task), None, 0)
    train_rounds(method, task, None, first_round=1)
    return restore(method, task)


def plan(method: LotteryTicket, schedule: Schedule) -> MethodPlan:
    """One dense training a round and one more; all but the first are spared the epochs before the rewinding."""
    _check_rewind(method, -(-schedule.total_steps // schedule.data.steps_per_epoch))
    total, start = schedule.total_steps, schedule.data.steps(method.rewind_epoch)
    rounds = (Stage("search", "dense", total, start if number else 0) for number in range(method.rounds))
    return MethodPlan((*rounds, Stage("retrain", "dense", total, start)), "dense", note=MASKED)


def _check_rewind(method: LotteryTicket, epochs: int) -> None:
    require("method.rewind_epoch", method.rewind_epoch, method.rewind_epoch < epochs, f"an integer in [0, {epochs})")


def train_rounds(method: LotteryTicket, task: Task, resume: dict[str, Any] | None, *, first_round: int) -> None:
    """Train and prune from `first_round` (or the checkpoint's) on, until the last mask lies in the folder."""
    session = task.session
    begun = first_round if resume is None else whole_number(resume, "round", first_round, method.rounds - 1)
    for number in range(begun, method.rounds):
        start = method.rewind_epoch * session.steps_per_epoch if number else 0
        model = task.build() if number == 0 else _start_weights(method, task)
        mask = None if number == 0 else WeightMask.load(_mask_file(task.folder, number))[0]
        hooks = _RoundHooks(model, mask, task.folder, method.rewind_epoch if number == 0 else 0)
        span = Span("search", start, session.total_steps)
        fit(session, model, span, task.cost(model), hooks=hooks, carry={"round": number}, resume=resume)
        resume = None
        _prune(method, task, model, mask, number)


def round_ratio(prune_ratio: float, number: int, rounds: int) -> float:
    """Fraction removed after round `number` (0-based) of `rounds`: each keeps the same share of what is left.

    Example:
        >>> [round(round_ratio(0.75, number, 2), 3) for number in (0, 1)]
        [0.5, 0.75]
    """
    # The last exactly as asked for, whatever powers round to.
    return prune_ratio if number + 1 == rounds else 1.0 - (1.0 - prune_ratio) ** ((number + 1) / rounds)


def _prune(method: LotteryTicket, task: Task, trained: nn.Module, within: WeightMask | None, number: int) -> None:
    scores = {name: weight.detach().abs() for name, weight in prunable_weights(trained).items()}
    mask = keep_largest(scores, round_ratio(method.prune_ratio, number, method.rounds), within)
    is_last = number + 1 == method.rounds
    path = task.folder / WEIGHT_MASK_FILE if is_last else _mask_file(task.folder, number + 1)
    mask.save(path, prune_ratio=method.prune_ratio, step=task.session.total_steps)


def _start_weights(method: LotteryTicket, task: Task) -> nn.Module:
    """The dense network with the weights that every training after the first starts from."""
    if method.weights == "reinit":
        return task.build(task.seed + REINIT_SEED_OFFSET)
    model = task.build()
    if method.rewind_epoch:
        load_weights_of_epoch_(task, model, method.rewind_epoch, "run the search again")
    return model


def _mask_file(folder: Path, number: int) -> Path:
    """File of the mask that round `number` trains with; the last training's is `WEIGHT_MASK_FILE`."""
    return folder / f"weight-mask-round{number}.safetensors"


class _RoundHooks(HoldHooks):
    """Holds the round's mask, and keeps the weights of the epoch to rewind to."""

    def __init__(self, model: nn.Module, mask: WeightMask | None, folder: Path, rewind_epoch: int) -> None:
        super().__init__(model, mask=mask)
        self._folder, self._rewind_epoch = folder, rewind_epoch

    def after_step(self, state: FitState) -> bool:
        """Keep the weights when the epoch comes."""
        keep_weights_of_epoch(state, self._folder, self._rewind_epoch)
        return super().after_step(state)
