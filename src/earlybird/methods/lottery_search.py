"""The trainings and prunings of a lottery ticket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from earlybird.core import WeightMask, keep_largest, prunable_weights
from earlybird.methods.candidate import Candidate
from earlybird.methods.cut import REINIT_SEED_OFFSET, weights_of_epoch
from earlybird.methods.last_training import HoldHooks
from earlybird.methods.lottery_ticket import LotteryTicket
from earlybird.methods.search_hooks import keep_weights_of_epoch
from earlybird.methods.task import Task
from earlybird.methods.trained import TrainedDense
from earlybird.methods.weight_candidate import WEIGHT_MASK_FILE, weight_candidate
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Span


def train_rounds(method: LotteryTicket, task: Task, resume: dict[str, Any] | None, *, first_round: int) -> None:
    """Train and prune from `first_round` (or the checkpoint's) on, until the last mask lies in the folder."""
    session = task.session
    for number in range(first_round if resume is None else resume["round"], method.rounds):
        start = method.rewind_epoch * session.steps_per_epoch if number else 0
        model = task.build() if number == 0 else _start_weights(method, task)
        mask = None if number == 0 else WeightMask.load(_mask_file(task.folder, number))[0]
        hooks = _RoundHooks(model, mask, task.folder, method.rewind_epoch if number == 0 else 0)
        span = Span("search", start, session.total_steps)
        fit(session, model, span, task.cost(model), hooks=hooks, carry={"round": number}, resume=resume)
        resume = None
        _prune(method, task, prunable_weights(model), mask, number)


def prune_dense(method: LotteryTicket, task: Task, trained: TrainedDense) -> None:
    """The first round's pruning, its training taken from a finished dense run and charged."""
    model = trained.load_into(task.build())
    task.session.journal.load_state_dict(dict(trained.journal))
    _prune(method, task, prunable_weights(model), None, 0)


def candidate_of_rounds(method: LotteryTicket, task: Task) -> Candidate:
    """The ticket's weights at the start of its last training, its mask held."""
    start = method.rewind_epoch * task.session.steps_per_epoch
    return weight_candidate(task, _start_weights(method, task), start_step=start)


def round_ratio(prune_ratio: float, number: int, rounds: int) -> float:
    """Fraction removed after round `number` (0-based) of `rounds`: each keeps the same share of what is left.

    Example:
        >>> [round(round_ratio(0.75, number, 2), 3) for number in (0, 1)]
        [0.5, 0.75]
    """
    # The last exactly as asked for, whatever powers round to.
    return prune_ratio if number + 1 == rounds else 1.0 - (1.0 - prune_ratio) ** ((number + 1) / rounds)


def _prune(
    method: LotteryTicket, task: Task, weights: dict[str, nn.Parameter], within: WeightMask | None, number: int
) -> None:
    scores: dict[str, Tensor] = {name: weight.detach().abs() for name, weight in weights.items()}
    mask = keep_largest(scores, round_ratio(method.prune_ratio, number, method.rounds), within)
    is_last = number + 1 == method.rounds
    path = task.folder / WEIGHT_MASK_FILE if is_last else _mask_file(task.folder, number + 1)
    task.folder.mkdir(parents=True, exist_ok=True)
    mask.save(path, prune_ratio=method.prune_ratio, step=task.session.total_steps)


def _start_weights(method: LotteryTicket, task: Task) -> nn.Module:
    """The dense network with the weights that every training after the first starts from."""
    if method.weights == "reinit":
        return task.build(task.seed + REINIT_SEED_OFFSET)
    model = task.build()
    if method.rewind_epoch:
        model.load_state_dict(weights_of_epoch(task, method.rewind_epoch, "run the search again"))
    return model


def _mask_file(folder: Path, number: int) -> Path:
    """Where the mask that round `number` trains with lies; the last training's is `WEIGHT_MASK_FILE`."""
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
