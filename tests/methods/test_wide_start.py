"""`wide_start` and budgets: every method costs its share of the dense run, cuts compose, kills change no bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from earlybird.core import ChannelGroups, CostTerm, StepCost, Ticket, bn_scale
from earlybird.core.drawing import rank_units
from earlybird.core.groups import one_unit_per_channel
from earlybird.cost import LayerTable
from earlybird.errors import CheckpointError, ConfigError, MethodError, ModelError, RunFolderError
from earlybird.grids.grid import Block, Grid, nodes_of
from earlybird.methods import budget as budgets
from earlybird.methods import widths
from earlybird.methods.draw_moment import DrawMoment
from earlybird.methods.widths import Widths
from earlybird.runs.record_file import recorded_training_macs
from earlybird.runs.run import run, run_search
from earlybird.settings.budget import Budget, parse_budget
from earlybird.settings.catalog import WideStart
from earlybird.settings.method import Clock, TicketRequest
from earlybird.settings.run import RunConfig
from earlybird.training.timing import Seconds

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SEVERAL = {"cuts": "0.1/0.8+0.2/0.6+0.35/0.4"}
WAYS = {
    "one cut": ("wide_start", {}),
    "several cuts": ("wide_start", SEVERAL),
    "global": ("wide_start", {"allocation": "global", "share": 0.2}),
    "saliency": ("wide_start", {"criterion": "bn_saliency", "share": 0.2, "warmup": 0.5}),
    "new weights": ("wide_start", {"share": 0.2, "weights": "initial"}),
    "narrow": ("narrow", {}),
    "early_bird": ("early_bird", {"draw_at": 3, "round_to": 1}),
    "dense": ("dense", {}),
}


def settings_of(tiny_settings: Any, way: str, **training: Any) -> dict[str, Any]:
    name, own = WAYS[way]
    fine = {"round_to": 1, "min_share": 0.1} if name in ("wide_start", "narrow") else {}
    return tiny_settings("dense", training=training) | {"method": {"name": name, **fine, **own}}  # type: ignore[no-any-return]


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_costs_its_share_of_the_dense_run(way: str, tiny_settings, tmp_path: Path, run_once):
    dense = run_once(tiny_settings("dense"), tmp_path / "dense")
    found = go(settings_of(tiny_settings, way, budget="macs=0.5"), tmp_path / "run")
    spent = recorded_training_macs(found) / recorded_training_macs(dense)
    assert spent == pytest.approx(0.5, abs=0.02)  # a step of each stretch
    assert found["resolved"]["total_steps"] == 30  # half of 60


@pytest.mark.parametrize("way", ["one cut", "several cuts", "saliency", "early_bird"])
@pytest.mark.parametrize("steps", [2, 8, 25])
def test_killed_anywhere_it_ends_with_the_same_bits(
    way: str, steps: int, tiny_settings, tmp_path: Path, killed_after, run_once
):
    # The last training of several cuts begins within its schedule, which a resumed run knows only of its checkpoint.
    average = {"ema": 0.9} if way == "several cuts" else {}
    settings = settings_of(tiny_settings, way, budget="macs=0.5", checkpoint_every=3, **average)
    is_the_same_after_a_kill(settings, steps, tmp_path, killed_after, run_once)


def is_the_same_after_a_kill(
    settings: dict[str, Any], steps: int, tmp_path: Path, killed_after, run_once
) -> dict[str, Any]:
    whole: dict[str, Any] = run_once(settings, tmp_path / "whole")
    with killed_after(steps):
        go(settings, tmp_path / "killed")
    killed = go(settings, tmp_path / "killed")
    assert [row["step"] for row in killed["metrics"]] == [row["step"] for row in whole["metrics"]]
    assert killed["notes"] == whole["notes"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]
    return killed


@pytest.mark.parametrize(("steps", "allocation"), [(8, "uniform"), (33, "global"), (50, "global")])
def test_the_rule_says_when_to_cut_also_after_a_kill(
    steps: int, allocation: str, tiny_settings, tmp_path: Path, killed_after, run_once
):
    """Draws come every five steps; the rule needs six, and kills come among them and after the cut."""
    settings = settings_of(tiny_settings, "one cut", budget="macs=1", checkpoint_every=3)
    settings["method"] |= {"share": "rule", "latest_share": 0.9, "step_ratio": 0.5, "allocation": allocation}
    found = is_the_same_after_a_kill(settings, steps, tmp_path, killed_after, run_once)
    ticket = found["ticket"]
    assert ticket["draw"] == len(ticket["distances"]) + 1 >= 6
    assert ticket["step"] == 5 * ticket["draw"] < 54
    assert all(distance < 0.1 for distance in ticket["distances"][-5:])
    assert not any("the rule has not fired" in flag for flag in found["flags"])
    assert found["notes"]["budget"]["spent"] == pytest.approx(ticket["step"] / 60)
    spent = found["cost"]["phases"]["search"]["macs"] / recorded_training_macs(found)
    assert spent == pytest.approx(ticket["step"] / 60, abs=0.02)


def test_a_rule_that_does_not_fire_cuts_at_the_latest_share(tiny_settings, tmp_path: Path):
    settings = settings_of(tiny_settings, "one cut", budget="macs=0.5")
    settings["method"] |= {"share": "rule", "latest_share": 0.5}
    found = go(settings, tmp_path / "run")
    (flag,) = [flag for flag in found["flags"] if "rule" in flag]
    assert flag.startswith(
        "the rule has not fired by 0.5 of the budget, where the cut was made: 3 draws, of which it needs 6"
    )
    assert (found["ticket"]["step"], found["ticket"]["draw"]) == (15, 3)


def test_a_rule_decides_one_cut(tiny_settings):
    with pytest.raises(ConfigError, match=r"method\.share 'rule' contradicts method\.cuts.*; give one of them"):
        RunConfig.from_dict(tiny_settings("wide_start", share="rule", cuts="0.1/0.8+0.2/0.5"))
    with pytest.raises(ConfigError, match=r"method\.share is 1\.0; give a number in \[0, 1\), or rule"):
        RunConfig.from_dict(tiny_settings("wide_start", share=1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [5, 11]},
        {"counts": [4]},
        {"distances": []},
        {"distances": [2.0]},
        {"masks": []},
        {"masks": [{"x": 1}]},
    ],
)
def test_draws_of_another_search_are_refused(change: dict[str, Any]):
    scores = {"a": torch.arange(8.0), "b": torch.arange(12.0)}
    ranking = rank_units(scores, one_unit_per_channel({"a": 8, "b": 12}))

    def moment() -> DrawMoment:
        half = ranking.groups.mask_of(torch.arange(20) % 2 == 0)
        return DrawMoment(ranking.groups, Clock("scaled", 10, 60), "uniform", lambda _: half)

    drawn = moment()
    assert [drawn.is_met(step, lambda: ranking) for step in range(1, 11)] == [False] * 10
    assert drawn.steps == [5, 10] and drawn.history.distances == [0.0]
    fresh = moment()
    fresh.load_state_dict(drawn.state_dict())
    assert fresh.state_dict()["steps"] == [5, 10]
    assert [fresh.is_met(step, lambda: ranking) for step in range(11, 31)] == [False] * 19 + [True]
    with pytest.raises(CheckpointError, match="its draws are of another search"):
        moment().load_state_dict(drawn.state_dict() | change)


def test_what_a_cut_removed_stays_removed(tiny_settings, tmp_path: Path):
    go(settings_of(tiny_settings, "several cuts", budget="macs=0.5"), tmp_path / "run")
    masks = [Ticket.load(tmp_path / "run" / f"{name}.safetensors").mask for name in ("cut-1", "cut-2", "ticket")]
    for before, after in pairwise(masks):
        assert sum(after.kept_counts().values()) < sum(before.kept_counts().values())
        assert all(bool((before[name] | ~after[name]).all()) for name in before)


def test_one_schedule_spans_the_budget(tiny_settings, tmp_path: Path):
    """With several cuts the learning rate drops where half and three quarters of the budget are spent."""
    found = go(settings_of(tiny_settings, "several cuts", budget="macs=0.5"), tmp_path / "run")
    last = [row for row in found["metrics"] if row["phase"] == "retrain"]
    for row in last:  # The rate of the step before: its place in this schedule is its place in the budget.
        place = (row["step"] - 1) / last[-1]["step"]
        assert row["lr"] == pytest.approx(0.05 if place < 0.5 else 0.005 if place < 0.75 else 0.0005)
    assert last[0]["step"] < 0.5 * last[-1]["step"] < last[-2]["step"]
    spent = found["cost"]["phases"]["search"]["macs"] / recorded_training_macs(found)
    assert spent == pytest.approx(0.35, abs=0.02)


def test_after_the_cut_the_learning_rate_rises_where_it_is_asked_to(tiny_settings, tmp_path: Path):
    """Of the last training's steps half, to the schedule's rate at their end."""
    found = go(settings_of(tiny_settings, "saliency", budget="macs=0.5"), tmp_path / "run")
    last = [row for row in found["metrics"] if row["phase"] == "retrain"]
    rise = round(0.5 * last[-1]["step"])
    for row in last:
        expected = 0.005 * min(1.0, row["step"] / rise) if row["step"] <= 0.75 * last[-1]["step"] else 0.0005
        assert row["lr"] == pytest.approx(expected)
    assert last[0]["lr"] < last[1]["lr"] < last[2]["lr"]


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that take 0.3 s and 0.7 s for the share of the weights that is left; counts the measurements."""
    calls = []

    def times(networks: Any, *_: Any) -> dict[str, Seconds]:
        calls.append(len(networks))
        sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in networks.items()}
        return {name: Seconds(0.3 + 0.7 * size / sizes["dense"], 9.0) for name, size in sizes.items()}

    monkeypatch.setattr(budgets, "step_times", times)
    monkeypatch.setattr(widths, "measure_layer_table", no_table)
    return calls


