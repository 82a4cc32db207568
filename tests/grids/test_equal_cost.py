"""Runs at equal cost: which ticket they start from, how long their schedule is, and that they cost what they should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from earlybird.errors import SweepError
from earlybird.grids.grid import RunNode, nodes_of
from earlybird.grids.run_node import at_equal_cost, run_node
from earlybird.grids.sweep import Sweep, failures, open_sweep, work
from earlybird.runs.record_file import recorded_training_macs
from earlybird.settings.run import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


# ThiNet needs channels that one layer alone reads.
CHAIN = """
from torch import nn

def network(num_classes, in_channels):
    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*block(in_channels, 8), *block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""


def record(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name / "record.json").read_text())


def equal_nodes(sweep: Sweep) -> dict[str, RunNode]:
    return {node.label: node for node in sweep.nodes if node.equal_to is not None}


def is_at_cost(found: dict[str, Any], macs: int) -> bool:
    """To half of a step of 20 images."""
    return abs(recorded_training_macs(found) - macs) <= 10 * found["final"]["train_macs"]


def test_a_ticket_that_is_drawn_before_the_end_stays_and_what_is_left_trains_it(grid, tmp_path: Path):
    methods = ("early_bird", "reinit", "early_bird:schedule=restart", "draw_1", "random")
    sweep = open_sweep(tmp_path / "cmp", grid(*methods, equal=methods[1:]), "a")
    work(sweep)
    assert failures(sweep) == {} and len(equal_nodes(sweep)) == 4
    early_bird = record(sweep.root, "early_bird-p0.5-s0")
    macs = recorded_training_macs(early_bird)
    for label, node in equal_nodes(sweep).items():
        found, full = record(sweep.root, node.id), record(sweep.root, node.equal_to[0])
        assert found["ticket"]["mask_digest"] == full["ticket"]["mask_digest"]
        assert found["cost"]["phases"]["search"]["macs"] == full["cost"]["phases"]["search"]["macs"]
        assert found["config"]["training"]["epochs"] == 12
        assert found["config"]["training"]["budget_macs"] == macs
        assert is_at_cost(found, macs), label
    # The same search and the same widths: the same number of images, and all of the schedule's learning rates.
    reinit = record(sweep.root, equal_nodes(sweep)["reinit"].id)
    images = [one["cost"]["phases"]["retrain"]["images"] for one in (reinit, early_bird)]
    assert images[0] == pytest.approx(images[1], abs=10)  # the smaller last batches fall elsewhere
    rates = [row["lr"] for row in reinit["metrics"] if row["phase"] == "retrain"]
    assert len(set(rates)) == 3 and rates[0] == 0.05


def test_a_search_as_long_as_the_schedule_is_shortened_with_it(grid, tmp_path: Path):
    methods = ("early_bird", "network_slimming", "thinet:finetune_steps=10", "lottery_ticket:rewind_epoch=2", "snip")
    one = grid(*methods, equal=methods[1:])
    (tmp_path / "chain.py").write_text(CHAIN)
    one.settings["model"]["name"] = f"{tmp_path / 'chain.py'}:network"
    sweep = open_sweep(tmp_path / "cmp", one, "a")
    work(sweep)
    assert failures(sweep) == {} and len(equal_nodes(sweep)) == 4
    macs = recorded_training_macs(record(sweep.root, "early_bird-p0.5-s0"))
    for label, node in equal_nodes(sweep).items():
        found = record(sweep.root, node.id)
        assert found["config"]["training"]["epochs"] < 12
        assert is_at_cost(found, macs), label


