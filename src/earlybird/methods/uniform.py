"""`uniform`: the one width ratio at which a network costs what a ticket's network costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from earlybird.core import ChannelGroups, ChannelMask, Ticket
from earlybird.core.drawing import Ranking, draw_ranked, rank_units, realised_ratio
from earlybird.cost import MethodPlan, Schedule, Stage, count_cost, steps_that_buy
from earlybird.methods.retrain import Retrain, cut, early_bird_macs, networks_of_ticket, planned_budget
from earlybird.methods.task import Candidate, Task
from earlybird.settings.catalog import Uniform
from earlybird.slimming import slim


def from_ticket(method: Uniform, task: Task, ticket: Ticket) -> Candidate:
    """The dense network at the one width whose MACs are the ticket's, to be trained anew for Early-Bird's cost."""
    dense, groups, ticket_network = networks_of_ticket(task, ticket, method.name)

    def network(mask: ChannelMask) -> nn.Module:
        return slim(dense, mask, task.example_input(), groups, check=False)

    def macs(mask: ChannelMask) -> int:
        return count_cost(network(mask), task.image_shape).macs  # the traffic is not asked for, and takes longer

    tickets = task.cost(ticket_network)
    target = tickets.macs
    mask, round_to = uniform_mask(groups, target, macs, ticket, method.tolerance)
    budget = early_bird_macs(task, ticket, tickets, method.early_bird_start)
    mine = task.cost(network(mask))
    is_off = abs(mine.macs - target) > method.tolerance * target
    off = (f"{mine.macs / target:.3f} of the ticket's MACs",) if is_off else ()
    own = replace(
        ticket, mask=mask, realised_ratio=realised_ratio(mask, groups), drawn_after=0, rule="uniform", distances=(),
        round_to=round_to, notes={**ticket.notes, "step": 0, "draw_steps": []},
        flags=(*(f"of the ticket: {flag}" for flag in ticket.flags), *off),
    )  # fmt: skip
    steps = steps_that_buy(budget, mine, task.session.planned_data)
    retrain = Retrain(weights="initial", schedule="restart", policy=groups.policy, schedule_steps=steps)
    candidate = cut(task, own, retrain)
    return replace(candidate, phase="train", notes={"matched_macs": target, "macs": mine.macs, "budget_macs": budget})


def plan(method: Uniform, schedule: Schedule) -> MethodPlan:
    """The steps of the slim network, whose MACs it has, that the cost of `early_bird` buys."""
    steps = steps_that_buy(planned_budget(schedule, method.early_bird_start), schedule.slim, schedule.data)
    return MethodPlan((Stage("train", "slim", steps),), "slim")


def uniform_mask(
    groups: ChannelGroups, target: int, macs: Callable[[ChannelMask], int], like: Ticket, tolerance: float
) -> tuple[ChannelMask, int]:
    """The mask of uniform widths whose MACs come nearest to `target`, and the multiple that its widths have.

    Widths are multiples of what the ticket's are, or of half, a quarter, ... of it where multiples so coarse do not
    come within `tolerance` of the target.

    Args:
        macs: MACs of one image under a mask.
        like: the ticket, for its floor and rounding.
        tolerance: relative difference in MACs that is near enough.
    """
    # All scores equal: the tie rule ranks by place in the layer: uniform widths (`docs/method.md` section 1).
    ranking = rank_units({name: torch.ones(units.numel()) for name, units in groups.unit_of.items()}, groups)
    round_to = like.round_to
    while True:
        mask, found = _nearest(ranking, target, macs, like.min_channels, round_to)
        if abs(found - target) <= tolerance * target or round_to == 1:
            return mask, round_to
        round_to //= 2


def _nearest(
    ranking: Ranking, target: int, macs: Callable[[ChannelMask], int], min_channels: int, round_to: int
) -> tuple[ChannelMask, int]:
    """Bisection over the number of units removed: masks are nested, so MACs never rise with it."""
    units = ranking.groups.num_units
    floors = sum(max(0, block.size - min_channels) for block in ranking.groups.blocks)

    def of(removed: int) -> tuple[ChannelMask, int]:
        mask = draw_ranked(ranking, removed / units, min_channels=min_channels, round_to=round_to)
        return mask, macs(mask)

    low, high = 0, floors  # the most MACs, and the least
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if of(middle)[1] >= target else (low, middle)
    return min((of(low), of(high)), key=lambda pair: abs(pair[1] - target))