def no_table(*_: Any, **__: Any) -> LayerTable:
    raise ModelError("the layers contradict the steps")


def test_a_budget_of_time_counts_measured_steps(tiny_settings, tmp_path: Path, fake_times):
    settings = settings_of(tiny_settings, "one cut", budget="time=0.6")
    found = go(settings, tmp_path / "run")
    told = found["notes"]["budget"]
    assert told["step_ratio"] == pytest.approx(0.6, rel=0.1)
    images = {phase: found["cost"]["phases"][phase]["images"] for phase in ("search", "retrain")}
    assert images["search"] + told["step_ratio"] * images["retrain"] == pytest.approx(0.6 * 12 * 90, abs=15)
    assert not (tmp_path / "run" / "failed.json").exists()


def test_allocation_by_time_takes_the_seconds_of_the_layers(tiny_settings, tmp_path: Path, fake_times, monkeypatch):
    """Layers that cost nothing stay whole, and the measured step is met all the same."""
    folders = []

    def table(dense: Any, groups: ChannelGroups, images: Any, *, cache: Path, **_: Any) -> LayerTable:
        folders.append(cache)
        sizes = [block.size for block in groups.blocks]
        grid = np.array([[0.0, 0.7]])
        terms = [CostTerm("last", {}, {len(sizes) - 1: 1.0}, 0.0, 0.0, np.zeros(1), np.array([0.0, sizes[-1]]), grid)]
        return LayerTable(groups, StepCost(terms, 0.3), 1.0, (), (), 1.0)

    monkeypatch.setattr(widths, "measure_layer_table", table)
    settings = settings_of(tiny_settings, "one cut", budget="time=0.6")
    settings["method"] |= {"allocation": "time", "share": 0.2}
    record = go(settings, tmp_path / "run")
    kept = [layer["kept"] / layer["dense"] for layer in record["layers"]]
    assert folders == [tmp_path / "run"]
    assert max(kept) == 1.0 and min(kept) < 0.7
    assert record["notes"]["budget"]["step_ratio"] == pytest.approx(0.6, abs=0.05)


