"""How a run begins, begins again, and fails to begin: what is left in its folder each time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.errors import EarlyBirdError, MethodError, RunFolderError, Terminated
from earlybird.runs import folder as folder_module
from earlybird.runs import record_file
from earlybird.runs.folder import RunFolder
from earlybird.runs.run import run, run_search
from earlybird.settings.method import requests_of
from earlybird.settings.run import RunConfig
from earlybird.training import loop
from earlybird.training.checkpoint import write_atomically


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Call `act()` before the optimizer's step number `step` (from 0) of this process."""
    count, original = [0], loop._train_step

    def counted(*arguments: Any) -> None:
        if count[0] == step:
            act()
        count[0] += 1
        original(*arguments)

    monkeypatch.setattr(loop, "_train_step", counted)


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("step", "checkpoint_every"), [(0, 0), (5, 3), (6, 0), (20, 3), (59, 0)])
def test_sigterm_saves_at_the_very_step_and_the_same_call_ends_with_the_same_bits(
    tiny_settings, tmp_path: Path, monkeypatch, step: int, checkpoint_every: int, run_once
):
    """In the search, at the ticket, in the retrain, and in the last step."""
    settings = tiny_settings(training={"checkpoint_every": checkpoint_every})
    whole = run_once(settings, tmp_path / "whole")
    assert whole["ticket"]["step"] == 7
    with monkeypatch.context() as patch:
        at_step(patch, step, terminate)
        with pytest.raises(Terminated) as stopped:
            go(settings, tmp_path / "stopped")
    assert stopped.value.code == 143
    manifests = sorted((tmp_path / "stopped" / "checkpoints").glob("*.json"))
    assert manifests
    record = go(settings, tmp_path / "stopped")
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert record["cost"]["total"]["images"] == whole["cost"]["total"]["images"]
    rows = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert rows == record["metrics"]


def test_sigterm_in_the_step_that_draws_the_ticket_waits_for_the_first_slim_checkpoint(
    tiny_settings, tmp_path: Path, monkeypatch
):
    at_step(monkeypatch, 6, terminate)
    with pytest.raises(Terminated):
        go(tiny_settings(), tmp_path / "run")
    state = RunFolder(tmp_path / "run").checkpoints.latest()
    assert (state["phase"], state["step"]) == ("retrain", 8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BatchNorm2d", "InstanceNorm2d", "criterion 'bn_scale' found no BatchNorm with a scale; use criterion="),
        (
            "self.left(x) + self.right(x))",
            "self.left(x.flip(1)) + self.right(x.flip(1))).flip(1)",
            "nothing can be cut .*flip",
        ),
        ("x = self.stem(x)", "x = self.stem(x) if x.sum() > -1e9 else x", "cannot trace module 'the network'"),
    ],
)
@pytest.mark.parametrize("existed", [False, True])
def test_a_network_that_cannot_be_cut_leaves_the_place_as_it_was(
    tiny_settings, tiny: Path, tmp_path: Path, existed: bool, old: str, new: str, message: str
):
    """The configuration is written by then; the mistake is met when the search looks for what may be cut."""
    assert old in tiny.read_text()
    tiny.write_text(tiny.read_text().replace(old, new))
    if existed:
        (tmp_path / "run").mkdir()
    with pytest.raises(MethodError, match=f"method early_bird cannot handle this network: {message}"):
        go(tiny_settings(training={"epochs": 1}), tmp_path / "run")
    assert (tmp_path / "run").exists() == existed
    assert not existed or list((tmp_path / "run").iterdir()) == []


def test_a_ticket_of_another_schedule_leaves_no_folder_and_the_right_settings_work_there(tiny_settings, tmp_path: Path):
    (ticket,) = run_search(
        RunConfig.from_dict(tiny_settings()), requests_of([0.5]), tmp_path / "s", quiet=True
    ).values()
    with pytest.raises(EarlyBirdError, match="schedule of 60 steps, this run has 50"):
        go(tiny_settings(training={"epochs": 10}), tmp_path / "run", ticket=ticket)
    assert not (tmp_path / "run").exists()
    go(tiny_settings(), tmp_path / "run", ticket=ticket)


