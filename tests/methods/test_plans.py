"""Plan, `cost`, `--dry-run` and the ledger of the finished run agree to the last product, for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from earlybird.cost import MethodPlan, ModelCost, PlannedData, Schedule, Stage, price
from earlybird.errors import ConfigError, MethodError, RunFolderError
from earlybird.forecast.facts import forecast_facts, planned_methods
from earlybird.forecast.grid import plan_node
from earlybird.forecast.run import UNIFORM, Scenario, networks_of
from earlybird.grids.grid import Block, Grid, RunNode, nodes_of
from earlybird.methods.pipeline import plan_method
from earlybird.runs.folder import NetworkSpec
from earlybird.runs.record import recorded_schedule
from earlybird.runs.run import run
from earlybird.settings.catalog import MatchedToTicket, WideStart, method_class, method_label, method_names
from earlybird.settings.run import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# A chain: ThiNet needs channels that one layer alone reads.
CHAIN = """
from torch import nn

def network(num_classes, in_channels):
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*block(in_channels, 8), *block(8, 12), *block(12, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in method_names()},
    "wide_start:cuts=0.1/0.8+0.3/0.5": {"name": "wide_start", "cuts": "0.1/0.8+0.3/0.5"},
    "thinet:finetune_steps=3": {"name": "thinet", "finetune_steps": 3},
    "lottery_ticket:rewind_epoch=2:rounds=2": {"name": "lottery_ticket", "rewind_epoch": 2, "rounds": 2},
    "early_bird:weights=rewind:rewind_epoch=1": {"name": "early_bird", "weights": "rewind", "rewind_epoch": 1},
    "snip:batches=2": {"name": "snip", "batches": 2},
    "early_bird:clock=epochs:draw_at=3": {"name": "early_bird", "clock": "epochs", "draw_at": 3},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "chain.py"
    path.write_text(CHAIN)
    return path


@pytest.fixture
def settings(tiny_settings: Any, chain: Path) -> Any:
    def make(**method: Any) -> dict[str, Any]:
        budget = {"budget": "macs=0.6"} if issubclass(method_class(method["name"]), WideStart) else {}
        found = tiny_settings("dense", data={"val_fraction": 0.1}, training={"epochs": 4, **budget})
        found["model"] = {"name": f"{chain}:network"}
        shared = {name: 1 for name in ("round_to", "min_draw_steps") if name in _fields(method["name"])}
        return found | {"method": shared | method}

    return make


def _fields(name: str) -> set[str]:
    return set(method_class(name).__dataclass_fields__)