def conv(read: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(read, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = conv(width, 2 * width), nn.Conv2d(2 * width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.two(self.one(x))))


def is_hit(body: nn.Module, target: float) -> bool:
    dense, example = (
        nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)),
        torch.zeros(2, 3, 8, 8),
    )
    found_by = Widths(WideStart(round_to=4), dense, example, bn_scale(dense))
    measured: list[float] = []

    def channels(net: nn.Module) -> int:
        return sum(norm.num_features for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))

    def measure(small: nn.Module) -> float:
        """A tenth never changes, half goes with the channels."""
        macs = found_by.macs._of(small) / found_by.macs._dense
        measured.append(0.1 + 0.4 * macs + 0.5 * channels(small) / channels(dense))
        return measured[-1]

    mask, found = found_by.fitted(target, measure)
    assert found in measured and len(measured) <= 3
    assert min(mask.kept_counts().values()) >= 8  # a quarter of the narrowest
    return abs(found / target - 1) <= 0.03


@pytest.mark.parametrize("target", [0.5, 0.7])
def test_a_step_time_is_hit_within_three_percent_on_a_chain(target: float):
    """By MACs and corrections alone, where much of a step is no MAC."""
    assert is_hit(nn.Sequential(conv(3, 32), conv(32, 64), conv(64, 96), conv(96, 64)), target)


