"""A forecast as plain values: each method's cost in both counts, estimated energy, and seconds where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_type_hints

import torch

from earlybird.core import STOP_RULES
from earlybird.cost import MethodPlan, ModelCost, Schedule, Work, bit_operations, price
from earlybird.energy import estimated_joules, unit_energies
from earlybird.errors import MethodError, require
from earlybird.forecast.calibration import Calibration
from earlybird.forecast.run import Networks, Scenario, cost_of
from earlybird.grids.grid import parse_method
from earlybird.methods.pipeline import check_network, plan_method
from earlybird.settings import catalog
from earlybird.settings.fields import fits
from earlybird.settings.method import EarlyBirdTraining, Method
from earlybird.settings.run import RunConfig
from earlybird.training.timing import Seconds
from earlybird.user_code import is_code

# Rows of a forecast where no method is named: those of the paper's tables.
PAPER_METHODS = (
    "dense", "early_bird", "reinit", "lottery_ticket", "snip", "snip_channels", "network_slimming", "thinet",
    "soft_filter_pruning",
)  # fmt: skip

JOULES_PER_KWH = 3.6e6
# Counts of the same training agree; another share of validation images or another schedule shows here.
_SAME_MACS = 1e-3


@dataclass(frozen=True)
class Prices:
    """Known facts of the machine: watts at the plug while it trains, and the price of an hour."""

    watts: float | None = None
    per_hour: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--watts", self.watts), ("--price-per-hour", self.per_hour)):
            require(name, value, value is None or 0 < value < float("inf"), "a number > 0")


def planned_methods(
    names: Sequence[str], scenario: Scenario, record: Mapping[str, Any] | None = None
) -> dict[str, Method]:
    """Methods of a forecast by name, with the scenario's ratio, policy and rounding where they have such settings.

    Args:
        names: `NAME[:KEY=VALUE]...`, as `compare --methods` takes them; empty for the methods of the paper's tables.
        scenario: the planned training.
        record: of a finished run, whose method is among them, set as it was.

    Raises:
        ConfigError: an unknown method or setting.
    """
    shared = {"prune_ratio": scenario.prune_ratio, "policy": scenario.policy, "round_to": scenario.round_to}
    found: dict[str, Method] = {}
    for text in names or PAPER_METHODS:
        name, own = parse_method(text)
        hints = get_type_hints(catalog.method_class(name))
        fitting = {key: value for key, value in shared.items() if key in hints and fits(value, hints[key])}
        settings = {**fitting, **catalog.preset_settings(name), **own, "name": name}
        found[text] = RunConfig.from_dict({"method": settings}).method
    if record is not None and not is_code(record["config"]["method"]["name"], "method"):
        label = catalog.method_label(record["config"]["method"])
        if label in found or not names:
            found[label] = RunConfig.from_dict({"method": dict(record["config"]["method"])}).method
    return found


def forecast_facts(
    scenario: Scenario,
    networks: Networks,
    methods: Mapping[str, Method],
    calibration: Calibration | None = None,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """The forecast as JSON types.

    Where widths or e are not known a method has several costs, one for each end of what may come.

    Args:
        methods: by name, see `planned_methods`.
        calibration: measured steps, of a scenario with known widths.

    Raises:
        MethodError: none of the methods can handle the network.
    """
    dense = cost_of(networks.dense, scenario)
    slim = {label: cost_of(model, scenario) for label, model in networks.slim.items()}
    realised = networks.realised_ratios
    schedules = _schedules(scenario, networks, dense, slim)
    plans, left_out = _plans(methods, schedules, scenario)
    any_schedule = next(iter(schedules.values()))
    base, _ = price(plan_method(catalog.Dense(), any_schedule), any_schedule)
    prices = prices or Prices()
    watts = None if calibration is None or calibration.step["dense"].joules is not None else prices.watts
    return _scenario_facts(scenario) | {
        "dense": _network(dense, dense),
        "slim": {name: _network(cost, dense) | {"realised_ratio": realised[name]} for name, cost in slim.items()},
        "uncounted": sorted({*dense.uncounted, *(name for cost in slim.values() for name in cost.uncounted)}),
        "methods": {
            name: {
                "note": next(iter(ends.values())).note,
                "cases": {end: _case(plan, schedules[end], base, calibration, prices) for end, plan in ends.items()},
            }
            for name, ends in plans.items()
        },
        "left_out": left_out,
        "traffic_reason": next((cost.traffic_reason for cost in (dense, *slim.values()) if cost.traffic_reason), None),
        "equal_cost": _equal_cost(schedules),
        "energy": {"estimate": unit_energies().source, "table": unit_energies().name},
        "calibration": None if calibration is None else {"watts": watts, **asdict(calibration)},
    }


def _case(
    plan: MethodPlan, schedule: Schedule, base: Work, calibration: Calibration | None, prices: Prices
) -> dict[str, Any]:
    work, phases = price(plan, schedule)
    joules, dense_joules = (estimated_joules(part.macs_by_width, part.traffic_bytes) for part in (work, base))
    paper = work.paper_flops if work.paper_flops is not None else float("nan")
    facts = {
        "epochs": _epochs(plan, schedule),
        "macs": work.macs,
        "macs_ratio": work.macs / base.macs,
        "macs_by_width": dict(work.macs_by_width),
        "bit_operations": bit_operations(work.macs_by_width),
        "paper_flops": work.paper_flops,
        "paper_ratio": paper / base.paper_flops if base.paper_flops else None,
        "traffic_bytes": work.traffic_bytes,
        "estimated_joules": joules,
        "estimated_ratio": joules / dense_joules if joules is not None and dense_joules else None,
        "macs_by_phase": {name: part.macs for name, part in phases.items()},
    }
    return facts | (_measured(calibration.predict(plan, schedule), prices) if calibration else {})


def _plans(
    methods: Mapping[str, Method], schedules: Mapping[str, Schedule], scenario: Scenario
) -> tuple[dict[str, dict[str, MethodPlan]], dict[str, str]]:
    """Method -> label of a schedule -> plan, and method -> reason why it cannot; raise `MethodError` where none can."""
    network = next(iter(schedules.values())).network
    assert network is not None
    plans: dict[str, dict[str, MethodPlan]] = {}
    left_out: dict[str, str] = {}
    for name, method in methods.items():
        try:
            check_network(method, network, torch.zeros(2, *scenario.image_shape))
            own = schedules if scenario.ticket_epoch is not None else _from_its_first_draw(method, schedules)
            plans[name] = {label: plan_method(method, schedule) for label, schedule in own.items()}
        except MethodError as error:  # Others can handle the network, or have something left of the budget.
            left_out[name] = str(error)
    if not plans:
        raise MethodError(next(iter(left_out.values())))
    return plans, left_out


def _from_its_first_draw(method: Method, schedules: Mapping[str, Schedule]) -> dict[str, Schedule]:
    """The schedules with the earliest draw after which the method's own stop rule, window and clock can fire."""
    if not isinstance(method, EarlyBirdTraining) or "least" not in schedules:
        return dict(schedules)
    least = schedules["least"]
    clock = method.clock_of(least.data.steps_per_epoch, least.total_steps)
    first = STOP_RULES[method.rule].earliest(method.window)
    step = clock.step_of(first) if first <= clock.draws else None
    return {**schedules, "least": replace(least, ticket_step=step)}


