"""Plans of the nodes of a sweep: what each will take before it is run.

The slim network of a ratio is taken at uniform widths, and a ticket that is not drawn yet at the tenth of the schedule
where the paper found it; real ones differ. What runs share is counted once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from earlybird.cost.plan import MethodPlan, Schedule, Stage, steps_that_buy
from earlybird.grids.equal_cost import LEAST_LAST_TRAINING
from earlybird.grids.grid import RunNode
from earlybird.grids.sweep import Sweep
from earlybird.methods.budget import planned_budget
from earlybird.methods.early_bird import planned_draw
from earlybird.methods.pipeline import plan_method
from earlybird.runs.config import RunConfig
from earlybird.runs.record_file import finished_record
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.method import Method, StartsFromTicket

TICKET_AT = 0.1


def ticket_places(sweep: Sweep) -> dict[tuple[float, int], float]:
    """Fraction of the schedule at which finished Early-Bird runs drew their ticket, by ratio and seed."""
    places = {}
    for node in sweep.nodes:
        if node.label == "early_bird" and node.kind == "run" and node.prune_ratio is not None:
            record = finished_record(sweep.root / node.id) or {}
            share = (record.get("ticket") or {}).get("fraction_of_schedule")
            if share is not None:
                places[node.prune_ratio, node.seed] = float(share)
    return places


def plan_node(node: RunNode, schedule: Schedule) -> MethodPlan:
    """Plan of a node of a grid, without the stage that another node has done.

    Args:
        node: the node.
        schedule: of its run, with the slim network of its ratio.
    """
    method = RunConfig.from_dict(dict(node.config)).method
    if node.kind == "search":
        search = cast(EarlyBirdTraining, method)
        last = max(planned_draw(replace(search, draw_at=request.draw_at), schedule) for request in node.requests)
        return MethodPlan((Stage("search", "dense", last, validation="epochs"),), None)
    if node.equal_to is not None:
        return _at_equal_cost(method, schedule)
    plan = plan_method(method, schedule)
    is_shared = node.request is not None or node.dense_run is not None
    return _without_search(plan) if is_shared and plan.stages[0].phase == "search" else plan


def _without_search(plan: MethodPlan) -> MethodPlan:
    return replace(plan, stages=plan.stages[1:])


def _at_equal_cost(method: Method, schedule: Schedule) -> MethodPlan:
    """Plan at the cost of `early_bird`: the same ticket trained with what is left, or a shorter schedule."""
    budget = planned_budget(schedule, "ticket")
    search = method.shared_search() if isinstance(method, StartsFromTicket) else None
    plan = plan_method(method, schedule)
    if search is not None and search.draw_at != "last":
        searched, theirs = plan.stages[0], schedule.total_steps - schedule.ticket_step
        left = budget - searched.work(schedule.dense, schedule.data).macs
        if left >= LEAST_LAST_TRAINING * Stage("retrain", "slim", theirs).work(schedule.slim, schedule.data).macs:
            return _without_search(_fitted(plan, schedule, budget))
    share = budget / plan.training_macs(schedule)
    total = max(1, round(share * schedule.total_steps))
    shorter = replace(schedule, total_steps=total, ticket_step=min(total, round(share * schedule.ticket_step)))
    return _fitted(plan_method(method, shorter), shorter, budget)


def _fitted(plan: MethodPlan, schedule: Schedule, budget: int) -> MethodPlan:
    """The plan with a last stage as long as the budget allows."""
    *before, last = plan.stages
    cost = plan.costs(schedule)[last.network]
    left = budget - replace(plan, stages=tuple(before)).training_macs(schedule)
    steps = steps_that_buy(left, cost, schedule.data, last.start_step)
    return replace(plan, stages=(*before, replace(last, end_step=last.start_step + steps)))
