"""Lottery tickets: what is kept, what it starts from, zeros that stay zeros, rounds, and a dense run to start from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from earlybird.core import WeightMask, prunable_weights
from earlybird.errors import ConfigError, MethodError, RunFolderError
from earlybird.methods import pipeline
from earlybird.methods.lottery_ticket import round_ratio
from earlybird.methods.task import Candidate
from earlybird.runs.run import run
from earlybird.settings.catalog import LotteryTicket
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def mask_of(folder: Path, name: str = "weight-mask.safetensors") -> WeightMask:
    return WeightMask.load(folder / name)[0]


@pytest.fixture
def starts(monkeypatch) -> list[tuple[Candidate, dict[str, Tensor], Any]]:
    """Each last training: candidate, weights that it starts with, task."""
    found: list[tuple[Candidate, dict[str, Tensor], Any]] = []
    original = pipeline.train_candidate

    def spy(task: Any, candidate: Candidate, resume: Any) -> None:
        found.append((candidate, {n: v.clone() for n, v in candidate.model.state_dict().items()}, task))
        original(task, candidate, resume)

    monkeypatch.setattr(pipeline, "train_candidate", spy)
    return found


def test_the_largest_trained_weights_are_kept_and_start_from_where_they_had_started(
    tiny_settings, tmp_path: Path, starts, run_once
):
    run_once(tiny_settings("dense"), tmp_path / "dense")
    trained = weights(tmp_path / "dense")
    record = go(tiny_settings("lottery_ticket", prune_ratio=0.6), tmp_path / "run")
    mask = mask_of(tmp_path / "run")
    _, start, task = starts[-1]
    initial = task.build().state_dict()
    # By brute force: every kept weight of the trained network is at least as large as every removed one.
    kept = torch.cat([trained[name][mask[name]].abs() for name in mask])
    removed = torch.cat([trained[name][~mask[name]].abs() for name in mask])
    assert len(removed) == round(0.6 * mask.total) and kept.min() >= removed.max()
    for name, value in initial.items():
        expected = value * mask[name] if name in mask else value
        assert torch.equal(start[name], expected)
    assert record["cost"]["phases"]["search"]["images"] == record["cost"]["phases"]["retrain"]["images"] == 12 * 90


def test_removed_weights_are_exactly_zero_through_momentum_and_decay(tiny_settings, tmp_path: Path, monkeypatch):
    seen: list[bool] = []
    original = loop._train_step

    def watch(state: Any, x: Tensor, y: Tensor) -> None:
        original(state, x, y)
        if state.span.phase == "retrain":
            mask = mask_of(tmp_path / "run")
            for name in mask:
                parameter = state.model.get_parameter(name)
                buffer = state.optimizer.state[parameter]["momentum_buffer"]
                seen.append(not parameter[~mask[name]].any() and not buffer[~mask[name]].any())

    monkeypatch.setattr(loop, "_train_step", watch)
    settings = tiny_settings("lottery_ticket", training={"weight_decay": 0.1, "momentum": 0.9, "clip_norm": 1.0})
    go(settings, tmp_path / "run")
    assert len(seen) == 60 * 4 and all(seen)
    final = weights(tmp_path / "run")
    mask = mask_of(tmp_path / "run")
    assert all(bool((final[name][mask[name]] != 0).any()) for name in mask)


def test_a_gradient_that_is_no_number_does_not_reach_a_removed_weight():
    from torch import nn

    from earlybird.methods.hooks import HoldHooks

    net = nn.Linear(2, 1, bias=False)
    hooks = HoldHooks(net, mask=WeightMask({"weight": torch.tensor([[True, False]])}))
    net.weight.grad = torch.tensor([[1.0, float("inf")]])
    hooks.after_backward(net, 0)
    assert net.weight.grad.tolist() == [[1.0, 0.0]]
    assert net.weight[0, 1] == 0


def test_rewinding_to_an_epoch_takes_its_weights_and_its_place_in_the_schedule(
    tiny_settings, tmp_path: Path, starts, monkeypatch
):
    kept: dict[str, Tensor] = {}
    original = loop._train_step

    def watch(state: Any, x: Tensor, y: Tensor) -> None:
        original(state, x, y)
        if state.step == 2 * 5 and not kept:
            kept.update({name: value.clone() for name, value in state.model.state_dict().items()})

    monkeypatch.setattr(loop, "_train_step", watch)
    record = go(tiny_settings("lottery_ticket", rewind_epoch=2), tmp_path / "run")
    candidate, start, _ = starts[-1]
    mask = mask_of(tmp_path / "run")
    for name, value in kept.items():
        assert torch.equal(start[name], value * mask[name] if name in mask else value)
    assert (candidate.start_step, candidate.end_step) == (10, 60)
    assert record["cost"]["phases"]["retrain"]["images"] == 10 * 90


def test_new_weights_are_neither_the_start_nor_the_end(tiny_settings, tmp_path: Path, starts):
    go(tiny_settings("lottery_ticket", weights="reinit"), tmp_path / "run")
    _, start, task = starts[-1]
    mask, initial = mask_of(tmp_path / "run"), task.build().state_dict()
    assert all(not torch.equal(start[name], initial[name] * mask[name]) for name in mask)
    assert all(not start[name][~mask[name]].any() for name in mask)


def test_rounds_remove_the_same_share_of_what_is_left_and_bring_nothing_back(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("lottery_ticket", prune_ratio=0.75, rounds=2), tmp_path / "run")
    first, last = mask_of(tmp_path / "run", "weight-mask-round1.safetensors"), mask_of(tmp_path / "run")
    assert first.kept == first.total - round(0.5 * first.total)
    assert last.kept == last.total - round(0.75 * last.total)
    assert all(not (last[name] & ~first[name]).any() for name in last)
    assert record["cost"]["phases"]["search"]["images"] == 2 * 12 * 90


@pytest.mark.parametrize(("ratio", "rounds"), [(0.5, 1), (0.5, 3), (0.9, 4), (0.0, 2)])
def test_the_last_round_ends_at_the_ratio_that_was_asked_for(ratio, rounds):
    shares = [1 - round_ratio(ratio, number, rounds) for number in range(rounds)]
    assert shares[-1] == 1 - ratio
    kept = [after / before for before, after in zip([1.0, *shares], shares, strict=False)]
    assert kept == pytest.approx([(1 - ratio) ** (1 / rounds)] * rounds)


def test_a_finished_dense_run_stands_for_the_first_training_and_is_charged(tiny_settings, tmp_path: Path, run_once):
    dense = run_once(tiny_settings("dense"), tmp_path / "dense")
    alone = run_once(tiny_settings("lottery_ticket"), tmp_path / "alone")
    shared = go(tiny_settings("lottery_ticket"), tmp_path / "shared", dense_run=tmp_path / "dense")
    assert all(torch.equal(weights(tmp_path / "alone")[n], v) for n, v in weights(tmp_path / "shared").items())
    for key in ("images", "macs", "paper_flops"):
        assert shared["cost"]["phases"]["search"][key] == alone["cost"]["phases"]["search"][key]
    assert shared["cost"]["phases"]["search"]["wall_seconds"] == dense["cost"]["phases"]["train"]["wall_seconds"]
    assert [row["train_loss"] for row in shared["metrics"]] == [row["train_loss"] for row in alone["metrics"]]


def test_a_dense_run_serves_a_run_with_a_budget_and_not_the_other_way_round(tiny_settings, tmp_path: Path, run_once):
    macs = run_once(tiny_settings("dense"), tmp_path / "dense")["cost"]["phases"]["train"]["macs"]
    budget = {"budget_macs": 1.5 * macs}
    found = go(tiny_settings("lottery_ticket", training=budget), tmp_path / "run", dense_run=tmp_path / "dense")
    assert found["cost"]["phases"]["retrain"]["macs"] == pytest.approx(0.5 * macs, rel=0.03)
    go(tiny_settings("dense", training=budget), tmp_path / "longer")
    for other in ({}, budget):
        with pytest.raises(MethodError, match=r"as long as its budget allowed; give one without a budget"):
            go(tiny_settings("lottery_ticket", training=other), tmp_path / "other", dense_run=tmp_path / "longer")


def test_a_dense_run_of_an_older_version_lacks_younger_settings_and_serves(tiny_settings, tmp_path: Path):
    go(tiny_settings("dense", training={"eval_batch_size": 7}), tmp_path / "dense")  # which changes no weight
    path = tmp_path / "dense" / "record.json"
    record = json.loads(path.read_text())
    del record["config"]["training"]["label_smoothing"], record["config"]["data"]["download"]
    path.write_text(json.dumps(record))
    go(tiny_settings("lottery_ticket"), tmp_path / "shared", dense_run=tmp_path / "dense")
    with pytest.raises(MethodError, match=r"label_smoothing: 0\.0 -> 0\.1"):
        other = tiny_settings("lottery_ticket", training={"label_smoothing": 0.1})
        go(other, tmp_path / "other", dense_run=tmp_path / "dense")


@pytest.mark.parametrize(
    ("change", "method", "error", "message"),
    [
        ({"lr": 0.01}, "lottery_ticket", MethodError, r"of another training \(training\.lr: 0\.05 -> 0\.01\)"),
        ({}, "snip", MethodError, "method snip, as it is set, cannot start from a dense run"),
    ],
)
def test_a_dense_run_of_another_training_or_for_another_method_is_refused(
    tiny_settings, tmp_path: Path, change, method, error, message, run_once
):
    run_once(tiny_settings("dense"), tmp_path / "dense")
    with pytest.raises(error, match=message):
        go(tiny_settings(method, training=change), tmp_path / "run", dense_run=tmp_path / "dense")
    assert not (tmp_path / "run").exists()


def test_what_is_no_dense_run_is_refused(tiny_settings, tmp_path: Path, run_once):
    run_once(tiny_settings("snip"), tmp_path / "snip")
    with pytest.raises(MethodError, match="is one of method snip; give a run of method dense"):
        go(tiny_settings("lottery_ticket"), tmp_path / "run", dense_run=tmp_path / "snip")
    with pytest.raises(RunFolderError, match="no finished run in"):
        go(tiny_settings("lottery_ticket"), tmp_path / "run", dense_run=tmp_path / "nothing")
    with pytest.raises(MethodError, match="as it is set, cannot start from a dense run"):
        run_once(tiny_settings("dense"), tmp_path / "dense")
        go(tiny_settings("lottery_ticket", rewind_epoch=1), tmp_path / "run", dense_run=tmp_path / "dense")


def test_a_layer_that_loses_all_its_weights_is_flagged(tiny_settings, tiny: Path, tmp_path: Path):
    # The head starts with weights so small that all of them are among the removed.
    head = "self.head = nn.Linear(16, num_classes)"
    small = f"{head}; self.head.weight.data *= 1e-6; self.head.weight.requires_grad_(False)"
    tiny.write_text(tiny.read_text().replace(head, small))
    record = go(tiny_settings("lottery_ticket"), tmp_path / "run")
    empty, *untrained = record["flags"]
    assert empty == "no weight is left in head.weight" and ["near chance" in flag for flag in untrained] == [True, True]


def test_every_conv_and_linear_weight_is_ranked(tiny_settings, tmp_path: Path, starts):
    go(tiny_settings("lottery_ticket"), tmp_path / "run")
    assert set(mask_of(tmp_path / "run")) == set(prunable_weights(starts[-1][0].model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": 0}, r"method\.rounds is 0"),
        ({"rewind_epoch": -1}, r"method\.rewind_epoch is -1"),
        ({"weights": "reinit", "rewind_epoch": 1}, "contradicts"),
    ],
)
def test_a_setting_out_of_range_names_itself(values, message):
    with pytest.raises(ConfigError, match=message):
        LotteryTicket(**values)


def test_an_epoch_past_the_end_is_refused_before_any_training(tiny_settings, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"method\.rewind_epoch is 12; give an integer in \[0, 12\)"):
        go(tiny_settings("lottery_ticket", rewind_epoch=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_when_the_dense_run_it_started_from_is_gone(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    run_once(tiny_settings("dense"), tmp_path / "dense")
    settings = tiny_settings("lottery_ticket", rounds=2)
    whole = go(settings, tmp_path / "whole", dense_run=tmp_path / "dense")
    count, original = [0], loop._train_step

    def step(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 9:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", step)
        with pytest.raises(KeyboardInterrupt):
            go(settings, tmp_path / "killed", dense_run=tmp_path / "dense")
    shutil.rmtree(tmp_path / "dense")
    record = go(settings, tmp_path / "killed", dense_run=tmp_path / "dense")
    assert record["test"] == whole["test"]
    assert record["cost"]["total"]["macs"] == whole["cost"]["total"]["macs"]


def test_weights_that_a_reparametrisation_holds_are_refused(tiny_settings, tiny: Path, tmp_path: Path):
    head = "self.head = nn.Linear(16, num_classes)"
    tiny.write_text(tiny.read_text().replace(head, f"{head}; nn.utils.parametrizations.weight_norm(self.head)"))
    with pytest.raises(MethodError, match="the weight of 'head' is no plain parameter"):
        go(tiny_settings("lottery_ticket"), tmp_path / "run")
