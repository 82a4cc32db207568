"""The controls: what each keeps of the ticket, and what it pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from earlybird.core import ChannelGroups, Ticket
from earlybird.cost import ModelCost, PlannedData, steps_that_buy
from earlybird.cost import training_macs as training_macs_of
from earlybird.errors import ConfigError, MethodError, TicketError
from earlybird.methods.early_bird import at_random, shuffled
from earlybird.methods.uniform import uniform_mask
from earlybird.runs.run import run
from earlybird.settings.catalog import Uniform
from earlybird.settings.run import RunConfig
from earlybird.slimming import channel_groups


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


@pytest.fixture
def ticket(tiny_settings, tmp_path: Path, run_once) -> Path:
    run_once(tiny_settings(), tmp_path / "search")
    return tmp_path / "search" / "ticket.safetensors"


@pytest.fixture
def early_bird(tiny_settings, tmp_path: Path, run_once) -> dict[str, Any]:
    return run_once(tiny_settings(), tmp_path / "early_bird")


def training_macs(record: dict[str, Any]) -> int:
    return record["cost"]["total"]["macs"] - record["cost"]["phases"]["evaluate"]["macs"]


def test_shuffled_keeps_the_counts_of_each_layer_and_other_channels(tiny_settings, ticket, early_bird, tmp_path: Path):
    record = go(tiny_settings(channels="shuffled"), tmp_path / "run", ticket=ticket)
    assert record["layers"] == early_bird["layers"]
    assert record["ticket"]["mask_digest"] != early_bird["ticket"]["mask_digest"]
    assert training_macs(record) == training_macs(early_bird)
    assert "as many channels in each layer, drawn by lot" in record["ticket"]["flags"]


def test_random_keeps_the_ratio_of_the_whole_network_alone(tiny_settings, ticket, early_bird, tmp_path: Path):
    record = go(tiny_settings(channels="random"), tmp_path / "run", ticket=ticket)
    assert record["ticket"]["realised_ratio"] == early_bird["ticket"]["realised_ratio"] == 0.5
    assert record["cost"]["phases"]["search"]["macs"] == early_bird["cost"]["phases"]["search"]["macs"]
    kept = {layer["name"]: layer["kept"] for layer in record["layers"]}
    assert kept["left.1"] == kept["right.1"]  # tied units together


def test_lots_are_other_for_another_seed_and_the_same_for_the_same(tiny_settings, tmp_path: Path):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = tiny_settings(channels="shuffled", draw_at=0, training={"seed": seed, "epochs": 1})
        digests.append(go(settings, tmp_path / name)["ticket"]["mask_digest"])
    assert digests[0] == digests[1] != digests[2]


def test_a_lot_gives_every_unit_the_same_chance_however_many_channels_it_ties():
    tied, free = torch.arange(10), torch.arange(10, 20)
    groups = ChannelGroups({"a": tied, "b": tied, "c": tied, "d": free})
    mask = groups.mask_of(torch.ones(20, dtype=torch.bool))
    like = Ticket(mask=mask, weights={}, prune_ratio=0.5, realised_ratio=0.0, drawn_after=0)
    lot, removed = np.random.default_rng(0), np.zeros(20)
    for _ in range(400):
        removed += ~groups.keep_units(at_random(like, groups, lot)).numpy()
    # 200 of 400 expected of each; five standard deviations are 50.
    assert removed.min() > 150 and removed.max() < 250 and removed.sum() == 400 * 10


def test_shuffling_permutes_within_units_of_the_same_layers_only():
    tied, free = torch.arange(6), torch.arange(6, 10)
    groups = ChannelGroups({"a": tied, "b": tied, "c": free})
    keep = torch.tensor([True] * 2 + [False] * 4 + [True] * 3 + [False])
    seen = set()
    for seed in range(30):
        found = groups.keep_units(shuffled(groups.mask_of(keep), groups, np.random.default_rng(seed)))
        assert int(found[:6].sum()) == 2 and int(found[6:].sum()) == 3
        seen.add(tuple(found.tolist()))
    assert len(seen) > 10


def test_uniform_has_the_tickets_macs_and_spends_early_birds_macs(tiny_settings, ticket, early_bird, tmp_path: Path):
    record = go(tiny_settings("uniform"), tmp_path / "run", ticket=ticket)
    # One of the 16 tied units is a twelfth of the MACs: so small a network is not matched to 1 %, and it says so.
    share = record["final"]["macs"] / early_bird["final"]["macs"]
    assert share == pytest.approx(1, abs=0.09)
    theirs = [f"of the ticket: {flag}" for flag in early_bird["ticket"]["flags"]]
    assert record["ticket"]["flags"] == [*theirs, f"{share:.3f} of the ticket's MACs"]
    step = 20 * record["final"]["train_macs"]
    assert training_macs(record) == pytest.approx(training_macs(early_bird), abs=step)
    assert list(record["cost"]["phases"]) == ["slim", "train", "evaluate"]  # it pays for no search
    notes = record["notes"]
    assert notes["budget_macs"] == training_macs(early_bird)
    assert (notes["matched_macs"], notes["macs"]) == (early_bird["final"]["macs"], record["final"]["macs"])


def test_uniform_widths_lose_the_same_share_everywhere():
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64),
                        nn.ReLU(), nn.Conv2d(64, 2, 1))  # fmt: skip
    groups = channel_groups(net, torch.zeros(2, 3, 4, 4))
    like = Ticket(
        mask=groups.mask_of(torch.ones(96, dtype=torch.bool)), weights={}, prune_ratio=0.5, realised_ratio=0.5,
        drawn_after=0, round_to=8,
    )  # fmt: skip

    def macs(mask: Any) -> int:
        a, b = mask.kept_counts().values()
        return 3 * a + a * b + 2 * b

    for target in (macs_at(16, 32), macs_at(24, 48), macs_at(8, 16)):
        mask, round_to = uniform_mask(groups, target, macs, like, 0.01)
        assert macs(mask) == target and round_to == 8
    # 20 and 40 are multiples of 4, which widths in multiples of 8 come no nearer to than 17 %.
    mask, round_to = uniform_mask(groups, macs_at(20, 40), macs, like, 0.01)
    assert list(mask.kept_counts().values()) == [20, 40] and round_to == 4


def macs_at(a: int, b: int) -> int:
    return 3 * a + a * b + 2 * b


def test_scratch_longer_trains_new_weights_of_the_tickets_shape_for_the_dense_cost(
    tiny_settings, ticket, early_bird, tmp_path: Path, run_once
):
    dense = run_once(tiny_settings("dense"), tmp_path / "dense")
    record = go(tiny_settings("scratch_longer"), tmp_path / "run", ticket=ticket)
    assert record["layers"] == early_bird["layers"]
    assert training_macs(record) == pytest.approx(training_macs(dense), abs=20 * record["final"]["train_macs"])
    assert record["cost"]["phases"]["train"]["images"] > 12 * 90


def test_a_stretched_schedule_drops_its_rate_at_the_same_fractions(tiny_settings, ticket, tmp_path: Path):
    record = go(tiny_settings("scratch_longer"), tmp_path / "run", ticket=ticket)
    rows = record["metrics"]
    end = rows[-1]["step"]
    for row in rows:
        done = (row["step"] - 1) / end  # the rate of the epoch's last step
        assert row["lr"] == pytest.approx(0.05 * 0.1 ** ((done >= 0.5) + (done >= 0.75)))


def test_dense_shorter_trains_the_dense_network_for_early_birds_cost(tiny_settings, ticket, early_bird, tmp_path: Path):
    record = go(tiny_settings("dense_shorter"), tmp_path / "run", ticket=ticket)
    assert record["final"]["params"] == record["dense"]["params"] and record["ticket"] is None
    assert training_macs(record) == pytest.approx(training_macs(early_bird), abs=20 * record["dense"]["train_macs"])
    assert record["metrics"][-1]["lr"] == pytest.approx(0.05 * 0.01)  # the whole schedule, in less time
    assert record["notes"]["prune_ratio"] == 0.5


@pytest.mark.parametrize("method", ["uniform", "scratch_longer", "dense_shorter"])
def test_a_matched_control_without_a_ticket_says_where_to_get_one(method, tiny_settings, tmp_path: Path):
    with pytest.raises(MethodError, match=rf"{method} is matched to an Early-Bird ticket.*retrain --ticket FILE"):
        go(tiny_settings(method), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ticket_of_another_schedule_or_network_is_refused(tiny_settings, ticket, tiny: Path, tmp_path: Path):
    with pytest.raises(TicketError, match="schedule of 60 steps, this run has 50"):
        go(tiny_settings("uniform", training={"epochs": 10}), tmp_path / "a", ticket=ticket)
    wider = {"nn.Conv2d(12, 16,": "nn.Conv2d(12, 17,", "Norm2d(16)": "Norm2d(17)", "Linear(16": "Linear(17"}
    text = tiny.read_text()
    for old, new in wider.items():
        text = text.replace(old, new)
    tiny.write_text(text)
    for method in ("uniform", "dense_shorter", "scratch_longer"):
        with pytest.raises(TicketError, match="belongs to another network .size mismatch for left.0.weight"):
            go(tiny_settings(method), tmp_path / "b", ticket=ticket)


@pytest.mark.parametrize("method", ["dense", "snip", "lottery_ticket", "thinet"])
def test_a_method_that_takes_no_ticket_says_so(method, tiny_settings, ticket, tmp_path: Path):
    with pytest.raises(MethodError, match=f"method {method} takes no ticket"):
        go(tiny_settings(method), tmp_path / "run", ticket=ticket)


def test_a_ticket_and_a_dense_run_together_are_refused(tiny_settings, ticket, tmp_path: Path):
    with pytest.raises(MethodError, match="from a ticket or from a dense run, not from both"):
        go(tiny_settings(), tmp_path / "run", ticket=ticket, dense_run=tmp_path / "search")


# 90 images in batches of 20: four of 20 and one of 10.
DATA = PlannedData(train_images=90, test_images=0, batch_size=20)
COST = ModelCost(1, 40, 100, 0.0, {"32x32": 40}, {"32x32": 100})


@pytest.mark.parametrize(("step", "images"), [(0, 0), (1, 20), (4, 80), (5, 90), (6, 110), (10, 180)])
def test_images_by_a_step(step, images):
    assert DATA.images_by(step) == images


@pytest.mark.parametrize(
    ("macs", "steps"),
    [
        (9_000, 5),
        (18_000, 10),
        (2_000, 1),
        (2_900, 1),
        (3_100, 2),
        (1, 1),
        (8_900, 5),
        (8_400, 4),
        (9_900, 5),
        (10_100, 6),
    ],
)
def test_steps_that_a_budget_buys(macs, steps):
    assert steps_that_buy(macs, COST, DATA) == steps


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 10, 33])
def test_validation_is_part_of_what_a_budget_buys(steps):
    data = replace(DATA, val_images=10)
    epochs = -(-steps // 5)  # the last is validated where the training ends, wherever that is
    macs = training_macs_of(COST, data, 0, steps)
    assert macs == 100 * DATA.images_by(steps) + 400 * epochs
    assert steps_that_buy(macs, COST, data) == steps
    if steps > 5:
        assert training_macs_of(COST, data, 5, steps) == macs - 9_400


def test_a_tolerance_out_of_range_names_itself():
    with pytest.raises(ConfigError, match=r"method\.tolerance is 0.0; give a number in \(0, 1\)"):
        Uniform(tolerance=0.0)


@pytest.mark.parametrize("method", ["early_bird", "uniform", "scratch_longer", "dense_shorter"])
def test_a_ticket_that_no_early_bird_search_drew_is_refused(method, tiny_settings, tmp_path: Path, run_once):
    run_once(tiny_settings("snip", form="channels", round_to=1), tmp_path / "snip")
    with pytest.raises(TicketError, match=f"the ticket was left by snip; {method} takes one of an Early-Bird search"):
        go(tiny_settings(method), tmp_path / "run", ticket=tmp_path / "snip" / "ticket.safetensors")


def test_a_ticket_of_another_ratio_is_refused(tiny_settings, ticket, tmp_path: Path):
    with pytest.raises(TicketError, match="the ticket is of ratio 0.5, --ratio is 0.3; give the ticket's"):
        go(tiny_settings(prune_ratio=0.3), tmp_path / "run", ticket=ticket)


def test_a_ticket_of_the_last_draw_that_goes_on_says_that_nothing_was_trained(tiny_settings, tmp_path: Path):
    flag = "drawn when the schedule was over: nothing was trained after the cut"
    assert flag in go(tiny_settings(draw_at="last"), tmp_path / "last")["flags"]
    again = go(tiny_settings(draw_at="last", schedule="restart"), tmp_path / "again")
    assert flag not in again["flags"] and again["cost"]["phases"]["retrain"]["images"] == 12 * 90


def test_with_validation_the_budgets_are_still_what_was_executed(tiny_settings, tiny: Path, tmp_path: Path, run_once):
    tiny.write_text(tiny.read_text().replace("split(90, 0), None,", "split(90, 0), split(20, 2),"))
    dense = run_once(tiny_settings("dense"), tmp_path / "dense")
    whole = run_once(tiny_settings(), tmp_path / "whole")
    ticket = tmp_path / "whole" / "ticket.safetensors"
    early_bird = go(tiny_settings(), tmp_path / "early_bird", ticket=ticket)
    assert training_macs(early_bird) == training_macs(whole)
    # The epoch that the search ended in is validated once, by the retraining.
    rows = [row for row in whole["metrics"] if row["val_accuracy"] is not None]
    assert [row["step"] for row in rows] == list(range(5, 65, 5))
    for method in ("uniform", "dense_shorter"):
        record = go(tiny_settings(method), tmp_path / method, ticket=ticket)
        assert record["notes"]["budget_macs"] == training_macs(whole)
        step = 20 * record["final"]["train_macs"] + 20 * record["final"]["macs"]
        assert training_macs(record) == pytest.approx(training_macs(whole), abs=step)
    longer = go(tiny_settings("scratch_longer"), tmp_path / "longer", ticket=ticket)
    step = 20 * longer["final"]["train_macs"] + 20 * longer["final"]["macs"]
    assert training_macs(longer) == pytest.approx(training_macs(dense), abs=step)
