"""Plans of a sweep's nodes: the trainings of a node by hand, and tickets drawn already where they were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from earlybird.cost import MethodPlan, ModelCost, PlannedData, Schedule
from earlybird.forecast.grid import plan_node, ticket_places
from earlybird.grids.grid import Block, Grid, nodes_of
from earlybird.grids.sweep import open_sweep, work
from earlybird.settings.method import EarlyBirdTraining

SETTINGS = {"model": {"name": "vgg11"}, "data": {"name": "digits"}, "training": {"epochs": 4}}
# Ten epochs of 16 steps of 50 images; a step of the slim network costs half of a dense one.
DATA = PlannedData(train_images=800, test_images=0, batch_size=50)
STEPS = 160


def network(macs: int) -> ModelCost:
    return ModelCost(1, macs, 3 * macs, 2.0 * macs, {"32x32": macs}, {"32x32": 3 * macs})


def schedule(ticket_step: int) -> Schedule:
    return Schedule(STEPS, DATA, network(100), network(50), ticket_step)


def planned(method: str, ticket_step: int, *, equal: tuple[str, ...] = ()) -> dict[str, MethodPlan]:
    nodes = nodes_of(Grid(SETTINGS, (Block((method, "early_bird"), (0.5,), (0,)),), {}, equal))
    return {node.id: plan_node(node, schedule(ticket_step)) for node in nodes}


def steps(plan: MethodPlan) -> dict[str, int]:
    return {name: sum(stage.steps for stage in plan.stages if stage.network == name) for name in ("dense", "slim")}


@pytest.mark.parametrize(
    ("method", "dense", "slim"),
    [
        ("early_bird", 0, 120),  # its quarter of the search is another node's
        ("reinit", 0, 160),
        ("snip", 161, 0),  # with the batch that scores
        ("snip_channels", 1, 160),
        ("lottery_ticket", 160, 0),  # the dense training is another node's
        ("uniform", 0, 2 * 40 + 120),
        ("scratch_longer", 0, 2 * 160),
        ("dense_shorter", 40 + 60, 0),
    ],
)
def test_a_node_by_hand_with_a_ticket_at_a_quarter(method: str, dense: int, slim: int):
    assert steps(planned(method, 40)[f"{method}-p0.5-s0"]) == {"dense": dense, "slim": slim}


def test_the_search_goes_to_its_last_draw_and_is_not_tested():
    def search(method: str) -> MethodPlan:
        return next(plan for name, plan in planned(method, 40).items() if name.startswith("search"))

    assert steps(search("reinit")) == {"dense": 40, "slim": 0}
    assert steps(search("network_slimming")) == {"dense": 160, "slim": 0}
    assert search("reinit").tested == ()


@pytest.mark.parametrize("method", ["lottery_ticket", "reinit", "network_slimming", "snip"])
@pytest.mark.parametrize("ticket_step", [16, 64])
def test_at_equal_cost_a_run_costs_what_early_bird_does(method: str, ticket_step: int):
    on, found = schedule(ticket_step), planned(method, ticket_step, equal=(method,))
    early_bird = 50 * 3 * (ticket_step * 100 + (STEPS - ticket_step) * 50)
    equal = found[f"{method}-p0.5-s0-equal"].training_macs(on)
    if method == "reinit":  # It starts from the ticket of the run with the full schedule.
        equal += next(plan for name, plan in found.items() if name.startswith("search")).training_macs(on)
    assert equal == pytest.approx(early_bird, abs=0.5 * 50 * 300)


def test_controls_and_runs_at_equal_cost_are_matched_to_the_early_bird_beside_them():
    late = EarlyBirdTraining(draw_at="last")
    nodes = {n.id: n for n in nodes_of(Grid(SETTINGS, (Block(("uniform", "snip"), (0.5,), (0,)),), {}, ("snip",)))}
    on = schedule(40)
    cost = late.plan(on).training_macs(on)
    for name in ("uniform-p0.5-s0", "snip-p0.5-s0-equal"):
        assert plan_node(nodes[name], on, late).training_macs(on) == pytest.approx(cost, abs=0.5 * 50 * 300)
        assert plan_node(nodes[name], on).training_macs(on) < 0.9 * cost


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_drawn_ticket_is_planned_where_it_was_drawn(tiny_settings: Any, tmp_path: Path):
    settings = tiny_settings("dense")
    del settings["method"]
    grid = Grid(settings, (Block(("early_bird", "uniform"), (0.5,), (0,)),), {"round_to": 1}, ())
    sweep = open_sweep(tmp_path / "cmp", grid, "a")
    assert ticket_places(sweep) == {}
    work(sweep)
    record = json.loads((sweep.root / "early_bird-p0.5-s0" / "record.json").read_text())
    places = ticket_places(sweep)
    assert places == {(0.5, 0): record["ticket"]["fraction_of_schedule"]}