def _scenario_facts(scenario: Scenario) -> dict[str, Any]:
    return {
        "model": scenario.spec.name,
        "width": scenario.spec.width,
        "image_shape": list(scenario.image_shape),
        "classes": scenario.spec.num_classes,
        **{name: getattr(scenario.data, name) for name in ("train_images", "val_images", "test_images", "batch_size")},
        **{name: getattr(scenario, name) for name in ("epochs", "prune_ratio", "precision", "widths")},
        "ticket_epochs": list(scenario.ticket_epochs),
    }


def _schedules(
    scenario: Scenario, networks: Networks, dense: ModelCost, slim: Mapping[str, ModelCost]
) -> dict[str, Schedule]:
    """Label -> schedule: one where widths and e are known, else the cheapest and the dearest that may come."""
    by_macs, (first, last) = sorted(slim.values(), key=lambda cost: cost.train_macs), scenario.ticket_epochs
    least = scenario.schedule(networks.dense, dense, by_macs[0], first)
    if len(slim) == 1 and scenario.ticket_epoch is not None:
        return {"planned": least}
    return {"least": least, "most": scenario.schedule(networks.dense, dense, by_macs[-1], last)}


def _network(cost: ModelCost, dense: ModelCost) -> dict[str, Any]:
    return {
        "params": cost.params,
        "macs": cost.macs,
        "macs_ratio": cost.macs / dense.macs,
        "train_macs": cost.train_macs,
        "paper_gflops": cost.paper_flops / 1e9,
    }


