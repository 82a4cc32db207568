"""Runs with a budget: the last training takes what the search leaves, also after a kill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from earlybird.cost import ModelCost, PlannedData, steps_that_buy, training_macs
from earlybird.runs.record_file import recorded_training_macs
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig

METHODS: list[tuple[str, float, dict[str, Any]]] = [
    ("early_bird", 0.9, {}),
    ("early_bird", 1.3, {}),
    ("snip", 0.9, {}),
    ("lottery_ticket", 1.3, {"rewind_epoch": 2}),
    ("network_slimming", 0.9, {"round_to": 1}),
]


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


@pytest.mark.parametrize(
    ("method", "share", "settings"), METHODS, ids=[f"{name}-{share}" for name, share, _ in METHODS]
)
def test_a_run_costs_its_budget(
    method: str, share: float, settings: dict[str, Any], tiny_settings, tmp_path: Path, run_once
):
    full = run_once(tiny_settings(method, **settings), tmp_path / "full")
    budget = round(share * recorded_training_macs(full))
    found = go(tiny_settings(method, training={"budget_macs": budget}, **settings), tmp_path / "run")
    assert abs(recorded_training_macs(found) - budget) <= 10 * found["final"]["train_macs"]  # half of a step
    for phase in ("search", "slim"):
        theirs, ours = (one["cost"]["phases"].get(phase, {}).get("macs") for one in (full, found))
        assert theirs == ours
    assert found["resolved"]["total_steps"] == 60  # the schedule of the search


def test_the_learning_rates_are_those_of_a_schedule_that_ends_with_the_budget(tiny_settings, tmp_path: Path):
    full = go(tiny_settings("dense", training={"epochs": 6}), tmp_path / "full")
    budget = recorded_training_macs(full)
    found = go(tiny_settings("dense", training={"budget_macs": budget}), tmp_path / "run")
    assert [row["lr"] for row in found["metrics"]] == [row["lr"] for row in full["metrics"]]
    assert found["test"] == full["test"]


@pytest.mark.parametrize("steps", [4, 40])  # in the search, and in the last training
def test_killed_anywhere_it_ends_with_the_same_bits(steps: int, tiny_settings, tmp_path: Path, killed_after, run_once):
    settings = tiny_settings(training={"budget_macs": 170_000_000})
    whole = run_once(settings, tmp_path / "whole")
    with killed_after(steps):
        go(settings, tmp_path / "killed")
    killed = go(settings, tmp_path / "killed")
    assert recorded_training_macs(killed) == recorded_training_macs(whole)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]


OWN_METHOD = """
from dataclasses import dataclass
from typing import ClassVar

from earlybird.cost import Work
from earlybird.methods.task import Candidate

@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"

    def search(self, task, resume):
        with task.session.meter("train") as meter:
            pass
        task.session.journal.ledger.add(meter.cost(Work(1, {"32x32": 30_000_000})))
        return self.restore(task)

    def restore(self, task):
        return Candidate(task.build(), "train", 0, task.session.total_steps)
"""


def test_a_kill_does_not_change_the_end_of_a_method_that_searches_in_the_phase_of_its_training(
    tiny_settings, tmp_path: Path, killed_after, run_once
):
    (tmp_path / "own.py").write_text(OWN_METHOD)
    settings = tiny_settings(f"{tmp_path / 'own.py'}:Own", training={"budget_macs": 60_000_000})
    whole = run_once(settings, tmp_path / "whole")
    with killed_after(3):
        go(settings, tmp_path / "killed")
    killed = go(settings, tmp_path / "killed")
    assert whole["metrics"][-1]["step"] == killed["metrics"][-1]["step"] < 60
    assert killed["test"] == whole["test"]


def test_a_budget_that_the_search_has_spent_trains_one_step_and_says_so(tiny_settings, tmp_path: Path, run_once):
    full = run_once(tiny_settings(), tmp_path / "full")
    searched = full["cost"]["phases"]["search"]["macs"]
    found = go(tiny_settings(training={"budget_macs": searched // 2}), tmp_path / "run")
    assert found["cost"]["phases"]["retrain"]["images"] == 20
    (flag,) = [flag for flag in found["flags"] if "budget" in flag]
    assert re.fullmatch(
        r"its last training is 0\.02 of the one without a budget: what came before cost 2\.\d+ of training.budget_macs",
        flag,
    )


def test_a_method_that_trains_nothing_after_its_search_says_that_it_is_as_long_as_its_schedule(
    tiny_settings, tmp_path: Path
):
    settings = {"policy": "tie", "round_to": 1}
    full = go(tiny_settings("soft_filter_pruning", **settings), tmp_path / "full")
    macs = recorded_training_macs(full)
    found = go(tiny_settings("soft_filter_pruning", training={"budget_macs": macs / 2}, **settings), tmp_path / "run")
    assert recorded_training_macs(found) == macs
    assert found["flags"][-1] == "nothing was trained last: what came before cost 2.00 of training.budget_macs"
    near = go(
        tiny_settings("soft_filter_pruning", training={"budget_macs": macs * 1.04}, **settings), tmp_path / "near"
    )
    assert near["flags"] == full["flags"]


@pytest.mark.parametrize("start", [0, 3, 5, 27])
@pytest.mark.parametrize("steps", [1, 2, 5, 33])
def test_steps_from_anywhere_in_an_epoch(start: int, steps: int):
    """90 images in batches of 20 - four of 20 and one of 10 - and 10 for validation."""
    data = PlannedData(train_images=90, test_images=0, batch_size=20, val_images=10)
    cost = ModelCost(1, 40, 100, 0.0, {"32x32": 40}, {"32x32": 100})
    assert steps_that_buy(training_macs(cost, data, start, start + steps), cost, data, start) == steps
    assert steps_that_buy(-5, cost, data, start) == 1
    assert steps_that_buy(10**40, cost, data, start) > 10**35


def test_a_negative_budget_names_itself(tiny_settings):
    from earlybird.errors import ConfigError

    with pytest.raises(ConfigError, match=r"training\.budget_macs is -1; give a number >= 0"):
        RunConfig.from_dict(tiny_settings(training={"budget_macs": -1}))