def finished(search: int, retrain: int, *, slim: int = 3, drawn: float = 1.0) -> dict[str, Any]:
    """The record of a run of 12 epochs of 10 images, one step each: a dense training is 12 * 10 * 3 = 360 MACs."""

    def network(macs: int) -> dict[str, Any]:
        return {"params": 1, "macs": 1, "train_macs": macs, "paper_gflops": 0.0}

    phases = {"search": {"macs": search}, "retrain": {"macs": retrain}, "evaluate": {"macs": 7}}
    return {
        "config": {"method": {"name": "thinet"}, "training": {"epochs": 12, "batch_size": 10, "eval_batch_size": 10}},
        "cost": {"phases": phases, "total": {"macs": search + retrain + 7}},
        "data": {"train_images": 10, "val_images": 0, "classes": 3, "image_shape": [3, 8, 8]},
        "dense": network(3), "final": network(slim), "ticket": {"fraction_of_schedule": drawn},
        "test": {"samples": 7}, "resolved": {"precision": "fp32"}, "notes": {},
    }  # fmt: skip


def test_fine_tuning_and_rewinding_are_left_out_of_what_shrinks(tiny_settings):
    def epochs(method: str, cost: dict[str, Any], **settings: Any) -> int:
        config = RunConfig.from_dict(tiny_settings(method, **settings))
        return at_equal_cost(config, cost, finished(120, 180))[0].epochs

    # ThiNet: 360 dense, 120 of fine-tuning, 240 slim; at 300 a third of 600 is left for 50 MACs an epoch.
    assert epochs("thinet", finished(360 + 120, 240, slim=2)) == 4
    # Twice 360 without the 2 epochs that the second training is spared: 24 T' + ... - 60 = 300.
    assert epochs("lottery_ticket", finished(360, 300), rewind_epoch=2) == 6
    assert epochs("lottery_ticket", finished(360, 360)) == 5
    # 6.25 epochs of 30 + 20: 7 would leave the last training 90 of its 140.
    assert epochs("network_slimming", finished(360, 240, slim=2)) == 6
    # 10 epochs of 30 and next to nothing: they cost all there is, 9 leave the last training 30 of its 0.
    assert epochs("network_slimming", finished(360, 0, slim=0)) == 10


@pytest.mark.parametrize(
    ("searched", "keeps"),
    [(120, True), (210, True), (211, False), (320, False)],  # early_bird trains for 180 of its 300
)
def test_a_search_that_leaves_less_than_half_of_early_birds_training_is_not_kept(tiny_settings, searched, keeps):
    config = RunConfig.from_dict(tiny_settings(draw_at=9))
    drawn = searched // 30 / 12  # which the plan takes from the setting, draw 9: 9 of the 12 steps
    training, keeps_search = at_equal_cost(config, finished(searched, 150, slim=2, drawn=drawn), finished(120, 180))
    assert (training.budget_macs, keeps_search) == (300, keeps)
    assert training.epochs == 12 if keeps else training.epochs < 12
    last = RunConfig.from_dict(tiny_settings(draw_at="last"))
    assert not at_equal_cost(last, finished(120, 0), finished(120, 180))[1]


def test_where_all_runs_have_a_budget_no_dense_run_stands_for_a_first_training(grid):
    one = grid("dense", "lottery_ticket")
    (shared,) = [node.dense_run for node in nodes_of(one) if node.label == "lottery_ticket"]
    one.settings["training"]["budget_macs"] = 1e9
    (alone,) = [node.dense_run for node in nodes_of(one) if node.label == "lottery_ticket"]
    assert (shared, alone) == ("dense-s0", None)


def test_a_schedule_that_is_too_short_for_a_setting_says_why_it_is_so_short(grid, tmp_path: Path):
    methods = ("early_bird", "lottery_ticket:rewind_epoch=6")
    sweep = open_sweep(tmp_path / "cmp", grid(*methods, equal=methods[1:]), "a")
    work(sweep)
    (why,) = failures(sweep).values()
    assert re.match(
        r"its schedule at the cost of early_bird-p0\.5-s0 is \d epochs: method\.rewind_epoch is 6; give", why
    )


def test_a_run_at_equal_cost_that_has_nothing_to_be_matched_to_says_so(grid, tmp_path: Path):
    sweep = open_sweep(tmp_path / "cmp", grid("snip", equal=("snip",)), "a")
    with pytest.raises(SweepError, match="holds no finished run; give the same command again"):
        run_node(sweep.root, sweep.nodes[-1])