def _epochs(plan: MethodPlan, schedule: Schedule) -> dict[str, float]:
    """Epochs on each network."""
    epochs = {"dense": 0.0, "slim": 0.0}
    for stage in plan.stages:
        epochs[stage.network] = epochs.get(stage.network, 0.0) + stage.steps / schedule.data.steps_per_epoch
    return epochs


def _measured(seconds: Seconds, prices: Prices) -> dict[str, Any]:
    """Seconds of a method, and what follows from them; kWh by a counter or by the user's watts, else None."""
    joules = seconds.joules if seconds.joules is not None else prices.watts and prices.watts * seconds.wall
    return {
        "cpu_seconds": seconds.cpu,
        "wall_seconds": seconds.wall,
        "kwh": None if joules is None else joules / JOULES_PER_KWH,
        "price": None if prices.per_hour is None else seconds.wall / 3600 * prices.per_hour,
    }


def _equal_cost(schedules: Mapping[str, Schedule]) -> dict[str, float] | None:
    """Epochs of the controls that spend what Early-Bird, or dense training, spends; None where that is not known."""
    if "planned" not in schedules:
        return None
    schedule = schedules["planned"]
    controls = (catalog.DenseShorter(), catalog.Uniform(), catalog.ScratchLonger())
    return {control.name: sum(_epochs(plan_method(control, schedule), schedule).values()) for control in controls}


def check_against(record: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a forecast with the finished run that it forecasts; `reason` says why that cannot be done.

    Errors are (predicted - measured) / measured. `caution` says what differs between the run's machine and this one.
    """
    method, total = catalog.method_label(record["config"]["method"]), record["cost"]["total"]
    found: dict[str, Any] = {"run_id": record["run_id"], "method": method, "reason": None, "caution": None}
    if method not in facts["methods"]:
        return found | {"reason": "its method is not among those of the table"}
    planned = facts["methods"][method]["cases"]["planned"]
    off = planned["macs"] / total["macs"] - 1 if total["macs"] else float("inf")
    if any(record["config"]["training"].get(name) for name in ("budget", "budget_macs")):
        return found | {"reason": "it trained for as long as its budget allowed, which is not planned"}
    if record["config"]["training"].get("low_resolution"):
        return found | {"reason": "its first images were smaller (training.low_resolution), which is not planned here"}
    if abs(off) > _SAME_MACS:
        reason = f"the plan is of another training than the run: {100 * off:+.1f} % of its MACs; leave its settings out"
        return found | {"reason": reason}
    here, there = facts["calibration"]["machine"], record["device"]
    if differing := [f"{key} {there.get(key)}, here {here[key]}" for key in here if there.get(key) != here[key]]:
        found["caution"] = f"the run was timed elsewhere ({'; '.join(differing)})"
    pairs = {name: (planned[name], total[name]) for name in ("cpu_seconds", "wall_seconds", "macs")}
    return found | {
        name: {"predicted": predicted, "measured": measured, "error": (predicted - measured) / measured}
        for name, (predicted, measured) in pairs.items()
        if measured
    }
