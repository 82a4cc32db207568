"""Forecast of a grid: MACs and hours of the run nodes that are left, from their plans and a few measured steps.

The slim network of a ratio is taken at uniform widths, and a ticket that is not drawn yet at the tenth of the schedule
where the paper found it; real ones differ. What runs share is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from earlybird.cost.plan import MethodPlan, PlannedData, Schedule, Stage, steps_that_buy
from earlybird.data import DataBundle
from earlybird.forecast.calibration import Calibration, calibrate
from earlybird.forecast.run import UNIFORM, Scenario, cost_of, networks_of
from earlybird.grids.equal_cost import LEAST_LAST_TRAINING
from earlybird.grids.grid import RunNode
from earlybird.grids.sweep import Sweep
from earlybird.methods.budget import planned_budget
from earlybird.methods.early_bird import planned_draw
from earlybird.methods.pipeline import plan_method
from earlybird.runs.config import RunConfig
from earlybird.runs.prepare import resolve_augment
from earlybird.runs.record_file import finished_record
from earlybird.runs.saved_model import NetworkSpec
from earlybird.settings.early_bird import EarlyBirdTraining
from earlybird.settings.method import Method, StartsFromTicket
from earlybird.training.compute import Compute, choose_device

TICKET_AT = 0.1
CALIBRATION_STEPS = 20


@dataclass(frozen=True)
class GridForecast:
    """Cost of what is left of a sweep.

    Attributes:
        rows: method (with "at equal cost" where it is run so), p, number of runs, training MACs and hours.
        nodes: run nodes of the sweep, done ones included.
        device: device, threads and precision of the measured steps.
        steps: measured steps of each network.
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
    measured = {ratio: _measured(config, spec, bundle, ratio) for ratio in ratios}
    drawn = ticket_places(sweep)
    costs: dict[tuple[str, float | None], list[tuple[int, float]]] = {}
    for node in left:
        full, calibration = measured[ratios[0] if node.prune_ratio is None else node.prune_ratio]
        share = drawn.get((node.prune_ratio or 0.0, node.seed), TICKET_AT)
        schedule = replace(full, ticket_step=round(share * full.total_steps))
        plan = plan_node(node, schedule)
        name = node.label + ("" if node.equal_to is None else ", at equal cost")
        cost = plan.training_macs(schedule), calibration.predict(plan, schedule).wall / 3600
        costs.setdefault((name, node.prune_ratio), []).append(cost)
    rows = [
        (name, ratio, len(each), sum(macs for macs, _ in each), sum(hours for _, hours in each))
        for (name, ratio), each in costs.items()
    ]
    return GridForecast(rows, len(sweep.nodes), measured[ratios[0]][1].device)


def _measured(config: RunConfig, spec: NetworkSpec, bundle: DataBundle, ratio: float) -> tuple[Schedule, Calibration]:
    """Schedule with the counted networks of a ratio, and the measured seconds of their steps."""
    settings = config.training
    compute = Compute(choose_device(settings.device), "bf16" if settings.precision == "bf16" else "fp32")
    val_images = 0 if bundle.val is None else len(bundle.val)
    data = PlannedData(len(bundle.train), len(bundle.test), settings.batch_size, val_images, settings.eval_batch_size)
    scenario = Scenario(spec, data, settings.epochs, ratio, compute.precision, UNIFORM)
    networks = networks_of(scenario)
    dense, slim = networks.dense, networks.slim[UNIFORM]
    calibration = calibrate(
        {"dense": dense, "slim": slim}, bundle, settings, compute, augment=resolve_augment(config.data, bundle),
        workers=config.data.workers, steps=CALIBRATION_STEPS,
    )  # fmt: skip
    schedule = Schedule(
        settings.epochs * data.steps_per_epoch, data, cost_of(dense, scenario), cost_of(slim, scenario), 0,
        spec.num_classes, dense, scenario.image_shape, scenario.precision,
    )  # fmt: skip
    return schedule, calibration


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
    """Plan of a run node, without the stage that another node has done; `schedule` has its ratio's slim network."""
    method = node.config.method
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
