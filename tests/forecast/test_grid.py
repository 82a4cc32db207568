"""What a sweep will take: the trainings of a node by hand, and tickets that are drawn already where they were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from earlybird.forecast.grid import Epochs, planned_epochs, ticket_places
from earlybird.grids.grid import Block, Grid, RunNode, nodes_of
from earlybird.grids.sweep import open_sweep, work

SETTINGS = {"model": {"name": "vgg11"}, "data": {"name": "digits"}, "training": {"epochs": 4}}
HALF = 0.5  # what a step of the slim network costs, as a share of a dense one


def planned(method: str, *, ticket_at: float = 0.1, equal: tuple[str, ...] = ()) -> dict[str, Epochs]:
    nodes = nodes_of(Grid(SETTINGS, (Block((method, "early_bird"), (0.5,), (0,)),), {}, equal))
    return {node.id: planned_epochs(node, HALF, 8, 1000, ticket_at) for node in nodes}


@pytest.mark.parametrize(
    ("method", "dense", "slim"),
    [
        ("early_bird", 0.0, 0.75),  # its quarter of the search is another node's
        ("reinit", 0.0, 1.0),
        ("snip", 1.0, 0.0),
        ("snip_channels", 0.0, 1.0),
        ("lottery_ticket", 1.0, 0.0),  # the dense training is another node's
        ("uniform", 0.0, 0.25 / HALF + 0.75),
        ("scratch_longer", 0.0, 1 / HALF),
        ("dense_shorter", 0.25 + 0.75 * HALF, 0.0),
    ],
)
def test_a_node_by_hand_with_a_ticket_at_a_quarter(method: str, dense: float, slim: float):
    found = planned(method, ticket_at=0.25)[f"{method}-p0.5-s0"]
    assert (found.dense, found.slim) == (pytest.approx(dense), pytest.approx(slim))


def test_the_search_goes_to_its_last_draw():
    def search(method: str) -> Epochs:
        return next(epochs for name, epochs in planned(method, ticket_at=0.25).items() if name.startswith("search"))

    assert search("reinit") == Epochs(dense=0.25)
    assert search("network_slimming") == Epochs(dense=1.0)


@pytest.mark.parametrize("ticket_at", [0.1, 0.4])
def test_at_equal_cost_a_run_costs_what_early_bird_does(ticket_at: float):
    found = planned("lottery_ticket", ticket_at=ticket_at, equal=("lottery_ticket",))["lottery_ticket-p0.5-s0-equal"]
    assert found.cost(HALF) == pytest.approx(ticket_at + (1 - ticket_at) * HALF)


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
    # The plan with the MACs of the cut network is what was executed, but for the smaller last batch of an epoch.
    slim = record["final"]["train_macs"] / record["dense"]["train_macs"]

    def shares(node: RunNode) -> float:
        return planned_epochs(node, slim, 2, 100, places[0.5, 0]).cost(slim)

    phases = record["cost"]["phases"]
    executed = phases["search"]["macs"] + phases["retrain"]["macs"]
    plan = sum(shares(node) for node in sweep.nodes if node.kind == "search" or node.label == "early_bird")
    images = phases["search"]["images"] + phases["retrain"]["images"]
    assert plan * images * record["dense"]["train_macs"] == pytest.approx(executed, rel=0.02)
