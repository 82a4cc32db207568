"""`wide_start`: a short dense training, a cut to a step time, and the rest of a budget for what is left.

The cut chooses widths by the seconds that they take, not by a prune ratio: it is drawn, measured in turns with the
dense network, and drawn again until the step time is the one asked for. One cut, or several milder ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from earlybird.atomic import write_atomically
from earlybird.core import BNSaliency, ChannelMask, Ticket, bn_scale
from earlybird.core.drawing import Ranking, realised_ratio
from earlybird.cost import (
    MethodPlan,
    ModelCost,
    Schedule,
    Stage,
    Work,
    count_cost,
    count_cost_and_traffic,
    steps_that_train,
)
from earlybird.errors import MethodError
from earlybird.methods.budget import step_ratio, stretch
from earlybird.methods.draw_moment import DrawMoment
from earlybird.methods.early_bird import refuse_nothing_to_cut
from earlybird.methods.hooks import momentum_file
from earlybird.methods.retrain import Retrain, cut, leave_ticket
from earlybird.methods.task import Candidate, Task
from earlybird.methods.widths import NEAR, Widths, layer_table
from earlybird.settings.budget import Budget, parse_budget
from earlybird.settings.catalog import WideStart
from earlybird.settings.method import TICKET_FILE, EarlyBirdTraining, settled
from earlybird.slimming import channel_groups, expanded, kept_indices
from earlybird.training.checkpoint import changed_checkpoint, whole_number
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Hooks, Span

# In checkpoints of the search: the number of the cut that they come before.
_CUT_KEY = "cut"
_NO_BUDGET = "method wide_start spends a budget and was given none; add --budget time=0.5"


def check_network(method: WideStart, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are channels to cut and scores to rank them by."""
    refuse_nothing_to_cut(method.criterion, model, channel_groups(model, example_input, method.policy))


