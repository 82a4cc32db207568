"""Whole runs of a tiny network, in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from earlybird.core import Ticket
from earlybird.errors import CheckpointError, ConfigError, EarlyBirdError, RunFolderError, TicketError
from earlybird.methods import pipeline, retrain
from earlybird.runs.folder import load_network
from earlybird.runs.run import run, run_evaluation, run_search
from earlybird.settings.method import NO_TICKET_CURE, requests_of
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    count, original = [0], loop._train_step

    def step(*arguments: Any) -> None:
        if count[0] == steps:
            raise Killed
        count[0] += 1
        original(*arguments)

    monkeypatch.setattr(loop, "_train_step", step)


def test_an_early_bird_run_cuts_and_records_everything(tiny_settings, tmp_path: Path):
    record = go(tiny_settings(), tmp_path / "run")
    ticket = record["ticket"]
    assert ticket["prune_ratio"] == 0.5
    assert ticket["realised_ratio"] == 0.5  # 28 units: 12 of the stem, 16 of the two tied branches
    assert ticket["step"] < record["resolved"]["total_steps"] == 12 * 5
    assert ticket["epoch"] == ticket["step"] / 5
    assert all(d < 0.1 for d in ticket["distances"][-5:])
    assert len(ticket["distances"]) == len(ticket["distance_epochs"]) == ticket["draw"] - 1
    kept = {layer["name"]: (layer["dense"], layer["kept"]) for layer in record["layers"]}
    assert kept["left.1"] == kept["right.1"]
    assert kept["stem.1"][1] + kept["left.1"][1] == 14
    assert record["final"]["params"] < record["dense"]["params"]
    phases = record["cost"]["phases"]
    assert list(phases) == ["search", "slim", "retrain", "evaluate"]
    assert phases["search"]["images"] + phases["retrain"]["images"] == 12 * 90
    assert phases["search"]["macs"] == phases["search"]["images"] * record["dense"]["train_macs"]
    assert phases["retrain"]["macs"] == phases["retrain"]["images"] * record["final"]["train_macs"]
    assert record["cost"]["total"]["joules"] is None
    assert record["status"] == "finished"
    assert json.loads((tmp_path / "run" / "record.json").read_text()) == record
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == record["metrics"]
    assert {row["phase"] for row in rows} == {"search", "retrain"}
    assert not (tmp_path / "run" / "checkpoints").exists()
    with np.load(tmp_path / "run" / "scales.npz") as scales:
        assert scales["stem.1"].shape == (ticket["draw"], 12)
        assert len(scales["steps"]) == ticket["draw"]


def test_a_dense_run_has_one_phase_and_no_ticket(tiny_settings, tmp_path: Path, run_once):
    record = run_once(tiny_settings("dense"), tmp_path / "run")
    assert record["ticket"] is None
    assert record["layers"] == []
    assert list(record["cost"]["phases"]) == ["train", "evaluate"]
    assert record["final"] == record["dense"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_settings, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        go(tiny_settings(training={"seed": seed}), tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.parametrize("steps", [1, 4, 9, 30, 59])
def test_killed_anywhere_it_ends_with_the_same_bits(tiny_settings, tmp_path: Path, monkeypatch, steps: int, run_once):
    settings = tiny_settings(training={"checkpoint_every": 2})
    whole = run_once(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, steps)
        with pytest.raises(Killed):
            go(settings, tmp_path / "killed")
    record = go(settings, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert record["ticket"]["mask_digest"] == whole["ticket"]["mask_digest"]
    assert record["cost"]["total"]["images"] == whole["cost"]["total"]["images"]
    assert [r["train_loss"] for r in record["metrics"]] == [r["train_loss"] for r in whole["metrics"]]


def test_killed_between_the_ticket_and_the_first_slim_checkpoint(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    run_once(tiny_settings(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "slim", lambda *a: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            go(tiny_settings(), tmp_path / "killed")
    assert (tmp_path / "killed" / "ticket.safetensors").is_file()
    go(tiny_settings(), tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_killed_in_the_evaluation(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    run_once(tiny_settings(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate", lambda *a: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            go(tiny_settings(), tmp_path / "killed")
    record = go(tiny_settings(), tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert record["cost"]["phases"]["retrain"]["images"] > 0


def test_a_search_that_never_fires_finishes_the_dense_training_and_says_so(tiny_settings, tmp_path: Path, capsys):
    settings = tiny_settings(epsilon=1e-6, penalty=1e-2)
    record = run(RunConfig.from_dict(settings), tmp_path / "run")
    assert record["ticket"]["none"] is True
    assert len(record["ticket"]["last_distances"]) == 5
    assert record["final"]["params"] == record["dense"]["params"]
    assert record["cost"]["total"]["images"] == 12 * 90 + 30
    said = capsys.readouterr().err
    assert "ticket: none (last mask distances 0." in said and NO_TICKET_CURE in said
    assert any(NO_TICKET_CURE in flag for flag in record["flags"])


@pytest.mark.parametrize("method", ["early_bird", "lottery_ticket", "network_slimming", "snip", "dense"])
def test_no_second_lies_between_two_phases(method: str, tiny_settings, tmp_path: Path):
    settings = tiny_settings()
    settings = settings if method == "early_bird" else settings | {"method": {"name": method}}
    phases = go(settings, tmp_path / "run")["cost"]["phases"]
    spans = sorted(tuple(span) for phase in phases.values() for span in phase["spans"])
    assert len(spans) > 1
    assert max(after[0] - before[1] for before, after in pairwise(spans)) < 0.005
    whole = spans[-1][1] - spans[0][0]
    assert sum(phase["wall_seconds"] for phase in phases.values()) == pytest.approx(whole, abs=0.02)


def test_on_no_ticket_error_names_the_last_distances(tiny_settings, tmp_path: Path):
    settings = tiny_settings(epsilon=1e-6, penalty=1e-2, on_no_ticket="error")
    with pytest.raises(EarlyBirdError, match=r"never fired, its last mask distances are 0\.\d+"):
        go(settings, tmp_path / "run")


def test_on_no_ticket_draw_cuts_when_the_search_is_over(tiny_settings, tmp_path: Path):
    settings = tiny_settings(epsilon=1e-6, penalty=1e-2, on_no_ticket="draw", max_search_epochs=6)
    record = go(settings, tmp_path / "run")
    assert record["ticket"]["rule"] == "forced"
    assert record["ticket"]["step"] == 6 * 5
    assert any("no mask was stable" in flag for flag in record["ticket"]["flags"])
    assert record["cost"]["phases"]["retrain"]["images"] == 6 * 90
    assert record["final"]["params"] < record["dense"]["params"]


@pytest.mark.parametrize(
    ("values", "retrained_epochs"),
    [
        ({"weights": "reinit"}, 12),
        ({"weights": "reinit", "schedule": "continue"}, None),
        ({"weights": "inherit", "schedule": "restart"}, 12),
        ({"weights": "rewind"}, 12),
        ({"weights": "rewind", "rewind_epoch": 1}, 11),
    ],
)
def test_weights_and_schedule_decide_how_long_is_retrained(tiny_settings, tmp_path: Path, values, retrained_epochs):
    record = go(tiny_settings(clock="epochs", **values), tmp_path / "run")
    epochs = retrained_epochs or 12 - record["ticket"]["epoch"]
    assert record["cost"]["phases"]["retrain"]["images"] == epochs * 90


def test_the_small_network_starts_at_the_masked_networks_loss(tiny_settings, tmp_path: Path, monkeypatch):
    from earlybird.slimming import masked

    starts: list[tuple[torch.nn.Module, Ticket, Any]] = []
    original = pipeline.train_candidate

    def spy(task, candidate, resume):
        x, y = next(iter(task.session.train.epoch(0)))
        dense = task.build()
        dense.load_state_dict(dict(candidate.ticket.weights))
        reference = masked(dense, candidate.ticket.mask)
        losses = [torch.nn.functional.cross_entropy(m.eval()(x), y).item() for m in (candidate.model, reference)]
        starts.append(losses)
        original(task, candidate, resume)

    monkeypatch.setattr(pipeline, "train_candidate", spy)
    go(tiny_settings(), tmp_path / "run")
    ((small, reference),) = starts
    assert small == pytest.approx(reference, rel=1e-5)


def test_a_finished_run_is_returned_untouched(tiny_settings, tmp_path: Path, run_once):
    record = run_once(tiny_settings("dense"), tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    assert go(tiny_settings("dense"), tmp_path / "run") == record
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


def test_another_configuration_is_refused_with_a_diff(tiny_settings, tmp_path: Path, run_once):
    run_once(tiny_settings("dense"), tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for force in (False, True):  # A finished run leaves nothing to go on with, so there is nothing to force.
        with pytest.raises(RunFolderError, match=r"finished run .*training\.lr: 0\.05 -> 0\.01\); give another --out"):
            go(tiny_settings("dense", training={"lr": 0.01}), tmp_path / "run", force=force)
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_one_search_of_several_ratios_gives_the_tickets_of_single_searches(tiny_settings, tmp_path: Path):
    config = RunConfig.from_dict(tiny_settings(prune_ratio=0.3))
    paths = run_search(config, requests_of([0.3, 0.6]), tmp_path / "search", quiet=True)
    assert [path.name for path in paths.values()] == ["ticket-p0.3.safetensors", "ticket-p0.6.safetensors"]
    for request, path in paths.items():
        ratio = request.prune_ratio
        single = go(tiny_settings(prune_ratio=ratio), tmp_path / f"single{ratio}")
        again = go(tiny_settings(prune_ratio=ratio), tmp_path / f"retrain{ratio}", ticket=path)
        assert digest(tmp_path / f"single{ratio}") == digest(tmp_path / f"retrain{ratio}")
        # Each is charged its own prefix of the shared search, not the whole of it.
        images = [r["cost"]["phases"]["search"]["images"] for r in (single, again)]
        assert images[0] == images[1]
        assert again["ticket"]["distances"] == single["ticket"]["distances"]
    assert run_search(config, requests_of([0.3, 0.6]), tmp_path / "search", quiet=True) == paths
    with pytest.raises(ConfigError, match="search of the ratios"):
        run_search(config, requests_of([0.3, 0.7]), tmp_path / "search", quiet=True)


def test_a_retrain_killed_half_way_ends_with_the_same_bits(tiny_settings, tmp_path: Path, monkeypatch):
    config = RunConfig.from_dict(tiny_settings())
    (ticket,) = run_search(config, requests_of([0.5]), tmp_path / "search", quiet=True).values()
    go(tiny_settings(), tmp_path / "whole", ticket=ticket)
    with monkeypatch.context() as patch:
        kill_after(patch, 20)
        with pytest.raises(Killed):
            go(tiny_settings(), tmp_path / "killed", ticket=ticket)
    go(tiny_settings(), tmp_path / "killed", ticket=ticket)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_a_ticket_of_another_schedule_or_network_is_refused(tiny_settings, tmp_path: Path):
    (ticket,) = run_search(
        RunConfig.from_dict(tiny_settings()), requests_of([0.5]), tmp_path / "s", quiet=True
    ).values()
    with pytest.raises(TicketError, match="schedule of 60 steps, this run has 50"):
        go(tiny_settings(training={"epochs": 10}), tmp_path / "a", ticket=ticket)
    other = tiny_settings()
    other["model"] = {"name": "torchvision:resnet18"}
    with pytest.raises(TicketError, match="belongs to another network"):
        go(other, tmp_path / "b", ticket=ticket)


def test_evaluate_repeats_the_recorded_accuracy_from_the_files_alone(tiny, tiny_settings, tmp_path: Path, run_once):
    record = run_once(tiny_settings(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    (tmp_path / "run" / "ticket.safetensors").unlink()
    result = run_evaluation(tmp_path / "run", trusted=[f"{tiny}:network", f"{tiny}:data"])
    assert (result.correct, result.loss) == (record["test"]["correct"], record["test"]["loss"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_corrupt_or_missing_network_file_is_refused(tiny_settings, tiny: Path, tmp_path: Path, name: str):
    go(tiny_settings("dense", training={"epochs": 1}), tmp_path / "run")
    path = tmp_path / "run" / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="corrupt"):
        load_network(tmp_path / "run", trusted=[f"{tiny}:network"])
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_network(tmp_path / "run", trusted=[f"{tiny}:network"])


def test_a_failed_start_leaves_no_folder(tiny_settings, tmp_path: Path):
    settings = tiny_settings()
    settings["model"] = {"name": "vgg999"}
    with pytest.raises(EarlyBirdError, match="unknown model"):
        go(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_with_the_wrong_number_of_outputs_is_refused(tiny_settings, tiny: Path, tmp_path: Path):
    text = tiny.read_text() + "\n\ndef wrong():\n    return Net(7)\n"
    tiny.write_text(text)
    settings = tiny_settings()
    settings["model"] = {"name": f"{tiny}:wrong"}
    with pytest.raises(EarlyBirdError, match=r"must give \(1, 3\)"):
        go(settings, tmp_path / "run")
