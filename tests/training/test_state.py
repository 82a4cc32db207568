"""What `FitState` saves, refuses to save, and takes back; seen through whole runs of a tiny network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from earlybird.errors import CheckpointError, NonFiniteError
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig, TrainingSettings
from earlybird.training import loop
from earlybird.training.checkpoint import Checkpoints
from earlybird.training.loop import drop_steps, learning_rate


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Call `act(state)` when the optimizer has done its `step`-th step of this process."""
    count, original = [0], loop._train_step

    def counted(state: Any, x: Any, y: Any) -> None:
        original(state, x, y)
        count[0] += 1
        if count[0] == step:
            act(state)

    monkeypatch.setattr(loop, "_train_step", counted)


def kill(state: Any) -> None:
    raise Killed


@pytest.mark.parametrize("key", ["running_mean", "running_var"])
@pytest.mark.parametrize("step", [5, 30])
def test_a_step_that_breaks_a_buffer_ends_the_run_with_its_name(
    tiny_settings, tmp_path: Path, monkeypatch, key: str, step: int
):
    """One bad batch in bf16 is enough; the loss of the training, which reads the batch's own, is fine."""

    def poison(state: Any) -> None:
        norm = next(module for module in state.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
        getattr(norm, key)[0] = float("nan")

    after_step(monkeypatch, step, poison)
    settings = tiny_settings("dense", training={"epochs": 6})
    with pytest.raises(NonFiniteError, match=rf"buffer '.*{key}' became NaN or infinite by step {step - 1} "):
        go(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "record.json").exists()


def test_an_evaluation_that_ends_with_no_number_is_no_result(tiny_settings, tmp_path: Path, monkeypatch):
    def poison(state: Any) -> None:
        state.model.register_buffer("mask", torch.tensor(float("-inf")))  # as attention has; it was there before
        with torch.no_grad():
            state.model.head.weight.fill_(1e38)

    after_step(monkeypatch, 30, poison)
    monkeypatch.setattr("earlybird.training.state.not_finite", lambda model: [])
    with pytest.raises(NonFiniteError, match=r"an evaluation ends with a loss of (inf|nan) \(.*\); train again"):
        go(tiny_settings("dense", training={"epochs": 6}), tmp_path / "run")


@pytest.mark.parametrize("checkpoint_every", [1, 0])
def test_a_step_that_breaks_the_weights_leaves_no_checkpoint_of_them(
    tiny_settings, tmp_path: Path, monkeypatch, checkpoint_every: int
):
    def poison(state: Any) -> None:
        with torch.no_grad():
            state.model.head.weight[0, 0] = float("inf")

    after_step(monkeypatch, 5, poison)  # the last step of the first epoch: its loss was still fine
    settings = tiny_settings("dense", training={"checkpoint_every": checkpoint_every})
    with pytest.raises(
        NonFiniteError, match=r"weight 'head\.weight' became NaN or infinite by step 4 of phase 'train'"
    ):
        go(settings, tmp_path / "run")
    state = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert state["step"] == (4 if checkpoint_every else 0)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_checkpoint_of_another_network_is_one_line(tiny: Path, tiny_settings, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        after_step(patch, 7, kill)
        with pytest.raises(Killed):
            go(tiny_settings("dense"), tmp_path / "run")
    tiny.write_text(tiny.read_text().replace("12", "10"))
    with pytest.raises(CheckpointError, match="is of another network than this configuration's"):
        go(tiny_settings("dense"), tmp_path / "run")


def test_a_forced_setting_of_the_optimizer_takes_effect(tiny_settings, tmp_path: Path, monkeypatch):
    """The checkpoint brings momentum buffers, not the old settings with them."""
    with monkeypatch.context() as patch:
        after_step(patch, 7, kill)
        with pytest.raises(Killed):
            go(tiny_settings("dense"), tmp_path / "run")
    seen: set[float] = set()
    original = loop._train_step

    def watch(state: Any, x: Any, y: Any) -> None:
        seen.update(group["weight_decay"] for group in state.optimizer.param_groups)
        original(state, x, y)

    monkeypatch.setattr(loop, "_train_step", watch)
    go(tiny_settings("dense", training={"weight_decay": 0.01}), tmp_path / "run", force=True)
    assert seen == {0.01}


def test_validation_is_charged_in_macs_and_not_in_the_papers_flops(tiny_settings, tmp_path: Path):
    settings = tiny_settings("dense", training={"epochs": 2}, data={"val_fraction": 0.2})
    record = go(settings, tmp_path / "run")
    cost, dense = record["cost"]["phases"]["train"], record["dense"]
    trained, validated = 2 * 72, 2 * 18
    assert cost["images"] == trained + validated
    assert cost["macs"] == trained * dense["train_macs"] + validated * dense["macs"]
    assert cost["paper_flops"] == pytest.approx(3e9 * trained * dense["paper_gflops"])
    assert all(0 <= row["val_accuracy"] <= 1 for row in record["metrics"])


def test_bf16_resumes_to_the_same_bits(tiny_settings, tmp_path: Path, monkeypatch):
    settings = tiny_settings("dense", training={"epochs": 2, "precision": "bf16", "checkpoint_every": 2})
    go(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        after_step(patch, 8, kill)
        with pytest.raises(Killed):
            go(settings, tmp_path / "killed")
    go(settings, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


@pytest.mark.parametrize(("fraction", "total"), [(0.55, 100), (0.07, 100), (0.29, 100), (1 / 3, 450), (0.5, 15640)])
def test_drops_are_listed_at_the_very_step_where_the_rate_falls(fraction: float, total: int):
    """0.55 * 100 is a little above 55 in floating point."""
    settings = TrainingSettings(milestones=(fraction,))
    (drop,) = drop_steps(total, settings)
    assert (learning_rate(drop - 1, total, settings), learning_rate(drop, total, settings)) == (0.1, 0.01)


def test_a_warm_up_reaches_the_full_rate_with_its_last_step():
    settings = TrainingSettings(lr=0.7, warmup=0.07, schedule="constant")
    assert [learning_rate(step, 100, settings) for step in range(8)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7]
    )