def search(method: WideStart, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train to each cut and make it.

    Raises:
        MethodError: the run has no budget, or one in MACs with an allocation by seconds.
    """
    cuts = _cuts(method, task)
    if method.allocation == "time" and _budget(task).kind == "macs":
        told = "method.allocation 'time' spends seconds, and the budget is in MACs"
        raise MethodError(f"{told}; give --budget time=0.5, or --method.allocation uniform")
    begun = 0 if resume is None else whole_number(resume, _CUT_KEY, 0, len(cuts) - 1)
    for number in range(begun, len(cuts)):
        _train_to_cut(method, task, number, resume if number == begun else None)
    return restore(method, task)


def restore(method: WideStart, task: Task) -> Candidate:
    """Rebuild the candidate from the ticket of the last cut in the run folder."""
    cuts, goes_on = _cuts(method, task), method.resolved_schedule == "continue"
    carries = goes_on and method.weights == "inherit"
    retrain = Retrain(method.weights, method.resolved_schedule, carry_momentum=carries, policy=method.policy)
    candidate, spent = _cut_by(task, len(cuts), cuts, retrain), cuts[-1][0]
    if method.share == "rule" and candidate.ticket is not None:
        spent = int(candidate.ticket.notes["step"]) / task.session.total_steps
    return replace(candidate, spent_share=spent, goes_on=goes_on, warm_up=method.warmup)


def plan(method: WideStart, schedule: Schedule) -> MethodPlan:
    """The stretches between the cuts and what the budget leaves, step times taken as the MACs are."""
    if schedule.network is None:
        raise MethodError("wide_start is planned by the widths of its network; give the schedule one")
    if schedule.whole_steps is None:
        raise MethodError(_NO_BUDGET)
    data, total, shape = schedule.data, schedule.total_steps, schedule.image_shape
    cuts = method.planned_cuts(total / schedule.whole_steps)
    if method.share == "rule" and schedule.ticket_step is not None:
        cuts = [(min(schedule.ticket_step / total, cuts[0][0]), cuts[0][1])]
    widths = Widths(method, schedule.network, torch.zeros(2, *shape), bn_scale(schedule.network))
    dense_macs = count_cost(schedule.network, shape).train_macs
    networks, stages = dict[str, ModelCost](), list[Stage]()
    network, ratio, begin, mask = "dense", 1.0, 0.0, None
    for number, (end, target) in enumerate(cuts, 1):
        if end > begin:
            first, last = stretch(data, total, begin, end, ratio)
            stages.append(Stage("search", network, last, first, validation="epochs"))
        mask, ratio = widths.fitted(target, lambda small: count_cost(small, shape).train_macs / dense_macs, before=mask)
        network, begin = f"cut {number}", end
        networks[network] = count_cost_and_traffic(widths.network(mask), shape, schedule.precision)
    first, last = stretch(data, total, begin, 1.0, ratio)
    if method.resolved_schedule == "restart":
        first, last = 0, steps_that_train((1 - begin) * data.images_by(total) / ratio, data)
    note = "steps are taken to need seconds as their MACs are; the run measures them"
    if method.allocation == "time":
        note += ", and the layers, of which the plan keeps the same fraction each"
    if method.share == "rule":
        note += f"; the rule is taken to fire at {cuts[0][0]:.3g} of the budget (latest {method.latest_share:g})"
    stages.append(Stage("retrain", network, last, first))
    return MethodPlan(tuple(stages), network, note=note, networks=networks, spends_budget=True)


class _StretchHooks(Hooks):
    """Gathers scores over a stretch of the search, ends it, and keeps the momentum of that moment.

    Attributes:
        end_step: where it ends at the latest.
        moment: draws masks on the way and ends it before, or None.
        momentum: parameter name -> momentum at the end.
    """

    def __init__(
        self, end_step: int, saliency: BNSaliency | None, widths: Widths | None, moment: DrawMoment | None
    ) -> None:
        self.end_step, self.saliency, self.widths, self.moment = end_step, saliency, widths, moment
        self.momentum: dict[str, Tensor] = {}

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        """Scores of the channels of the network that is trained, at this moment."""
        return bn_scale(model) if self.saliency is None else self.saliency.scores()

    def note(self) -> str:
        """The newest mask distance."""
        return "" if self.moment is None else self.moment.note()

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """Gradients of the loss alone, for a score that gathers them."""
        if self.saliency is not None:
            self.saliency.update(model)

    def tensors(self) -> Sequence[Tensor]:
        """Means of a score that gathers."""
        return () if self.saliency is None else self.saliency.tensors()

    def state_dict(self) -> dict[str, Any]:
        """State of a score that gathers, and of draws."""
        parts = {"saliency": self.saliency, "draws": self.moment}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        parts = {"saliency": self.saliency, "draws": self.moment}
        known = {name: part for name, part in parts.items() if part is not None}
        if known.keys() != state.keys():
            raise changed_checkpoint("it holds the state of another method's hooks")
        for name, part in known.items():
            part.load_state_dict(state[name])

    def after_step(self, state: FitState) -> bool:
        """Draw, and end the phase, so that no checkpoint comes between its last step and the cut."""
        is_met = False
        if self.moment is not None and self.widths is not None:
            widths = self.widths
            is_met = self.moment.is_met(state.step, lambda: widths.rank(self.scores(state.model)))
        if state.step < self.end_step and not is_met:
            return False
        self.momentum = {name: buffer.clone() for name, buffer in state.momentum().items()}
        return True


def _train_to_cut(method: WideStart, task: Task, number: int, resume: dict[str, Any] | None) -> None:
    """Train up to cut `number` (from 0), draw it, and leave its ticket in the dense network's coordinates."""
    session, cuts = task.session, _cuts(method, task)
    budget, begin, (end, target) = _budget(task), cuts[number - 1][0] if number else 0.0, cuts[number]
    carry = Retrain(carry_momentum=True, policy=method.policy)
    before = _cut_by(task, number, cuts, carry) if number else Candidate(task.build(), "search", 0, 0)
    ratio = step_ratio(task, before.model, budget)
    first, last = stretch(session.planned_data, session.total_steps, begin, end, ratio)
    saliency = BNSaliency() if method.criterion == "bn_saliency" else None
    if saliency is not None:
        saliency.begin(before.model)  # A captured step makes nothing new.
    widths, moment = _moment(method, task, target) if method.share == "rule" else (None, None)
    hooks = _StretchHooks(last, saliency, widths, moment)
    if end > begin:
        span, cost = Span("search", first, last, round(session.total_steps / ratio)), task.cost(before.model)
        stopped = fit(
            session, before.model, span, cost, hooks=hooks, carry={_CUT_KEY: number}, momentum=before.momentum,
            resume=resume,
        )  # fmt: skip
        end = end if moment is None else stopped / session.total_steps
    with session.meter("slim") as meter:
        mask = None if before.ticket is None else before.ticket.mask
        scores = _at_full_width(hooks.scores(before.model), mask)
        widths = widths or Widths(method, task.build(), task.example_input(), scores)
        widths.rank(scores)
        table = layer_table(method, task, _budget(task), widths.dense, widths.ranking.groups)
        known = {} if mask is None else {mask: ratio}
        measure = partial(step_ratio, task, budget=budget)
        drawn, found = widths.fitted(target, measure, before=mask, known=known, table=table)
    session.journal.ledger.add(meter.cost(Work()))
    session.progress.say(f"cut {number + 1} of {len(cuts)}: a step takes {found:.3f} of the dense network's seconds")
    off = f"cut {number + 1}: a step takes {found:.3f} of the dense network's, not {target:.3g}: no widths come nearer"
    flags = (off,) if abs(found / target - 1) > NEAR else ()
    _leave(method, task, widths, before, drawn, hooks, (_file(number, cuts), end, flags))


def _moment(method: WideStart, task: Task, target: float) -> tuple[Widths, DrawMoment]:
    """Widths and moment of a cut by the rule: masks whose networks take about `target` of the dense MACs or step."""
    session, dense = task.session, task.build()
    with session.meter("slim") as meter:
        widths = Widths(method, dense, task.example_input(), bn_scale(dense))
        groups = widths.ranking.groups
        # By MACs where the allocation allows it: measured seconds would move the draws from run to run.
        table = layer_table(method, task, _budget(task), dense, groups) if method.allocation == "time" else None
    session.journal.ledger.add(meter.cost(Work()))

    def first(ranking: Ranking) -> ChannelMask:
        widths.ranking = ranking
        return widths.fitted(target, lambda small: target, table=table)[0]

    clock = EarlyBirdTraining().clock_of(session.steps_per_epoch, session.total_steps)
    return widths, DrawMoment(groups, clock, method.allocation, first)


def _leave(
    method: WideStart, task: Task, widths: Widths, before: Candidate, drawn: ChannelMask, hooks: _StretchHooks,
    about: tuple[str, float, tuple[str, ...]],
) -> None:  # fmt: skip
    """Write the ticket of a cut, and its momentum, in the dense network's coordinates.

    Args:
        before: the network that was trained up to the cut.
        about: the ticket's file, the share of the budget that is spent, and flags.
    """
    file, spent, flags = about
    search: dict[str, Any] = {}
    if (moment := hooks.moment) is not None:
        flags, history = (*flags, *moment.flags(spent)), moment.history
        search = {"window": history.window, "epsilon": history.epsilon, "distances": tuple(history.distances)}
        search |= {"drawn_after": len(moment.steps), "draw_steps": moment.steps}
    mask = None if before.ticket is None else before.ticket.mask
    indices = {} if mask is None else kept_indices(widths.dense, mask, widths.example, widths.groups)
    shapes = {name: tensor.shape for name, tensor in widths.dense.state_dict().items()}

    def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {name: tensor.detach().cpu() for name, tensor in tensors.items() if name in shapes}
        full = known if mask is None else {n: expanded(t, shapes[n], indices[n]) for n, t in known.items()}
        return {name: tensor.contiguous() for name, tensor in full.items()}

    # Before the ticket: what finds a ticket finds its momentum.
    write_atomically(momentum_file(task.folder / file), save(expand(hooks.momentum)))
    leave_ticket(
        task, drawn, widths.groups, expand(before.model.state_dict()), rule=method.name,
        prune_ratio=realised_ratio(drawn, widths.groups), step=round(spent * task.session.total_steps), flags=flags,
        file=file, scored=widths.ranking.groups, criterion=method.criterion, round_to=settled(method.round_to),
        tie_score=method.tie_score, **search,
    )  # fmt: skip


def _at_full_width(scores: Mapping[str, Tensor], mask: ChannelMask | None) -> dict[str, Tensor]:
    """Scores of the network that a mask left, at their places in the dense one; what is gone scores below all else."""
    if mask is None:
        return dict(scores)
    full = {name: torch.full((mask[name].numel(),), -1.0) for name in scores}
    for name, score in scores.items():
        full[name][mask[name]] = score
    return full


def _cut_by(task: Task, number: int, cuts: list[tuple[float, float]], retrain: Retrain) -> Candidate:
    """The network after so many cuts."""
    file = _file(number - 1, cuts)
    return cut(task, Ticket.load(task.folder / file), retrain, file)


def _file(number: int, cuts: list[tuple[float, float]]) -> str:
    """File of the ticket of cut `number` (from 0); the last is the run's."""
    return TICKET_FILE if number == len(cuts) - 1 else f"cut-{number + 1}.safetensors"


def _cuts(method: WideStart, task: Task) -> list[tuple[float, float]]:
    session = task.session
    _budget(task)
    return method.planned_cuts(session.total_steps / session.whole_steps)


def _budget(task: Task) -> Budget:
    if (budget := parse_budget(task.session.settings.budget)) is None:
        raise MethodError(_NO_BUDGET)
    return budget