def test_a_failed_start_in_an_empty_folder_leaves_it_empty(tiny_settings, tmp_path: Path):
    (ticket,) = run_search(
        RunConfig.from_dict(tiny_settings()), requests_of([0.5]), tmp_path / "s", quiet=True
    ).values()
    (tmp_path / "run").mkdir()
    with pytest.raises(EarlyBirdError):
        go(tiny_settings(training={"epochs": 10}), tmp_path / "run", ticket=ticket)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_killed_first_write_left_does_not_close_the_folder(tiny_settings, tmp_path: Path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.yaml.tmp-4711").write_text("mod")
    go(tiny_settings("dense", training={"epochs": 1}), out)
    assert not list(out.glob(".*.tmp-*"))


def test_a_run_killed_in_its_very_first_checkpoint_starts_again(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    settings = tiny_settings("dense", training={"epochs": 2})
    run_once(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 0, kill)
        with pytest.raises(Killed):
            go(settings, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "00000001.json").unlink()
    with pytest.warns(UserWarning, match="the run starts from the beginning"):
        go(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_damaged_newest_checkpoint_costs_steps_and_not_bits(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    settings = tiny_settings("dense", training={"epochs": 3, "checkpoint_every": 2})
    run_once(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 9, kill)
        with pytest.raises(Killed):
            go(settings, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="going on from the one before"):
        go(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_checkpoints_that_outlived_the_record_are_removed_and_the_record_is_not_touched(tiny_settings, tmp_path: Path):
    settings = tiny_settings("dense", training={"epochs": 1})
    record = go(settings, tmp_path / "run")
    RunFolder(tmp_path / "run").checkpoints.save({"step": 1})
    before = (tmp_path / "run" / "record.json").stat().st_mtime_ns
    assert go(settings, tmp_path / "run") == record
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run" / "record.json").stat().st_mtime_ns == before


def test_a_forced_precision_is_used_and_not_what_an_earlier_start_resolved(tiny_settings, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 2, kill)
        with pytest.raises(Killed):
            go(tiny_settings("dense", training={"epochs": 1}), tmp_path / "run")
    changed = tiny_settings("dense", training={"epochs": 1, "precision": "bf16"})
    with pytest.raises(RunFolderError, match=r"training\.precision: 'fp32' -> 'bf16'.*--force"):
        go(changed, tmp_path / "run")
    record = go(changed, tmp_path / "run", force=True)
    assert record["resolved"]["precision"] == "bf16"
    assert "training.precision: 'fp32' -> 'bf16'" in (tmp_path / "run" / "run.log").read_text()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["precision"] == "bf16"


@pytest.mark.parametrize("text", ["", "[1, 2]", "model: {name", "\x00", "training: 3\n"])
def test_a_corrupt_configuration_is_one_line(tiny_settings, tmp_path: Path, text: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(EarlyBirdError, match=r"config\.yaml is corrupt|section 'training' is 3"):
        go(tiny_settings("dense"), tmp_path / "run")


def test_a_disk_that_refuses_the_metrics_costs_a_warning_and_no_run(tiny_settings, tmp_path: Path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        if path.name == "metrics.jsonl":
            raise OSError(28, "No space left on device")
        write_atomically(path, data)

    monkeypatch.setattr(folder_module, "write_atomically", full)
    with pytest.warns(UserWarning, match=r"metrics\.jsonl not written \(No space left on device\)"):
        record = go(tiny_settings("dense", training={"epochs": 2}), tmp_path / "run")
    assert len(record["metrics"]) == 2


def test_a_disk_that_refuses_the_record_loses_nothing(tiny_settings, tmp_path: Path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        if path.name == "record.json":
            raise OSError(28, "No space left on device", str(path))
        write_atomically(path, data)

    settings = tiny_settings("dense", training={"epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(record_file, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            go(settings, tmp_path / "run")
    state = RunFolder(tmp_path / "run").checkpoints.latest()
    assert state["step"] == 10
    before = digest(tmp_path / "run")
    assert go(settings, tmp_path / "run")["status"] == "finished"
    assert digest(tmp_path / "run") == before
