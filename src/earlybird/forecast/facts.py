"""A forecast as plain values: each method's cost in both counts, estimated energy, and seconds where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.cost import ModelCost, Work, bit_operations
from earlybird.cost.plan import MethodPlan, PlannedCost, epochs_for, method_plans, price
from earlybird.energy import estimated_joules, unit_energies
from earlybird.errors import ConfigError
from earlybird.forecast.calibration import Calibration, Seconds
from earlybird.forecast.run import Networks, Scenario, cost_of

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Prices:
    """What the user knows of the machine: watts at the plug while it trains, and what an hour of it costs."""

    watts: float | None = None
    per_hour: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--watts", self.watts), ("--price-per-hour", self.per_hour)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}; give a number > 0")


def forecast_facts(
    scenario: Scenario,
    networks: Networks,
    methods: Sequence[str] = (),
    calibration: Calibration | None = None,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """The forecast as JSON types.

    Where widths or e are not known a method has several costs, one for each end of what may come.

    Args:
        scenario: what is planned.
        networks: its dense and slim networks.
        methods: names to keep; all where empty.
        calibration: measured steps, of a scenario with known widths.
        prices: watts and price of the machine.

    Raises:
        ConfigError: an unknown method.
    """
    dense = cost_of(networks.dense, scenario)
    slim = {label: cost_of(model, scenario) for label, model in networks.slim.items()}
    cases, layers = _cases(scenario, slim), networks.prunable_layers
    plans = {label: method_plans(scenario.epochs, epoch, layers) for label, (_, epoch) in cases.items()}
    any_plans = next(iter(plans.values()))
    if unknown := [name for name in methods if name not in any_plans]:
        raise ConfigError(f"--method is {unknown[0]!r}; give one of {', '.join(any_plans)}")
    base = price(any_plans["dense"], {"dense": dense, "slim": dense}, scenario.data).work

    def case(name: str, label: str) -> dict[str, Any]:
        priced = price(plans[label][name], {"dense": dense, "slim": cases[label][0]}, scenario.data)
        facts = _stages(priced.plan) | _costs(priced, base)
        if calibration is not None:
            facts |= _measured(calibration.predict(priced.plan, scenario.data), prices or Prices())
        return facts

    return _scenario_facts(scenario) | {
        "dense": _network(dense, dense),
        "slim": {
            label: _network(cost, dense) | {"realised_ratio": networks.realised_ratios[label]}
            for label, cost in slim.items()
        },
        "uncounted": sorted({*dense.uncounted, *(name for cost in slim.values() for name in cost.uncounted)}),
        "methods": {
            name: {"note": plan.note, "cases": {label: case(name, label) for label in cases}}
            for name, plan in any_plans.items()
            if not methods or name in methods
        },
        "traffic_reason": next((cost.traffic_reason for cost in (dense, *slim.values()) if cost.traffic_reason), None),
        "equal_cost": _equal_cost(scenario, dense, cases, layers),
        "energy": {"estimate": unit_energies().source, "table": unit_energies().name},
        "calibration": None if calibration is None else _calibrated(calibration, prices or Prices()),
    }


def _scenario_facts(scenario: Scenario) -> dict[str, Any]:
    return {
        "model": scenario.spec.name,
        "width": scenario.spec.width,
        "image_shape": list(scenario.image_shape),
        "classes": scenario.spec.num_classes,
        "train_images": scenario.data.train_images,
        "val_images": scenario.data.val_images,
        "test_images": scenario.data.test_images,
        "batch_size": scenario.data.batch_size,
        "epochs": scenario.epochs,
        "prune_ratio": scenario.prune_ratio,
        "precision": scenario.precision,
        "widths": scenario.widths,
        "ticket_epochs": list(scenario.ticket_epochs),
    }


def _cases(scenario: Scenario, slim: Mapping[str, ModelCost]) -> dict[str, tuple[ModelCost, float]]:
    """Label -> slim network and e: one case where both are known, else the cheapest and the dearest that may come."""
    first, last = scenario.ticket_epochs
    if len(slim) == 1 and first == last:
        return {"planned": (next(iter(slim.values())), first)}
    by_macs = sorted(slim.values(), key=lambda cost: cost.train_macs)
    return {"least": (by_macs[0], first), "most": (by_macs[-1], last)}


def _network(cost: ModelCost, dense: ModelCost) -> dict[str, Any]:
    return {
        "params": cost.params,
        "macs": cost.macs,
        "macs_ratio": cost.macs / dense.macs,
        "train_macs": cost.train_macs,
        "paper_gflops": cost.paper_flops / 1e9,
    }


def _stages(plan: MethodPlan) -> dict[str, Any]:
    """Epochs on each network, and steps beside them."""
    epochs = {name: sum(stage.epochs for stage in plan.stages if stage.network == name) for name in ("dense", "slim")}
    return {"epochs": epochs, "extra_steps": sum(stage.extra_steps for stage in plan.stages)}


def _costs(priced: PlannedCost, base: Work) -> dict[str, Any]:
    work = priced.work
    joules, dense_joules = _joules(work), _joules(base)
    paper = work.paper_flops if work.paper_flops is not None else float("nan")
    return {
        "macs": work.macs,
        "macs_ratio": work.macs / base.macs,
        "macs_by_width": dict(work.macs_by_width),
        "bit_operations": bit_operations(work.macs_by_width),
        "paper_flops": work.paper_flops,
        "paper_ratio": paper / base.paper_flops if base.paper_flops else None,
        "traffic_bytes": work.traffic_bytes,
        "estimated_joules": joules,
        "estimated_ratio": joules / dense_joules if joules is not None and dense_joules else None,
        "macs_by_phase": {name: part.macs for name, part in priced.phases.items()},
    }


def _joules(work: Work) -> float | None:
    return estimated_joules(work.macs_by_width, work.traffic_bytes)


def _measured(seconds: Seconds, prices: Prices) -> dict[str, Any]:
    """Seconds of a method, and what follows from them; kWh by a counter or by the user's watts, else None."""
    joules = seconds.joules if seconds.joules is not None else prices.watts and prices.watts * seconds.wall
    hours = seconds.wall / 3600
    return {
        "cpu_seconds": seconds.cpu,
        "wall_seconds": seconds.wall,
        "kwh": None if joules is None else joules / JOULES_PER_KWH,
        "price": None if prices.per_hour is None else hours * prices.per_hour,
    }


