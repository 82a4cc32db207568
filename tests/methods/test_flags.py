"""Flags that every method's result carries: a mask that fell short, and a network that learnt nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from earlybird.runs.run import run, run_search
from earlybird.settings.method import TicketRequest
from earlybird.settings.run import RunConfig


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


SHORT = {"epochs": 2}
CHAIN = """

def network(num_classes):
    def profiler(*args):
        pass

    def block(width, out):
        return nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

    body = nn.Sequential(block(3, 12), block(12, 16), block(16, 12))
    body[1][1].register_forward_hook(profiler)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))
"""


def use_a_chain(tiny: Path) -> None:
    """Make the test's network a chain with a forward hook on its second norm."""
    tiny.write_text(tiny.read_text().replace("def network(", "def tied(") + CHAIN)


CHANNELS: dict[str, tuple[str, dict[str, Any]]] = {
    "early_bird": ("early_bird", {"draw_at": 2}),
    "network_slimming": ("network_slimming", {"round_to": 1}),
    "snip_channels": ("snip", {"form": "channels", "round_to": 1}),
    "thinet": ("thinet", {"round_to": 1, "images_per_class": 2, "finetune_steps": 0}),
    "soft_filter_pruning": ("soft_filter_pruning", {"round_to": 1}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHANNELS)
def test_a_ticket_of_every_method_says_what_a_hook_kept(name: str, tiny: Path, tiny_settings, tmp_path: Path):
    use_a_chain(tiny)
    method, values = CHANNELS[name]
    record = go(tiny_settings(method, training=SHORT, **values), tmp_path / "run")
    told = [flag for flag in record["ticket"]["flags"] if re.search(r"forward hook '\S*profiler'", flag)]
    assert len(told) == 1 and re.match(r"prune_ratio=0\.5 is taken of the \d+ units that may go", told[0])
    assert told[0] in record["flags"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in CHANNELS if n != "thinet"])
def test_a_ticket_of_every_method_says_what_floors_kept(name: str, tiny_settings, tmp_path: Path):
    method, values = CHANNELS[name]
    settings = tiny_settings(method, training=SHORT, **{**values, "min_channels": 11, "prune_ratio": 0.7})
    told = [flag for flag in go(settings, tmp_path / "run")["ticket"]["flags"] if "units that may go and" in flag]
    assert len(told) == 1 and re.match(
        r"prune_ratio=0\.7 asks for \d+ of the \d+ units that may go and \d+ go ", told[0]
    )


LEARNING: dict[str, tuple[str, dict[str, Any], str]] = {
    "dense": ("dense", {}, "at the end"),
    "network_slimming": ("network_slimming", {"round_to": 1}, "when drawn"),
    "thinet": ("thinet", {"round_to": 1, "images_per_class": 2, "finetune_steps": 0}, "when drawn"),
    "soft_filter_pruning": ("soft_filter_pruning", {"round_to": 1}, "when drawn"),
    "lottery_ticket": ("lottery_ticket", {}, "when drawn"),
    "snip": ("snip", {}, "at the end"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LEARNING)
def test_a_network_that_learnt_nothing_is_flagged_whatever_the_method(
    name: str, tiny: Path, tiny_settings, tmp_path: Path
):
    use_a_chain(tiny)
    method, values, when = LEARNING[name]
    settings = tiny_settings(method, training={"lr": 1e-7, "seed": 2, **SHORT}, **values)
    flags = go(settings, tmp_path / "run")["flags"]
    found = [
        flag for flag in flags if re.fullmatch(rf"training accuracy near chance {when} \(\d+ %, chance 33 %\)", flag)
    ]
    assert len(found) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_retraining_of_a_ticket_file_has_the_flags_of_its_search(tiny_settings, tmp_path: Path):
    settings = tiny_settings(training={"lr": 1e-7, "seed": 2, "epochs": 3}, draw_at=3)
    request = TicketRequest(0.5, 3)
    path = run_search(RunConfig.from_dict(settings), [request], tmp_path / "search", quiet=True)[request]
    assert path is not None
    record = go(settings, tmp_path / "run", ticket=path)
    assert sum("near chance when drawn" in flag for flag in record["flags"]) == 1
    assert sum("hardly moved" in flag for flag in record["flags"]) == 1