def test_a_step_time_is_hit_within_three_percent_with_adds():
    assert is_hit(nn.Sequential(conv(3, 64), Residual(64), Residual(64)), 0.6)


def test_an_allocation_by_seconds_wants_a_budget_in_seconds(tiny_settings, tmp_path: Path):
    settings = tiny_settings("wide_start", training={"budget": "macs=0.5"}, allocation="time")
    with pytest.raises(
        MethodError, match=r"allocation 'time' spends seconds, and the budget is in MACs; give --budget"
    ):
        go(settings, tmp_path / "run")


def test_layers_that_cannot_tell_seconds_are_said(tiny_settings, tmp_path: Path, fake_times, capsys):
    settings = settings_of(tiny_settings, "one cut", budget="time=0.6")
    run(RunConfig.from_dict(settings), tmp_path / "run")
    assert "widths are sought by MACs and measured steps: the layers contradict the steps" in capsys.readouterr().err
    settings["method"] |= {"allocation": "time"}
    with pytest.raises(ModelError, match="the layers contradict the steps"):
        go(settings, tmp_path / "other")


def test_saliency_needs_a_start(tiny_settings):
    with pytest.raises(ConfigError, match=r"'bn_saliency' gathers gradients; give --method\.share above 0"):
        RunConfig.from_dict(tiny_settings("wide_start", criterion="bn_saliency", share=0.0))


def test_runs_share_measured_times(tiny_settings, tmp_path: Path, fake_times):
    settings = settings_of(tiny_settings, "narrow", budget="time=0.6")
    first = go(settings, tmp_path / "a", step_times=tmp_path / "times.json")
    measured = len(fake_times)
    second = go(
        settings | {"training": settings["training"] | {"seed": 1}}, tmp_path / "b", step_times=tmp_path / "times.json"
    )
    assert measured > 0 and len(fake_times) == measured
    assert first["notes"]["budget"] == second["notes"]["budget"]


