"""Network slimming: the global threshold, the second training, and the search that it shares with Early-Bird."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from earlybird.core import Ticket
from earlybird.errors import ConfigError, MethodError, TicketError
from earlybird.runs.run import run, run_search
from earlybird.settings.catalog import NetworkSlimming
from earlybird.settings.method import TicketRequest, check_requests
from earlybird.settings.run import RunConfig


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def test_channels_below_the_global_threshold_go_and_no_others(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("network_slimming", round_to=1, policy="inner", prune_ratio=0.25), tmp_path / "run")
    ticket = Ticket.load(tmp_path / "run" / "ticket.safetensors")
    scales = ticket.weights["stem.1.weight"].abs()  # under `inner` the 12 channels of the stem alone may go
    threshold = scales.sort().values[3]  # 0.25 * 12 = 3 lie below it
    assert torch.equal(ticket.mask["stem.1"], scales >= threshold)
    assert record["ticket"]["rule"] == "chosen" and record["ticket"]["fraction_of_schedule"] == 1.0


def test_layers_compete_for_the_same_threshold(tiny_settings, tmp_path: Path):
    go(tiny_settings("network_slimming", round_to=1, prune_ratio=0.4), tmp_path / "run")
    ticket = Ticket.load(tmp_path / "run" / "ticket.safetensors")
    stem = ticket.weights["stem.1.weight"].abs()
    branches = (ticket.weights["left.1.weight"].abs() + ticket.weights["right.1.weight"].abs()) / 2
    values = torch.cat([stem, branches])
    threshold = values.sort().values[round(0.4 * 28)]
    assert torch.equal(ticket.mask["stem.1"], stem >= threshold)
    assert torch.equal(ticket.mask["left.1"], branches >= threshold)


def test_it_trains_twice_over_the_whole_schedule_the_second_time_without_penalty(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("network_slimming", round_to=1), tmp_path / "run")
    phases = record["cost"]["phases"]
    assert phases["search"]["images"] == phases["retrain"]["images"] == 12 * 90
    assert phases["retrain"]["macs"] == 12 * 90 * record["final"]["train_macs"]
    assert record["metrics"][12]["lr"] == 0.05  # from the start again


@pytest.fixture
def tickets(tiny_settings, tmp_path: Path) -> dict[TicketRequest, Path]:
    """One search that leaves a ticket of the rule, of draws 0 and 3 and of the end, at two ratios."""
    requests = [TicketRequest(ratio, draw) for ratio in (0.3, 0.5) for draw in ("rule", 0, 3, "last")]
    return run_search(RunConfig.from_dict(tiny_settings()), requests, tmp_path / "search", quiet=True)


def test_one_search_serves_slimming_early_bird_and_every_draw(tiny_settings, tickets, tmp_path: Path, run_once):
    """Each run that starts from a ticket of the search ends as it would alone, and is charged as it would be."""
    for method, values, request in (
        ("early_bird", {"prune_ratio": 0.3}, TicketRequest(0.3)),
        ("early_bird", {"draw_at": 0}, TicketRequest(0.5, 0)),
        ("early_bird", {"draw_at": 3}, TicketRequest(0.5, 3)),
        ("early_bird", {"channels": "shuffled"}, TicketRequest(0.5)),
        ("early_bird", {"weights": "reinit", "prune_ratio": 0.3}, TicketRequest(0.3)),
        ("network_slimming", {"round_to": 1}, TicketRequest(0.5, "last")),
    ):
        name = "-".join([method, *map(str, values.values())])
        alone = run_once(tiny_settings(method, **values), tmp_path / f"{name}-alone")
        shared = go(tiny_settings(method, **values), tmp_path / f"{name}-shared", ticket=tickets[request])
        one, other = (load_file(tmp_path / f"{name}-{how}" / "model.safetensors") for how in ("alone", "shared"))
        assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one), name
        for phase in alone["cost"]["phases"]:
            for key in ("images", "macs", "paper_flops"):
                assert alone["cost"]["phases"][phase][key] == shared["cost"]["phases"][phase][key], (name, phase, key)
        assert alone["ticket"]["mask_digest"] == shared["ticket"]["mask_digest"]


def test_a_ticket_of_draw_0_costs_no_search_and_says_that_it_knows_nothing(tiny_settings, tmp_path: Path):
    record = go(tiny_settings(draw_at=0), tmp_path / "run")
    assert record["ticket"]["step"] == 0 and record["ticket"]["draw"] == 0
    assert record["ticket"]["flags"] == ["all scores were equal: the mask carries no information"]
    assert record["cost"]["phases"]["search"]["images"] == 0
    assert record["cost"]["phases"]["retrain"]["images"] == 12 * 90
    assert {layer["name"]: layer["kept"] for layer in record["layers"]} == {"stem.1": 6, "left.1": 8, "right.1": 8}


def test_a_ticket_of_draw_5_is_drawn_after_five_draws_whatever_the_rule_says(tiny_settings, tmp_path: Path):
    record = go(tiny_settings(draw_at=5, epsilon=1e-9), tmp_path / "run")
    assert record["ticket"]["draw"] == record["ticket"]["step"] == 5  # 60 steps: one draw after each
    assert record["ticket"]["rule"] == "chosen"


def test_a_draw_that_the_search_does_not_come_to_is_refused_before_any_training(tiny_settings, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"method\.draw_at is 61; this search has 60 draws: give 0 to 60"):
        go(tiny_settings(draw_at=61), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"method\.draw_at is 3; this search has 2 draws: give 0 to 2"):
        go(tiny_settings(draw_at=3, clock="epochs", max_search_epochs=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_killed_between_two_tickets_leaves_the_same_tickets(
    tiny_settings, tickets, tmp_path: Path, monkeypatch
):
    from earlybird.training import loop

    count, original = [0], loop._train_step

    def step(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        original(*arguments)

    settings = RunConfig.from_dict(tiny_settings(training={"checkpoint_every": 1}))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            run_search(settings, list(tickets), tmp_path / "killed", quiet=True)
    again = run_search(settings, list(tickets), tmp_path / "killed", quiet=True)
    for request, path in tickets.items():
        one, other = Ticket.load(path), Ticket.load(again[request])
        assert one.mask == other.mask and one.notes["step"] == other.notes["step"]
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_the_folder_of_a_search_holds_just_its_tickets(tiny_settings, tickets, tmp_path: Path):
    names = {path.name for path in (tmp_path / "search").glob("ticket*")}
    assert names == {f"ticket-p{p}{when}.safetensors" for p in (0.3, 0.5) for when in ("", "-draw0", "-draw3", "-last")}
    with pytest.raises(
        ConfigError, match=r"holds a search of the ratios \[0.3, 0.5\] at the draws \['rule', 0, 3, 'last'\]"
    ):
        run_search(RunConfig.from_dict(tiny_settings()), [TicketRequest(0.3)], tmp_path / "search", quiet=True)


def test_slimming_takes_no_ticket_of_an_earlier_draw(tiny_settings, tickets, tmp_path: Path):
    with pytest.raises(
        TicketError, match=r"drawn at step 3 of 60; network_slimming takes one of the end: search with --m"
    ):
        go(tiny_settings("network_slimming", round_to=1), tmp_path / "run", ticket=tickets[TicketRequest(0.5, 3)])
    assert not (tmp_path / "run").exists()


def test_a_network_without_batch_norm_is_refused_before_any_training(tiny_settings, tiny: Path, tmp_path: Path):
    tiny.write_text(tiny.read_text().replace("BatchNorm2d", "InstanceNorm2d"))
    with pytest.raises(
        MethodError,
        match="method network_slimming cannot handle this network: it ranks BatchNorm scales, and the network has none",
    ):
        go(tiny_settings("network_slimming"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "--ratios is .*different numbers"),
        ([TicketRequest(1.0)], r"--ratios is \[1.0\]"),
        ([TicketRequest(0.5), TicketRequest(0.5)], "different numbers"),
        ([TicketRequest(0.5, 1), TicketRequest(0.5000001, 1)], "different numbers"),
        ([TicketRequest(0.5, -1)], r"--draws is \[-1\]; give rule, last, or numbers of draws >= 0"),
    ],
)
def test_tickets_that_cannot_be_told_apart_or_drawn_are_refused(requests, message):
    with pytest.raises(ConfigError, match=message):
        check_requests(requests)


@pytest.mark.parametrize(("field", "value"), [("prune_ratio", 1.0), ("penalty", -1.0), ("round_to", 0), ("clock", "x")])
def test_a_setting_out_of_range_names_itself(field, value):
    with pytest.raises(ConfigError, match=rf"method\.{field} is "):
        NetworkSlimming(**{field: value})


def test_a_network_of_one_conv_has_nothing_to_cut():
    with pytest.raises(Exception, match="nothing can be cut|found no BatchNorm"):
        NetworkSlimming().check_network(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("criterion", ["bn_saliency", "taylor"])
def test_gradients_at_draw_0_are_refused_before_any_training(tiny_settings, tmp_path: Path, criterion: str):
    with pytest.raises(MethodError, match=f"{criterion!r} reads gradients, of which there are none at draw 0"):
        go(tiny_settings(draw_at=0, criterion=criterion), tmp_path / "run")
    assert not (tmp_path / "run").exists()
