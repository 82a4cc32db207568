"""`record.json` against its schema (`docs/run-folder.md`), value by value."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from earlybird.runs.run import run, run_search
from earlybird.settings.method import requests_of
from earlybird.settings.run import RunConfig

PHASE_COST = {
    "phase", "images", "macs", "paper_flops", "wall_seconds", "cpu_seconds", "peak_bytes", "joules", "energy_method",
    "energy_device", "energy_coverage", "energy_shared_with", "macs_by_width", "traffic_bytes", "spans",
}  # fmt: skip
TICKET = {
    "prune_ratio", "realised_ratio", "draw", "step", "epoch", "total_epochs", "fraction_of_schedule", "rule", "epsilon",
    "window", "policy", "round_to", "flags", "mask_digest", "distances", "distance_epochs",
    "draw_wall_seconds", "draw_cpu_seconds",
}  # fmt: skip
NETWORK = {"params", "macs", "train_macs", "paper_gflops", "uncounted"}
SCHEMA: dict[str, set[str] | None] = {
    "schema_version": None, "run_id": None, "status": None, "created_at": None, "metrics": None, "layers": None,
    "flags": None, "preset": None, "weight_mask": None, "uncut_test": None, "notes": set(), "ticket": TICKET,
    "dense": NETWORK, "final": NETWORK,
    "versions": {"earlybird", "python", "torch", "torchvision", "numpy", "safetensors"},
    "device": {"type", "name", "threads", "platform"},
    "config": {"model", "data", "method", "training"},
    "resolved": {
        "precision", "step", "layout", "device", "augment", "recipe", "threads", "steps_per_epoch", "total_steps",
        "schedule", "round_to",
    },
    "seeds": {"run", "model", "data"},
    "test": {"accuracy", "top5_accuracy", "loss", "correct", "samples"},
    "cost": {"phases", "total"},
    "data": {"train_images", "val_images", "test_images", "classes", "image_shape"},
    "energy": {"measured", "reason", "notes", "estimated", "estimate_reason"},
    "files": {"config.json", "model.safetensors", "ticket.safetensors"},
}  # fmt: skip
ROW = {"phase", "epoch", "step", "train_loss", "train_accuracy", "val_accuracy", "lr", "wall_seconds"}


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(is_plain(entry) for entry in value)
    return type(value) in (str, int, bool, type(None)) or (type(value) is float and math.isfinite(value))


@pytest.fixture
def record(tiny_settings, tmp_path: Path) -> dict[str, Any]:
    return go(tiny_settings(training={"seed": 3}), tmp_path / "run")


def test_every_key_of_the_schema_is_there_in_plain_json_and_no_other(record: dict[str, Any], tmp_path: Path):
    assert set(record) == set(SCHEMA)
    for key, inner in SCHEMA.items():
        if inner is not None:
            assert set(record[key]) == inner, key
    assert all(set(row) == ROW for row in record["metrics"])
    assert all(set(layer) == {"name", "dense", "kept"} for layer in record["layers"])
    assert all(set(cost) == PHASE_COST for cost in [*record["cost"]["phases"].values(), record["cost"]["total"]])
    assert is_plain(record)
    strict = json.loads((tmp_path / "run" / "record.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == record


def test_the_values_agree_with_each_other(record: dict[str, Any]):
    assert (record["schema_version"], record["run_id"], record["status"]) == (1, "run", "finished")
    assert record["preset"] is None
    assert set(record["seeds"].values()) == {3}
    assert record["config"]["training"]["milestones"] == [0.5, 0.75]
    ticket, test, total = record["ticket"], record["test"], record["cost"]["total"]
    assert 0 <= ticket["realised_ratio"] < 1
    assert (ticket["fraction_of_schedule"], ticket["epoch"]) == (ticket["step"] / 60, ticket["step"] / 5)
    assert ticket["total_epochs"] == 12
    assert ticket["distance_epochs"][-1] == ticket["epoch"]
    # What the draws took is a part of the search's seconds.
    assert 0 < ticket["draw_wall_seconds"] < record["cost"]["phases"]["search"]["wall_seconds"]
    assert 0 < ticket["draw_cpu_seconds"] < record["cost"]["phases"]["search"]["cpu_seconds"]
    assert test["accuracy"] == test["correct"] / test["samples"]
    assert test["top5_accuracy"] is None
    for unit in ("images", "macs"):
        assert total[unit] == sum(cost[unit] for cost in record["cost"]["phases"].values())
    assert record["cost"]["phases"]["slim"]["macs"] == record["cost"]["phases"]["evaluate"]["paper_flops"] == 0
    steps = [row["step"] for row in record["metrics"]]
    assert steps == sorted(steps)
    assert all(row["epoch"] == row["step"] / 5 for row in record["metrics"])


def test_a_ticket_is_placed_in_the_schedule_of_its_search_also_where_another_is_retrained(
    tiny_settings, tmp_path: Path
):
    (path,) = run_search(
        RunConfig.from_dict(tiny_settings()), requests_of([0.5]), tmp_path / "search", quiet=True
    ).values()
    settings = tiny_settings(schedule="restart", training={"epochs": 2, "batch_size": 45})
    record = go(settings, tmp_path / "run", ticket=path)
    ticket = record["ticket"]
    assert (record["resolved"]["total_steps"], record["resolved"]["steps_per_epoch"]) == (4, 2)
    assert (ticket["epoch"], ticket["total_epochs"]) == (ticket["step"] / 5, 12)
    assert ticket["fraction_of_schedule"] == ticket["step"] / 60
    assert record["cost"]["phases"]["retrain"]["images"] == 2 * 90
