"""From methods, ratios and seeds to folders of work: what is shared, what waits for what, what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from earlybird.errors import ConfigError
from earlybird.grids.grid import Block, Grid, RunNode, at_early_birds_cost, merged, nodes_of, parse_method
from earlybird.settings.method import TicketRequest

SETTINGS = {"model": {"name": "vgg11"}, "data": {"name": "digits"}, "training": {"epochs": 4}}


def grid(*methods: str, ratios: Any = (0.5,), seeds: Any = (0,), equal: Any = (), **method_settings: Any) -> Grid:
    return Grid(SETTINGS, (Block(methods, ratios, seeds),), method_settings, equal)


def by_id(one: Grid) -> dict[str, RunNode]:
    return {node.id: node for node in nodes_of(one)}


def searches(one: Grid) -> list[RunNode]:
    return [node for node in nodes_of(one) if node.kind == "search"]


def test_a_search_keeps_the_name_that_it_had_before_draws_had_a_floor():
    assert searches(grid("early_bird", "network_slimming"))[0].id == "search-20dcba-s0"
    (other,) = searches(grid("early_bird", min_draw_steps=1))
    assert other.id != "search-20dcba-s0" and other.config.to_dict()["method"]["min_draw_steps"] == 1


def test_one_search_serves_every_ratio_draw_and_control_of_a_seed():
    methods = ("early_bird", "reinit", "random", "shuffled", "draw_0", "draw_last", "network_slimming", "uniform")
    found = searches(grid(*methods, ratios=(0.3, 0.5), seeds=(0, 1)))
    assert [node.seed for node in found] == [0, 1]
    asked = {TicketRequest(ratio, draw) for ratio in (0.3, 0.5) for draw in ("rule", 0, "last")}
    assert set(found[0].requests) == asked and len(found[0].requests) == len(asked)
    runs = [node for node in nodes_of(grid(*methods)) if node.kind == "run"]
    assert {node.search for node in runs} == {searches(grid(*methods))[0].id}
    assert all(not node.is_asked for node in found)


def test_a_search_with_other_settings_is_another_search():
    assert len(searches(grid("early_bird", "early_bird:penalty=1e-5"))) == 2
    assert len(searches(grid("early_bird", "network_slimming:round_to=1"))) == 2
    # What only the retraining differs in shares the search.
    assert len(searches(grid("early_bird", "early_bird:schedule=restart", "early_bird:retrain_penalty=1e-4"))) == 1


def test_a_setting_of_all_methods_keeps_them_on_one_search():
    one = grid("early_bird", "network_slimming", "reinit", penalty=1e-5, round_to=1)
    (search,) = searches(one)
    assert search.config.method.penalty == 1e-5
    assert all(node.config.method.round_to == 1 for node in nodes_of(one))


def test_the_dense_training_is_run_once_for_what_starts_from_it():
    nodes = by_id(grid("lottery_ticket", "thinet", "lottery_ticket:rewind_epoch=1", ratios=(0.3, 0.5)))
    dense = nodes["dense-s0"]
    assert not dense.is_asked
    starting = [node.id for node in nodes.values() if node.dense_run == "dense-s0"]
    assert starting == ["lottery_ticket-p0.3-s0", "lottery_ticket-p0.5-s0", "thinet-p0.3-s0", "thinet-p0.5-s0"]
    assert nodes["lottery_ticket_rewind_epoch=1-p0.5-s0"].dense_run is None  # its weights are in no finished run


def test_what_others_need_comes_first():
    order = [node.id for node in nodes_of(grid("lottery_ticket", "early_bird", equal=("lottery_ticket",)))]
    assert order[0].startswith("search-") and order[1] == "dense-s0" and order[-1] == "lottery_ticket-p0.5-s0-equal"
    places = {name: place for place, name in enumerate(order)}
    for node in nodes_of(grid("lottery_ticket", "early_bird", equal=("lottery_ticket",))):
        assert all(places[need] < places[node.id] for need in node.needs)


def test_a_method_without_a_ratio_is_run_once_for_all_of_them():
    ids = [node.id for node in nodes_of(grid("dense", "early_bird", ratios=(0.3, 0.5, 0.7)))]
    assert ids.count("dense-s0") == 1 and len(ids) == 5


def test_a_run_at_equal_cost_waits_for_the_full_one_and_for_early_bird():
    nodes = by_id(grid("snip", ratios=(0.3, 0.5), equal=("snip",)))
    equal = nodes["snip-p0.3-s0-equal"]
    assert equal.needs == ("snip-p0.3-s0", "early_bird-p0.3-s0") and equal.search is None
    assert not nodes["early_bird-p0.3-s0"].is_asked


def test_a_method_without_a_ratio_is_matched_at_each_of_them():
    nodes = by_id(grid("dense", ratios=(0.3, 0.5), equal=("dense",)))
    assert nodes["dense-p0.5-s0-equal"].needs == ("dense-s0", "early_bird-p0.5-s0")


def test_a_preset_keeps_what_makes_it_one_whatever_all_methods_are_given():
    nodes = by_id(grid("reinit", "early_bird", weights="rewind"))
    assert nodes["reinit-p0.5-s0"].config.method.weights == "reinit"
    assert nodes["early_bird-p0.5-s0"].config.method.weights == "rewind"


def test_settings_of_one_method_win_over_those_of_all():
    nodes = by_id(grid("early_bird:round_to=4", round_to=1))
    assert nodes["early_bird_round_to=4-p0.5-s0"].config.method.round_to == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dense", ("dense", {})),
        ("early_bird:draw_at=7:clock=epochs", ("early_bird", {"draw_at": 7, "clock": "epochs"})),
        ("early_bird:penalty=1.0e-5", ("early_bird", {"penalty": 1e-5})),
        ("my.py:Mine:strength=[1, 2]", ("my.py:Mine", {"strength": [1, 2]})),
        ("early_bird:criterion=my.py:score:window=3", ("early_bird", {"criterion": "my.py:score", "window": 3})),
    ],
)
def test_a_method_and_its_settings_are_told_apart(text, expected):
    assert parse_method(text) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nodes_of(grid("magic")), "method.name is 'magic'; give one of early_bird, dense"),
        (lambda: nodes_of(grid("early_bird", magic=1)), "no method of the grid has a setting 'magic'; theirs: "),
        (lambda: nodes_of(grid("early_bird:magic=1")), "early_bird:magic=1: unknown key in 'method': 'magic'"),
        (lambda: nodes_of(grid("early_bird:window=0")), "early_bird:window=0: method.window is 0"),
        (lambda: nodes_of(grid("dense", equal=("snip",))), "--equal-cost names 'snip', which is not compared"),
        (lambda: Block(()), "methods is .*; give at least one method"),
        (lambda: Block(("dense",), (1.0,)), r"ratios is \[1.0\]; give numbers in \[0, 1\)"),
        (lambda: Block(("dense",), (0.5,), (-1,)), r"seeds is \[-1\]; give integers in"),
        (lambda: parse_method("early_bird:name=snip"), "'early_bird:name=snip' sets its own name"),
        (lambda: parse_method("early_bird:window=[1"), "'\\[1' cannot be read as YAML"),
    ],
)
def test_wrong_input_is_one_line_with_the_cure(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_grid_comes_back_from_json_and_grows():
    one, other = grid("early_bird", ratios=(0.3,), equal=("early_bird",), round_to=1), grid("dense", round_to=1)
    assert Grid.from_dict(json.loads(json.dumps(dataclasses.asdict(one)))) == one
    both = merged([one, other])
    assert both.blocks == (*one.blocks, *other.blocks) and both.equal_cost == ("early_bird",)
    assert merged([both, one]) == both


def test_the_name_of_a_search_is_that_of_its_settings_and_tickets():
    (one,), (same,) = searches(grid("early_bird")), searches(grid("early_bird", "reinit", "random"))
    assert one.id == same.id
    (more,) = searches(grid("early_bird", "draw_0"))
    assert one.id != more.id  # a folder holds the search of just these tickets


@pytest.mark.parametrize(
    ("method", "is_matched"),
    [("early_bird", True), ("random", False), ("uniform", True), ("dense", True), ("reinit", False), ("snip", False),
     ("draw_0", False), ("early_bird:weights=reinit", False), ("early_bird:channels=shuffled", True),
     ("scratch_longer", True), ("shuffled", True), ("shuffled:schedule=restart", False),
     ("early_bird:draw_at=7", False)],
)  # fmt: skip
def test_what_costs_as_much_as_early_bird_as_it_is(method, is_matched):
    assert at_early_birds_cost(method) == is_matched


@pytest.mark.parametrize(
    ("settings", "start"),
    [({}, "ticket"), ({"schedule": "restart"}, 0), ({"weights": "reinit"}, 0),
     ({"weights": "rewind", "rewind_epoch": 2}, 2), ({"weights": "rewind"}, 0)],
)  # fmt: skip
def test_what_is_matched_to_early_birds_cost_knows_where_it_goes_on(settings, start):
    nodes = by_id(grid("early_bird", "uniform", "dense_shorter", **settings))
    for name in ("uniform", "dense_shorter"):
        assert nodes[f"{name}-p0.5-s0"].config.method.early_bird_start == start


@pytest.mark.parametrize("method", ["uniform", "dense_shorter", "scratch_longer"])
def test_a_control_whose_ticket_decides_its_cost_is_not_run_at_equal_cost(method):
    with pytest.raises(
        ConfigError, match=f"--equal-cost names '{method}', whose ticket decides its cost; leave it out"
    ):
        nodes_of(grid("early_bird", method, equal=(method,)))
