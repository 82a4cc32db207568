"""Forecast of a grid: MACs and hours of the run nodes that are left, from their plans and a few measured steps.

The slim network of a ratio is taken at uniform widths, and a ticket that is not drawn yet at the tenth of the schedule
where the paper found it; real ones differ. What runs share is counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from earlybird.cost import (
    MethodPlan,
    PlannedData,
    Schedule,
    SmallerImages,
    Stage,
    Work,
    count_cost_and_traffic,
    steps_that_buy,
)
from earlybird.data import DataBundle
from earlybird.errors import RunFolderError
from earlybird.forecast.calibration import SECONDS, Calibration, Network, calibrate, recorded
from earlybird.forecast.run import UNIFORM, Scenario, cost_of, networks_of
from earlybird.grids.grid import RunNode
from earlybird.grids.run_node import keeps_search
from earlybird.grids.sweep import Sweep
from earlybird.methods.early_bird import planned_draw
from earlybird.methods.pipeline import plan_method
from earlybird.runs.folder import NetworkSpec
from earlybird.runs.inputs import resolve_augment
from earlybird.runs.record_file import Record, finished_record, load_records
from earlybird.settings.budget import parse_budget
from earlybird.settings.method import EarlyBirdTraining, Method, hardware_multiple, with_multiple
from earlybird.settings.run import RunConfig
from earlybird.training.compute import Compute, choose_device
from earlybird.training.loop import first_step_at
from earlybird.training.low_resolution import smaller_side

TICKET_AT = 0.1
CALIBRATION_STEPS = 20


@dataclass(frozen=True)
class GridForecast:
    """Cost of what is left of a sweep.

    Attributes:
        rows: method (with "at equal cost" where it is run so), p, number of runs, training MACs and hours.
        nodes: run nodes of the sweep, done ones included.
        device: device, threads and precision of the measured steps.
        steps: measured steps of each network, 0 where finished runs told their seconds.
        ticket_at: share of the schedule after which a ticket is taken to be drawn, in [0, 1].
    """

    rows: list[tuple[str, float | None, int, int, float]]
    nodes: int
    device: str
    steps: int = CALIBRATION_STEPS
    ticket_at: float = TICKET_AT


def forecast_grid(sweep: Sweep, spec: NetworkSpec, bundle: DataBundle) -> GridForecast | None:
    """Measure a few steps and price the nodes that are left, runs that differ in the seed alone together.

    Returns:
        None if nothing is left.
    """
    config, left = sweep.nodes[0].config, sweep.left()
    if not left:
        return None
    ratios = sorted({node.prune_ratio for node in left if node.prune_ratio is not None}) or [0.5]
    records: list[Record] = []
    with suppress(RunFolderError):  # None is there, or none can be read.
        records = load_records([sweep.root])
    seconds = SECONDS / len(ratios)
    measured = {ratio: _measured(config, spec, bundle, ratio, records, seconds) for ratio in ratios}
    slim_costs = {scenario: full.slim for scenario, full, _ in measured.values()}
    small_costs = dict[Scenario, SmallerImages | None]()
    drawn, early_birds = ticket_places(sweep), early_birds_of(sweep)
    costs: dict[tuple[str, float | None], list[tuple[int, float]]] = {}
    for node in left:
        ratio, method = ratios[0] if node.prune_ratio is None else node.prune_ratio, node.config.method
        scenario, full, calibration = measured[ratio]
        method = with_multiple(method, hardware_multiple(scenario.device, scenario.precision))
        policy, round_to = getattr(method, "policy", scenario.policy), getattr(method, "round_to", scenario.round_to)
        if (own := replace(scenario, policy=policy, round_to=round_to)) not in slim_costs:
            slim_costs[own] = cost_of(networks_of(own).slim[UNIFORM], own)
        if own not in small_costs:
            small_costs[own] = smaller_images(own, config.training.low_resolution, full.total_steps)
        share = drawn.get((ratio, node.seed), TICKET_AT)
        budget, whole = parse_budget(node.config.training.budget), full.total_steps
        total = whole if budget is None else budget.dense_steps(whole, calibration.step["dense"].wall)
        schedule = replace(
            full, slim=slim_costs[own], total_steps=total, ticket_step=round(share * total),
            whole_steps=None if budget is None else whole, smaller=small_costs[own],
        )  # fmt: skip
        plan = plan_node(node, schedule, early_birds.get((ratio, node.seed)))
        name = " ".join(filter(None, (node.label, node.budget))) + ("" if node.equal_to is None else ", at equal cost")
        cost = plan.training_macs(schedule), calibration.predict(plan, schedule).wall / 3600
        costs.setdefault((name, node.prune_ratio), []).append(cost)
    rows = [
        (name, ratio, len(each), sum(macs for macs, _ in each), sum(hours for _, hours in each))
        for (name, ratio), each in costs.items()
    ]
    steps = min(calibration.measured_steps for _, _, calibration in measured.values())
    return GridForecast(rows, len(sweep.nodes), measured[ratios[0]][2].device, steps)


def _measured(
    config: RunConfig, spec: NetworkSpec, bundle: DataBundle, ratio: float, records: Sequence[Record], seconds: float
) -> tuple[Scenario, Schedule, Calibration]:
    """Uniform networks of a ratio, the schedule with their cost, and their recorded seconds, else measured ones."""
    settings = config.training
    compute = Compute(choose_device(settings.device), "bf16" if settings.precision == "bf16" else "fp32")
    val_images = 0 if bundle.val is None else len(bundle.val)
    data = PlannedData(len(bundle.train), len(bundle.test), settings.batch_size, val_images, settings.eval_batch_size)
    scenario = Scenario(spec, data, settings.epochs, ratio, compute.precision, UNIFORM, device=compute.device.type)
    built = networks_of(scenario)
    networks: dict[Network, nn.Module] = {"dense": built.dense, "slim": built.slim[UNIFORM]}
    costs = {name: cost_of(network, scenario) for name, network in networks.items()}
    calibration = recorded(records, config, compute, costs, ratio) or calibrate(
        networks, bundle, settings, compute, augment=resolve_augment(config.data, bundle),
        workers=config.data.workers, steps=CALIBRATION_STEPS, seconds=seconds,
    )  # fmt: skip
    return scenario, scenario.schedule(built.dense, costs["dense"], costs["slim"], 0), calibration


def smaller_images(scenario: Scenario, share: float, total_steps: int) -> SmallerImages | None:
    """First steps of a schedule on smaller images, and what these cost in both networks; None for no share."""
    if not share:
        return None
    built, (channels, height, width) = networks_of(scenario), scenario.image_shape
    shape = (channels, smaller_side(height), smaller_side(width))
    networks = {"dense": built.dense, "slim": next(iter(built.slim.values()))}
    costs = {name: count_cost_and_traffic(network, shape, scenario.precision) for name, network in networks.items()}
    return SmallerImages(first_step_at(share, total_steps), costs)


def early_birds_of(sweep: Sweep) -> dict[tuple[float, int], EarlyBirdTraining]:
    """The `early_bird` of each ratio and seed, which the controls and runs at equal cost are matched to."""
    return {
        (node.prune_ratio, node.seed): cast(EarlyBirdTraining, node.config.method)
        for node in sweep.nodes
        if node.label == EarlyBirdTraining.name and node.equal_to is None and node.prune_ratio is not None
    }


def ticket_places(sweep: Sweep) -> dict[tuple[float, int], float]:
    """Fraction of the schedule at which finished Early-Bird runs drew their ticket, by ratio and seed."""
    places = {}
    for node in sweep.nodes:
        if node.label == EarlyBirdTraining.name and node.kind == "run" and node.prune_ratio is not None:
            ticket: Mapping[str, Any] = {}
            with suppress(RunFolderError):  # One that cannot be read says nothing.
                ticket = (finished_record(sweep.root / node.id) or {}).get("ticket") or {}
            if (share := ticket.get("fraction_of_schedule")) is not None:
                places[node.prune_ratio, node.seed] = float(share)
    return places


def plan_node(node: RunNode, schedule: Schedule, early_bird: EarlyBirdTraining | None = None) -> MethodPlan:
    """Plan of a run node, without the stage that another node has done.

    Args:
        schedule: of its run, with its ratio's slim network.
        early_bird: what it is matched to where it is a control or at equal cost; by default one with default settings.
    """
    method = node.config.method
    if node.kind == "search":
        search = cast(EarlyBirdTraining, method)
        draws = [planned_draw(replace(search, draw_at=request.draw_at), schedule) for request in node.requests]
        last = max(schedule.total_steps if draw is None else draw for draw in draws)
        return MethodPlan((Stage("search", "dense", last, validation="epochs"),), None)
    matched = early_bird or EarlyBirdTraining()
    budget = schedule.budget_macs or matched.plan(schedule).training_macs(schedule)
    schedule = replace(schedule, budget_macs=budget)
    if node.equal_to is not None:
        return _at_equal_cost(method, matched, schedule, budget)
    plan = plan_method(method, schedule)
    is_shared = node.request is not None or node.dense_run is not None
    return replace(plan, stages=plan.stages[1:]) if is_shared and plan.stages[0].phase == "search" else plan


def _at_equal_cost(method: Method, early_bird: EarlyBirdTraining, schedule: Schedule, budget: int) -> MethodPlan:
    """Plan at the cost of `early_bird`: the same ticket trained with what is left, or a shorter schedule."""
    plan = plan_method(method, schedule)
    left = budget - replace(plan, stages=plan.stages[:1]).training_macs(schedule)
    theirs = early_bird.plan(schedule).training(schedule).get("retrain", Work()).macs
    if keeps_search(method, left, theirs):
        fitted = _fitted(plan, schedule, budget)
        return replace(fitted, stages=fitted.stages[1:])  # without its search
    share = budget / plan.training_macs(schedule)
    total = max(1, round(share * schedule.total_steps))
    drawn = None if schedule.ticket_step is None else min(total, round(share * schedule.ticket_step))
    shorter = replace(schedule, total_steps=total, ticket_step=drawn)
    return _fitted(plan_method(method, shorter), shorter, budget)


def _fitted(plan: MethodPlan, schedule: Schedule, budget: int) -> MethodPlan:
    """The plan with a last stage as long as the budget allows."""
    *before, last = plan.stages
    cost = plan.costs(schedule)[last.network]
    left = budget - replace(plan, stages=tuple(before)).training_macs(schedule)
    steps = steps_that_buy(left, cost, schedule.data, last.start_step)
    return replace(plan, stages=(*before, replace(last, end_step=last.start_step + steps)))