def trained(settings: Any, run_once: Any, method: dict[str, Any], folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    config = RunConfig.from_dict(settings(**method))
    ticket = None
    if isinstance(config.method, MatchedToTicket):
        run_once(settings(name="early_bird"), folder / "early_bird")
        ticket = folder / "early_bird" / "ticket.safetensors"
    return config, run(config, folder / "run", quiet=True, ticket=ticket)


@pytest.mark.parametrize("variant", VARIANTS)
def test_plan_cost_dry_run_and_ledger_agree_to_the_last_product(
    variant: str, settings: Any, run_once: Any, tmp_path: Path
):
    config, record = trained(settings, run_once, VARIANTS[variant], tmp_path)
    spec = NetworkSpec(config.model.name, 3, 3, 8, 1.0)
    schedule = recorded_schedule(record, network=spec.build(0))
    executed = {phase: cost["macs"] for phase, cost in record["cost"]["phases"].items() if cost["macs"]}

    _, phases = price(plan_method(config.method, schedule), schedule)
    assert {phase: work.macs for phase, work in phases.items() if work.macs} == executed

    # `cost`, with the widths and the draw of the run.
    total, per_epoch = schedule.total_steps, schedule.data.steps_per_epoch
    widths = str(tmp_path / "run") if record["layers"] else UNIFORM
    drawn = total if schedule.ticket_step is None else schedule.ticket_step
    scenario = Scenario(
        spec, schedule.data, (schedule.whole_steps or total) / per_epoch, 0.5, widths=widths,
        ticket_epoch=drawn / per_epoch, budget_macs=schedule.budget_macs, budget=config.training.budget,
    )  # fmt: skip
    facts = forecast_facts(scenario, networks_of(scenario), planned_methods((), scenario, record))
    label = method_label(record["config"]["method"])
    assert facts["methods"][label]["cases"]["planned"]["macs"] == record["cost"]["total"]["macs"]

    # `compare --dry-run`: the run, and what it shares and is charged for.
    nodes = {node.id: node for node in nodes_of(grid(settings, VARIANTS[variant], variant))}
    (asked,) = (node for node in nodes.values() if node.is_asked)
    shared = [] if isinstance(config.method, MatchedToTicket) else [nodes[need] for need in asked.needs]
    planned = sum(plan_node(node, schedule).training_macs(schedule) for node in [asked, *shared])
    assert planned == sum(macs for phase, macs in executed.items() if phase != "evaluate")


def grid(settings: Any, method: dict[str, Any], text: str) -> Grid:
    sections = settings(**method)
    shared = {key: value for key, value in sections.pop("method").items() if key in ("round_to", "min_draw_steps")}
    ratio = 0.5
    return Grid(sections, (Block((text,), (ratio,), (sections["training"].get("seed", 0),)),), shared, ())


def test_a_method_without_a_plan_is_taken_as_one_dense_training_and_that_is_said(
    settings: Any, run_once: Any, tmp_path: Path
):
    config, record = trained(settings, run_once, {"name": "dense"}, tmp_path)
    schedule = recorded_schedule(record)
    plan = plan_method(object(), schedule)  # type: ignore[arg-type]
    assert plan.stages == plan_method(config.method, schedule).stages
    assert plan.note == "it has no `plan`, and is taken as one dense training"


@pytest.mark.parametrize("on_no_ticket", ["finish", "draw"])
@pytest.mark.parametrize("more", [{}, {"weights": "reinit"}, {"max_search_epochs": 2}])
def test_a_search_that_never_fires_is_planned_as_it_ends(
    on_no_ticket: str, more: dict[str, Any], settings: Any, run_once: Any, tmp_path: Path
):
    method = {"name": "early_bird", "window": 500, "on_no_ticket": on_no_ticket, **more}
    config, record = trained(settings, run_once, method, tmp_path)
    schedule = recorded_schedule({**record, "ticket": None})
    executed = {phase: cost["macs"] for phase, cost in record["cost"]["phases"].items() if cost["macs"]}
    _, phases = price(plan_method(config.method, schedule), schedule)
    assert {phase: work.macs for phase, work in phases.items() if work.macs} == executed


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "lottery_ticket", "rewind_epoch": 4}, r"method\.rewind_epoch is 4; give an integer in \[0, 4\)"),
        ({"name": "snip", "batches": 5}, r"method\.batches is 5; give an integer in \[1, 4\]"),
        ({"name": "early_bird", "draw_at": 17}, "method.draw_at is 17; this search has 16 draws"),
        ({"name": "early_bird", "draw_at": 9, "max_search_epochs": 2}, "method.draw_at is 9; this search has 8 draws"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(method: dict[str, Any], message: str, settings: Any):
    cost = ModelCost(1, 1, 3, 0.0, {"32x32": 1}, {"32x32": 3})
    schedule = Schedule(16, PlannedData(80, 30, 20), cost, cost, 8)
    with pytest.raises(ConfigError, match=message):
        plan_method(RunConfig.from_dict(settings(**method)).method, schedule)


class Planned:
    """A method of a user's own with a plan that is wrong in one way."""

    name = "planned"

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def plan(self, schedule: Schedule) -> MethodPlan:
        if self.wrong == "raises":
            raise ZeroDivisionError("division by zero")
        phase = "warmup" if self.wrong == "phase" else "search"
        network = "small" if self.wrong == "network" else "dense"
        return MethodPlan((Stage(phase, network, 3, 5 if self.wrong == "steps" else 0),), None)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("raises", MethodError, "the plan of method planned raised ZeroDivisionError: division by zero"),
        ("phase", ConfigError, "phase of a planned stage is 'warmup'; give one of search"),
        ("network", ConfigError, "a plan names network 'small'; give dense, slim or one of MethodPlan.networks"),
        ("steps", ConfigError, "a stage of phase 'search' is planned from step 5 to 3; give a stretch of steps"),
    ],
)
def test_a_users_plan_that_is_wrong_is_one_line(wrong: str, error: type[Exception], message: str):
    cost = ModelCost(1, 1, 3, 0.0, {"32x32": 1}, {"32x32": 3})
    with pytest.raises(error, match=message):
        plan_method(Planned(wrong), Schedule(16, PlannedData(80, 30, 20), cost, cost, 8))  # type: ignore[arg-type]


def test_records_of_older_versions_are_planned_or_refused_in_one_line(settings: Any, run_once: Any, tmp_path: Path):
    _, record = trained(settings, run_once, {"name": "scratch_longer"}, tmp_path)
    del record["config"]["training"]["eval_batch_size"]
    assert recorded_schedule(record).data.test_batch_size == 500
    assert record["notes"]["budget_macs"] > 0
    assert recorded_schedule(record).budget_macs is None  # the dense cost, not that of early_bird
    del record["notes"]
    assert recorded_schedule(record).budget_macs is None
    del record["data"]
    with pytest.raises(RunFolderError, match="the record of run run does not say its data; train it once more"):
        recorded_schedule(record)


def test_what_runs_share_is_planned_once(settings: Any):
    methods = ("lottery_ticket", "thinet")
    sections = settings(name="dense")
    del sections["method"]
    nodes: list[RunNode] = nodes_of(Grid(sections, (Block(methods, (0.5,), (0,)),), {}, ()))
    assert sorted(node.label for node in nodes) == ["dense", "lottery_ticket", "thinet"]