def test_runs_share_the_seconds_of_a_dense_step(tiny_settings, tmp_path: Path, fake_times):
    settings, times = settings_of(tiny_settings, "dense", budget="seconds=90"), tmp_path / "times.json"
    first = go(settings, tmp_path / "a", step_times=times)
    searched = RunConfig.from_dict(settings_of(tiny_settings, "early_bird", budget="seconds=90"))
    run_search(searched, [TicketRequest(0.5)], tmp_path / "search", quiet=True, step_times=times)
    assert len(fake_times) == 1
    resolved = yaml.safe_load((tmp_path / "search" / "config.yaml").read_text())["resolved"]
    assert resolved["dense_step_seconds"] == first["resolved"]["dense_step_seconds"]


def test_a_changed_file_of_times_is_refused(tiny_settings, tmp_path: Path, fake_times):
    times = tmp_path / "times.json"
    times.write_text('{"x": 1}')
    with pytest.raises(RunFolderError, match=r"times\.json cannot be read .*; remove it, and .* measured again"):
        go(settings_of(tiny_settings, "narrow", budget="time=0.6"), tmp_path / "a", step_times=times)


def test_a_budget_in_seconds_is_measured_once(tiny_settings, tmp_path: Path, fake_times):
    found = go(settings_of(tiny_settings, "dense", budget="seconds=90"), tmp_path / "run")
    assert found["resolved"]["dense_step_seconds"] == 9.0
    assert found["resolved"]["total_steps"] == found["metrics"][-1]["step"] == 10


def test_a_warm_up_ends_before_the_schedule_does(tiny_settings, tmp_path: Path):
    settings = settings_of(tiny_settings, "new weights", budget="macs=0.6", schedule="linear")
    settings["method"] |= {"warmup": 0.99}
    found = go(settings, tmp_path / "run")
    assert found["metrics"][-1]["lr"] > 0


def test_without_a_budget_it_is_refused(tiny_settings, tmp_path: Path):
    with pytest.raises(MethodError, match=r"wide_start spends a budget and was given none; add --budget time=0\.5"):
        go(settings_of(tiny_settings, "one cut"), tmp_path / "run")


def test_a_comparison_without_a_budget_is_refused():
    grid = Grid({}, (Block(("wide_start",)),))
    with pytest.raises(ConfigError, match=r"wide_start spends a budget and was given none; add --budgets time=0\.5"):
        nodes_of(grid)


def test_a_search_that_spends_the_budget_is_refused(tiny_settings, tmp_path: Path):
    settings = tiny_settings(training={"budget": "macs=0.2"}, draw_at="last", schedule="restart")
    with pytest.raises(MethodError, match=r"took 1\.00 of the budget macs=0\.2: no step is left to train"):
        go(settings, tmp_path / "run")


@pytest.mark.parametrize("text", ["0.5", "time=", "time=0", "time=-1", "time=nan", "time=inf", "hours=3", "time=0.5x"])
def test_what_is_no_budget(text: str, tiny_settings):
    with pytest.raises(ConfigError, match=r"training\.budget is .*; give time=F .* such as time=0\.5"):
        RunConfig.from_dict(tiny_settings(training={"budget": text}))


def test_two_budgets_contradict_each_other(tiny_settings):
    with pytest.raises(ConfigError, match=r"budget contradicts training\.budget_macs"):
        RunConfig.from_dict(tiny_settings(training={"budget": "time=0.5", "budget_macs": 1e9}))


def test_a_budget_below_one_step():
    with pytest.raises(ConfigError, match="buys a dense training step"):
        Budget("time", 1e-9).dense_steps(1000)
    assert parse_budget("seconds=12").dense_steps(1000, step_seconds=0.5) == 24  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "cuts", ["0.1", "0.1/0.8+0.05/0.5", "0.1/0.5+0.2/0.8", "0.1/0.8,0.2/0.5", "1.0/0.5", "a/b", "0.1/0.8/2"]
)
def test_what_are_no_cuts(cuts: str, tiny_settings):
    with pytest.raises(ConfigError, match=r"method\.cuts is .*SHARE/STEP_RATIO"):
        RunConfig.from_dict(tiny_settings("wide_start", cuts=cuts))
