"""`earlybird compare --dry-run`: the runs of a grid and their hours on this machine, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from earlybird.cost.plan import PlannedData, Schedule
from earlybird.data import DataBundle
from earlybird.forecast.calibration import Calibration, calibrate
from earlybird.forecast.grid import TICKET_AT, plan_node, ticket_places
from earlybird.forecast.run import UNIFORM, Scenario, cost_of, networks_of
from earlybird.grids.grid import RunNode
from earlybird.grids.run_node import state_of
from earlybird.grids.sweep import Sweep
from earlybird.report.quantities import si
from earlybird.report.table import Column, Table, named_columns, to_terminal
from earlybird.runs.config import RunConfig
from earlybird.runs.prepare import resolve_augment
from earlybird.runs.saved_model import NetworkSpec
from earlybird.training.compute import Compute, choose_device

CALIBRATION_STEPS = 20


@dataclass(frozen=True)
class _Measured:
    """Schedule with the counted networks of a ratio, and the measured seconds of their steps."""

    schedule: Schedule
    calibration: Calibration


def print_dry_run(sweep: Sweep, spec: NetworkSpec, bundle: DataBundle, workers: int) -> None:
    """Measure a few steps and print, method by method, what is left to run."""
    config = RunConfig.from_dict(dict(sweep.nodes[0].config))
    left = [node for node in sweep.needed() if state_of(sweep.root, node, sweep.token) != "done"]
    if not left:
        print(f"nothing is left to do in {sweep.root}: all {len(sweep.nodes)} runs and searches are done")
        return
    ratios = sorted({node.prune_ratio for node in left if node.prune_ratio is not None}) or [0.5]
    measured = {ratio: _measured(config, spec, bundle, ratio) for ratio in ratios}
    drawn = ticket_places(sweep)
    rows, total_hours = [], 0.0
    for (label, ratio, is_equal), nodes in _grouped(left).items():
        use = measured[ratios[0] if ratio is None else ratio]
        macs, hours = 0, 0.0
        for node in nodes:
            share = drawn.get((ratio or 0.0, node.seed), TICKET_AT)
            schedule = replace(use.schedule, ticket_step=round(share * use.schedule.total_steps))
            plan = plan_node(node, schedule)
            macs += plan.training_macs(schedule)
            hours += use.calibration.predict(plan, schedule).wall / 3600
        total_hours += hours
        name = label + (", at equal cost" if is_equal else "")
        rows.append((name, ratio, len(nodes), si(macs), hours))
    columns = [*named_columns("method", "p", "runs", "training MACs"), Column("hours", form=".2f")]
    at_once = f", at best {total_hours / workers:.1f} with {workers} workers of as many threads" if workers > 1 else ""
    notes = [
        f"{len(left)} of {len(sweep.nodes)} runs and searches are left, {total_hours:.2f} hours one after another "
        f"({use.calibration.device}, {CALIBRATION_STEPS} steps measured of each network){at_once}.",
        f"Taken as: slim networks of uniform widths, tickets not drawn yet at {100 * TICKET_AT:.0f} % of the schedule, "
        "a method of your own as one dense training. Evaluation included; searches and dense runs that several start "
        "from stand once.",
    ]
    to_terminal(Table(columns, rows, notes=notes, total=("all", "", len(left), "", total_hours)))


def _grouped(nodes: Sequence[RunNode]) -> dict[tuple[str, float | None, bool], list[RunNode]]:
    """Runs that differ in nothing but the seed."""
    groups: dict[tuple[str, float | None, bool], list[RunNode]] = {}
    for node in nodes:
        groups.setdefault((node.label, node.prune_ratio, node.equal_to is not None), []).append(node)
    return groups


def _measured(config: RunConfig, spec: NetworkSpec, bundle: DataBundle, ratio: float) -> _Measured:
    settings = config.training
    precision = "bf16" if settings.precision == "bf16" else "fp32"
    val_images = 0 if bundle.val is None else len(bundle.val)
    data = PlannedData(len(bundle.train), len(bundle.test), settings.batch_size, val_images, settings.eval_batch_size)
    scenario = Scenario(spec, data, settings.epochs, ratio, precision, UNIFORM)
    networks = networks_of(scenario)
    slim = networks.slim[UNIFORM]
    calibration = calibrate(
        {"dense": networks.dense, "slim": slim}, bundle, settings,
        Compute(choose_device(settings.device), "bf16" if precision == "bf16" else "fp32"),
        augment=resolve_augment(config.data, bundle), workers=config.data.workers, steps=CALIBRATION_STEPS,
    )  # fmt: skip
    total = settings.epochs * data.steps_per_epoch
    schedule = Schedule(
        total, data, cost_of(networks.dense, scenario), cost_of(slim, scenario), 0, spec.num_classes, networks.dense,
        scenario.image_shape, precision,
    )  # fmt: skip
    return _Measured(schedule, calibration)