def _equal_cost(
    scenario: Scenario, dense: ModelCost, cases: Mapping[str, tuple[ModelCost, float]], layers: int
) -> dict[str, Any] | None:
    """Epochs of the controls that spend what Early-Bird, or dense training, spends; None where that is not known."""
    if "planned" not in cases:
        return None
    slim, epoch = cases["planned"]
    plan = method_plans(scenario.epochs, epoch, layers)["early_bird"]
    spent = sum(stage.epochs * (dense if stage.network == "dense" else slim).train_macs for stage in plan.stages)
    spent *= scenario.data.train_images
    return {
        "dense_shorter": epochs_for(spent, dense, scenario.data),
        "uniform": epochs_for(spent, slim, scenario.data),
        "scratch_longer": scenario.epochs * dense.train_macs / slim.train_macs,
    }


def _calibrated(calibration: Calibration, prices: Prices) -> dict[str, Any]:
    measures_energy = calibration.steps["dense"].joules is not None
    return {
        "watts": None if measures_energy else prices.watts,
        "device": calibration.device,
        "machine": dict(calibration.machine),
        "measured_steps": calibration.measured_steps,
        "energy_method": calibration.energy_method,
        "step": {name: vars(seconds) for name, seconds in calibration.steps.items()},
        "tested_image": {name: vars(seconds) for name, seconds in calibration.tested_images.items()},
    }
