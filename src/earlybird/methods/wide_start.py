"""`wide_start`: a short dense training, a cut to a step time, and the rest of a budget for what is left.

The cut chooses widths by the seconds that they take, not by a prune ratio: it is drawn, measured in turns with the
dense network, and drawn again until the step time is the one asked for. One cut, or several milder ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from earlybird.atomic import file_lock, write_atomically
from earlybird.core import BNSaliency, ChannelGroups, ChannelMask, Ticket, allocate_measured, bn_scale
from earlybird.core.allocation import kept_of_blocks
from earlybird.core.drawing import rank_units, realised_ratio, scored_groups
from earlybird.cost import (
    LayerTable,
    MethodPlan,
    ModelCost,
    Schedule,
    Stage,
    Work,
    count_cost,
    count_cost_and_traffic,
    measure_layer_table,
    steps_that_train,
)
from earlybird.cost.layer_table import first_units
from earlybird.errors import ConfigError, MethodError, ModelError
from earlybird.methods.budget import step_ratio, stretch
from earlybird.methods.early_bird import refuse_nothing_to_cut
from earlybird.methods.hooks import momentum_file
from earlybird.methods.retrain import Retrain, cut, leave_ticket
from earlybird.methods.task import Candidate, Task
from earlybird.settings.budget import Budget, parse_budget
from earlybird.settings.catalog import WideStart
from earlybird.settings.method import TICKET_FILE, settled
from earlybird.slimming import channel_groups, expanded, kept_indices, slim
from earlybird.training.checkpoint import whole_number
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Hooks, Span

if TYPE_CHECKING:
    import numpy as np

# In checkpoints of the search: the number of the cut that they come before.
_CUT_KEY = "cut"
# How near to the step time that was asked for is near enough, and how often widths are drawn anew for it.
_NEAR, _CORRECTIONS = 0.03, 2
# Pixels of the images that the layers are measured with on a CPU: 32 of CIFAR's size.
_TABLE_PIXELS, _LEAST_IMAGES = 32 * 32 * 32, 4
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
    candidate = _cut_by(task, len(cuts), cuts, retrain)
    return replace(candidate, spent_share=cuts[-1][0], goes_on=goes_on, warm_up=method.warmup)


def plan(method: WideStart, schedule: Schedule) -> MethodPlan:
    """The stretches between the cuts and what the budget leaves, step times taken as the MACs are."""
    if schedule.network is None:
        raise MethodError("wide_start is planned by the widths of its network; give the schedule one")
    if schedule.whole_steps is None:
        raise MethodError(_NO_BUDGET)
    data, total, shape = schedule.data, schedule.total_steps, schedule.image_shape
    cuts = method.planned_cuts(total / schedule.whole_steps)
    widths = _Widths(method, schedule.network, torch.zeros(2, *shape), bn_scale(schedule.network))
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
    stages.append(Stage("retrain", network, last, first))
    return MethodPlan(tuple(stages), network, note=note, networks=networks, spends_budget=True)


class _StretchHooks(Hooks):
    """Gathers scores over a stretch of the search, ends it at its last step, and keeps the momentum of that moment."""

    def __init__(self, end_step: int, saliency: BNSaliency | None) -> None:
        self.end_step, self.saliency = end_step, saliency
        self.momentum: dict[str, Tensor] = {}

    def change_gradients(self, model: nn.Module, strengths: Sequence[float | Tensor]) -> None:
        """Gradients of the loss alone, for a score that gathers them."""
        if self.saliency is not None:
            self.saliency.update(model)

    def tensors(self) -> Sequence[Tensor]:
        """Means of a score that gathers."""
        return () if self.saliency is None else self.saliency.tensors()

    def state_dict(self) -> dict[str, Any]:
        """State of a score that gathers."""
        return {} if self.saliency is None else {"saliency": self.saliency.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        if self.saliency is None:
            super().load_state_dict(state)
        else:
            self.saliency.load_state_dict(state["saliency"])

    def after_step(self, state: FitState) -> bool:
        """End the phase, so that no checkpoint comes between its last step and the cut."""
        if state.step < self.end_step:
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
    hooks = _StretchHooks(last, saliency)
    if end > begin:
        span, cost = Span("search", first, last, round(session.total_steps / ratio)), task.cost(before.model)
        fit(
            session, before.model, span, cost, hooks=hooks, carry={_CUT_KEY: number}, momentum=before.momentum,
            resume=resume,
        )  # fmt: skip
    with session.meter("slim") as meter:
        mask = None if before.ticket is None else before.ticket.mask
        dense, example = task.build(), task.example_input()
        scores = bn_scale(before.model) if saliency is None else saliency.scores()
        widths = _Widths(method, dense, example, _at_full_width(scores, mask))
        table = _layer_table(method, task, dense, widths.ranking.groups)
        known = {} if mask is None else {mask: ratio}
        measure = partial(step_ratio, task, budget=budget)
        drawn, found = widths.fitted(target, measure, before=mask, known=known, table=table)
    session.journal.ledger.add(meter.cost(Work()))
    session.progress.say(f"cut {number + 1} of {len(cuts)}: a step takes {found:.3f} of the dense network's seconds")
    off = f"cut {number + 1}: a step takes {found:.3f} of the dense network's, not {target:g}: no widths come nearer"
    flags = (off,) if abs(found / target - 1) > _NEAR else ()
    _leave(method, task, widths, before, drawn, hooks.momentum, (_file(number, cuts), end, flags))


def _leave(
    method: WideStart, task: Task, widths: _Widths, before: Candidate, drawn: ChannelMask, momentum: dict[str, Tensor],
    about: tuple[str, float, tuple[str, ...]],
) -> None:  # fmt: skip
    """Write the ticket of a cut, and its momentum, in the dense network's coordinates.

    Args:
        before: the network that was trained up to the cut.
        about: the ticket's file, the share of the budget that is spent, and flags.
    """
    file, spent, flags = about
    mask = None if before.ticket is None else before.ticket.mask
    indices = {} if mask is None else kept_indices(widths.dense, mask, widths.example, widths.groups)
    shapes = {name: tensor.shape for name, tensor in widths.dense.state_dict().items()}

    def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {name: tensor.detach().cpu() for name, tensor in tensors.items() if name in shapes}
        full = known if mask is None else {n: expanded(t, shapes[n], indices[n]) for n, t in known.items()}
        return {name: tensor.contiguous() for name, tensor in full.items()}

    # Before the ticket: what finds a ticket finds its momentum.
    write_atomically(momentum_file(task.folder / file), save(expand(momentum)))
    leave_ticket(
        task, drawn, widths.groups, expand(before.model.state_dict()), rule=method.name,
        prune_ratio=realised_ratio(drawn, widths.groups), step=round(spent * task.session.total_steps), flags=flags,
        file=file, scored=widths.ranking.groups, criterion=method.criterion, round_to=settled(method.round_to),
        tie_score=method.tie_score,
    )  # fmt: skip


class _Widths:
    """Widths of a network by the seconds, or the MACs, that they take.

    Args:
        scores: mask key -> `[channels]` at full width, higher = keep.
    """

    def __init__(self, method: WideStart, dense: nn.Module, example: Tensor, scores: Mapping[str, Tensor]) -> None:
        self.method, self.dense, self.example = method, dense, example
        self.groups = channel_groups(dense, example, method.policy)
        self.ranking = rank_units(scores, scored_groups(scores, self.groups), method.tie_score)
        self.macs = _MacsShare(self)

    def network(self, mask: ChannelMask) -> nn.Module:
        """The network that a mask leaves, for its widths."""
        return slim(self.dense, mask, self.example, self.groups, check=False)

    def fitted(
        self,
        target: float,
        measure: Callable[[nn.Module], float],
        *,
        before: ChannelMask | None = None,
        known: Mapping[ChannelMask, float] | None = None,
        table: LayerTable | None = None,
    ) -> tuple[ChannelMask, float]:
        """Mask whose network measures near to `target`, and what it measures.

        A table of layers, or without one MACs, lead to the first widths; what these measure corrects the next.

        Args:
            target: share of the dense network, in (0, 1].
            measure: share of the dense network that a network takes.
            before: the mask of the cut before; what it removed stays removed.
            known: masks whose networks are measured already, beside the dense one.
            table: seconds of the layers; without it allocation "time" is taken as uniform, as plans do.

        Raises:
            MethodError: no network that the table of layers knows is so quick.
        """
        method, cost = self.method, self.macs if table is None else table.cost
        allocation = "uniform" if table is None and method.allocation == "time" else method.allocation
        counts = {tuple(kept_of_blocks(mask, self.ranking.groups)): share for mask, share in (known or {}).items()}
        whole = cost.seconds([block.size for block in self.ranking.groups.blocks])
        points = [(whole, 1.0), *((cost.seconds(kept), share) for kept, share in counts.items())]
        try:
            found = allocate_measured(
                self.ranking, cost, target, lambda mask: measure(self.network(mask)), known=points, tolerance=_NEAR,
                corrections=_CORRECTIONS, allocation=allocation, round_to=settled(method.round_to),
                floor=method.min_share, within=before, fit="nearest",
            )  # fmt: skip
        except ConfigError as error:
            told = f"a step of {target:.2f} of the dense network's seconds cannot be had: {error}"
            raise MethodError(f"{told}; raise --method.step_ratio or lower --method.min_share") from error
        return found.mask, found.seconds


class _MacsShare:
    """MACs of training as a share of the dense network's, by units kept of each block; counted once for each."""

    def __init__(self, widths: _Widths) -> None:
        self.widths, self._known = widths, dict[tuple[int, ...], float]()
        self._dense = self._of(widths.dense)

    def seconds(self, counts: Sequence[int] | np.ndarray) -> float:
        """The share, where `allocate` asks for seconds."""
        key = tuple(int(count) for count in counts)
        if key not in self._known:
            network = self.widths.network(first_units(self.widths.ranking.groups, key))
            self._known[key] = self._of(network) / self._dense
        return self._known[key]

    def _of(self, model: nn.Module) -> int:
        return count_cost(model, tuple(self.widths.example.shape[1:])).train_macs


def _layer_table(method: WideStart, task: Task, dense: nn.Module, groups: ChannelGroups) -> LayerTable | None:
    """Measured seconds of the network's layers, or None where a budget in MACs asks for none, or they tell nothing.

    Runs that share their step times share them too.

    Raises:
        ModelError: they contradict the whole steps, and the allocation cannot do without them.
    """
    session, folder = task.session, task.folder if task.step_times is None else task.step_times.parent
    if _budget(task).kind == "macs":
        return None
    images, _ = next(iter(session.train.epoch(0)))
    if session.compute.device.type == "cpu":
        # Few images tell a CPU's seconds, each part measured once: steps of the run's own batch correct the table.
        images = images[: max(_LEAST_IMAGES, round(_TABLE_PIXELS / (images.shape[2] * images.shape[3])))]
    try:
        with file_lock(folder / ".layer-table.lock"):
            return measure_layer_table(
                dense, groups, images, autocast=session.compute.autocast, round_to=settled(method.round_to),
                cache=folder, passes=1,
            )  # fmt: skip
    except ModelError as error:
        if method.allocation == "time":
            raise
        session.progress.say(f"widths are sought by MACs and measured steps: {error}")
        return None


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
