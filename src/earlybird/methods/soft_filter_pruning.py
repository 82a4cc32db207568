"""`soft_filter_pruning`: zero the smallest filters after each epoch, update all, cut at the end (He et al. 2018).

In each layer the same share of filters is zeroed, by Euclidean norm. The BatchNorm behind a zeroed filter still shifts
it; at the end that goes too, which changes what the network computes, so it is evaluated before and after. The authors'
code zeroes before the first epoch too; in a chain such filters stay zero (pruning at initialisation, flagged). As the
paper is written (`zero_at_start` false) they grow back, which can break the training (docs/decisions.md, docs/log.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from earlybird.core import ChannelGroups, ChannelMask, draw_mask_per_layer, filter_l2
from earlybird.core.drawing import scored_groups
from earlybird.cost import MethodPlan, Schedule, Stage
from earlybird.methods.early_bird import refuse_nothing_to_cut
from earlybird.methods.retrain import Retrain, cut, leave_ticket, load_ticket_weights, ticket_in
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import SoftFilterPruning
from earlybird.settings.method import settled
from earlybird.slimming import channel_groups, zero_channels_
from earlybird.training.checkpoint import changed_checkpoint
from earlybird.training.loop import fit
from earlybird.training.state import FitState, Hooks, Span


def check_network(method: SoftFilterPruning, model: nn.Module, example_input: Tensor) -> None:
    """Raise unless there are filters that can be cut."""
    groups = channel_groups(model, example_input, method.policy)
    refuse_nothing_to_cut("filter_l2", model, groups)
    scored_groups(conv_norms(model), groups)  # which refuses a network whose convolutions all stay


def search(method: SoftFilterPruning, task: Task, resume: dict[str, Any] | None) -> Candidate:
    """Train to the end, zeroing after each epoch, and leave the ticket of the last zeroing."""
    session, model = task.session, task.build()
    groups = task.groups(model, method.policy)
    hooks = ZeroingHooks(method, groups, session.total_steps)
    fit(session, model, Span("search", 0, session.total_steps), task.cost(model), hooks=hooks, resume=resume)
    mask = filter_mask(method, model, groups)  # the same once more: zeros are the smallest filters there are
    is_static = mask == hooks.first and not mask.flat().all()
    flags = ("the final mask is the first one: no filter that was zeroed came back",) if is_static else ()
    leave_ticket(
        task, mask, groups, model.state_dict(), scored=scored_groups(conv_norms(model), groups), rule=method.name,
        prune_ratio=method.prune_ratio, step=session.total_steps, criterion="filter_l2",
        min_channels=method.min_channels, round_to=settled(method.round_to), flags=flags,
    )  # fmt: skip
    return restore(method, task)


def restore(method: SoftFilterPruning, task: Task) -> Candidate:
    """Rebuild the candidate from the ticket in the run folder; nothing is left to train."""
    ticket = ticket_in(task.folder)
    uncut = task.build()
    load_ticket_weights(uncut, ticket)
    candidate = cut(task, ticket, Retrain(weights="inherit", schedule="continue", policy=method.policy))
    return replace(candidate, uncut=uncut)


def plan(method: SoftFilterPruning, schedule: Schedule) -> MethodPlan:
    """One dense training; the paper charges two."""
    whole, again = (Stage(*names, schedule.total_steps) for names in (("search", "dense"), ("retrain", "slim")))
    note = "trains once, and is evaluated before and after the cut; the paper charges two trainings"
    return MethodPlan((whole,), "slim", charged=(whole, again), note=note, also_tested="dense")


def conv_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norms of the filters of convolutions; linear layers have none to prune softly."""
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: score for name, score in filter_l2(model).items() if name not in linears}


def filter_mask(method: SoftFilterPruning, model: nn.Module, groups: ChannelGroups) -> ChannelMask:
    """The filters that stay: in each layer all but the share with the smallest norm."""
    norms, least = conv_norms(model), method.min_channels
    return draw_mask_per_layer(norms, method.prune_ratio, groups, min_channels=least, round_to=settled(method.round_to))


@torch.no_grad()
def zero_filters_(model: nn.Module, mask: ChannelMask, groups: ChannelGroups) -> None:
    """Set the filters (and biases) that make removed channels to zero, in place; norms are left alone."""
    keep = torch.cat([groups.keep_units(mask), torch.ones(1, dtype=torch.bool)])  # -1 reads the last: it stays
    for name, module in model.named_modules():
        if name in groups.units_of_layer and not isinstance(module, nn.modules.batchnorm._NormBase):
            zero_channels_(module, keep[groups.units_of_layer[name]])


class ZeroingHooks(Hooks):
    """Zeroes the smallest filters after every `every_epochs` epochs and after the last, and before the first."""

    def __init__(self, method: SoftFilterPruning, groups: ChannelGroups, total_steps: int) -> None:
        self.method, self.groups, self.total_steps = method, groups, total_steps
        self.first: ChannelMask | None = None  # mask of the first zeroing that another one follows

    def at_start(self, state: FitState) -> bool:
        """Zero before the first step, where the method says so."""
        if self.method.zero_at_start:
            self._zero(state)
        return False

    def after_step(self, state: FitState) -> bool:
        """Zero where an epoch is over."""
        period = self.method.every_epochs * state.session.steps_per_epoch
        if state.step % period == 0 or state.step == self.total_steps:
            self._zero(state)
        return False

    def state_dict(self) -> dict[str, Any]:
        """The first mask."""
        return {"first": None if self.first is None else dict(self.first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; older checkpoints have none, and their runs get no flag.

        Raises:
            CheckpointError: the state is of other hooks, or of another network.
        """
        first = state.get("first", {})
        self.first = None if first is None else ChannelMask(first)
        if set(state) - {"first"} or (self.first and self.first.widths() != self.groups.widths()):
            raise changed_checkpoint("its first mask is of another network or method")

    def _zero(self, state: FitState) -> None:
        mask = filter_mask(self.method, state.model, self.groups)
        if self.first is None and state.step < self.total_steps:
            self.first = mask
        zero_filters_(state.model, mask, self.groups)
