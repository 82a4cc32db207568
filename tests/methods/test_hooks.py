"""What the search does at its edges: where draws end, what is flagged, what ratio 0 is, what a full disk does."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from earlybird.core import Ticket
from earlybird.errors import NonFiniteError, TicketError
from earlybird.methods import early_bird
from earlybird.methods.hooks import rewind_file
from earlybird.report.comparison import comparison_rows
from earlybird.runs.run import run
from earlybird.settings.method import PAPER_STEPS, Clock
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_more_search_epochs_than_the_schedule_has_still_end_with_it(tiny_settings, tmp_path: Path):
    settings = tiny_settings(epsilon=1e-6, penalty=1e-2, on_no_ticket="draw", max_search_epochs=99)
    record = go(settings, tmp_path / "run")
    assert record["ticket"]["rule"] == "forced"
    assert record["ticket"]["step"] == record["resolved"]["total_steps"]
    assert "retrain" not in record["cost"]["phases"]


def test_draws_and_penalty_end_with_max_search_epochs_and_the_rest_is_plain_training(
    tiny_settings, tmp_path: Path, monkeypatch
):
    penalised: list[float] = []
    monkeypatch.setattr(
        "earlybird.methods.hooks.bn_l1_subgradient_", lambda model, strength: penalised.append(strength)
    )
    record = go(tiny_settings(epsilon=1e-6, max_search_epochs=3, clock="epochs"), tmp_path / "run")
    assert record["ticket"]["none"]
    assert len(record["ticket"]["distances"]) == 2
    assert penalised == [1e-4] * 15
    assert record["metrics"][-1]["step"] == 60


def test_a_ticket_at_the_rules_minimum_is_flagged_once(tiny_settings, tmp_path: Path, capsys):
    from earlybird.cli.run_commands import show_finished_run

    record = go(tiny_settings(epsilon=1.0, window=2), tmp_path / "run")
    assert record["ticket"]["draw"] == 3
    assert record["ticket"]["flags"] == record["flags"] == ["fired at the rule's minimum"]
    capsys.readouterr()
    show_finished_run(record, str(tmp_path / "run"))
    assert capsys.readouterr().out.count("fired at the rule's minimum") == 1


def test_a_ticket_soon_after_a_drop_of_the_learning_rate_is_flagged(tiny_settings, tmp_path: Path):
    settings = tiny_settings(epsilon=1.0, window=4, clock="epochs", training={"milestones": [0.25]})
    record = go(settings, tmp_path / "run")
    assert record["ticket"]["epoch"] == 5
    assert any("drawn 2 draws after a learning-rate drop" in flag for flag in record["ticket"]["flags"])


def test_a_search_with_too_few_draws_for_its_rule_says_so_before_it_trains(tiny_settings, tmp_path: Path):
    settings = tiny_settings(min_draw_steps=5, training={"epochs": 5})
    with pytest.warns(
        UserWarning, match=r"rule 'paper' needs 6 draws and this search has 5: it cannot fire; raise --ep"
    ):
        assert go(settings, tmp_path / "run")["ticket"]["none"]


@pytest.mark.parametrize("draw_at", ["rule", 3, "last"])
def test_a_ticket_of_a_network_that_has_not_learnt_is_flagged_and_said(
    draw_at: Any, tiny_settings, tmp_path: Path, capsys
):
    settings = tiny_settings(draw_at=draw_at, training={"lr": 1e-7, "epochs": 3, "seed": 2})
    record = run(RunConfig.from_dict(settings), tmp_path / "run")
    moved, chance = record["ticket"]["flags"][-2:]
    assert re.fullmatch(r"channel scores have hardly moved since the first draw \(\S+ %\)", moved)
    assert re.fullmatch(r"training accuracy near chance when drawn \(\d+ %, chance 33 %\)", chance)
    assert {moved, chance} <= {*record["flags"]}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ticket p = 0.5 at step ")]
    assert [line.partition(": ")[2] for line in said] == [moved, chance]
    assert {moved, chance} <= {*comparison_rows([record])[0]["flags"]}  # the footnotes of tables


@pytest.mark.parametrize(("lr", "draw_at"), [(0.05, 30), (1e-7, 0), (1e-7, 1)])
def test_scores_that_moved_and_draws_before_any_are_not_called_still(lr: float, draw_at: int, tiny_settings, tmp_path):
    record = go(tiny_settings(draw_at=draw_at, training={"lr": lr}), tmp_path / "run")
    assert not any("hardly moved" in flag for flag in record["ticket"]["flags"])


def test_ratio_0_without_penalty_and_momentum_is_dense_training_to_the_bit(tiny: Path, tiny_settings, tmp_path: Path):
    """All that is left of the method is a fresh optimizer at the ticket, and without momentum that holds nothing."""
    tiny.write_text(tiny.read_text().replace("nn.Dropout(0.1)", "nn.Identity()"))
    training = {"momentum": 0.0, "epochs": 6}
    go(tiny_settings("dense", training=training), tmp_path / "dense")
    with pytest.warns(UserWarning, match="the rule will always fire"):
        record = go(tiny_settings(prune_ratio=0.0, penalty=0.0, training=training), tmp_path / "ticket")
    assert record["ticket"]["draw"] == 6
    assert record["ticket"]["realised_ratio"] == 0.0
    assert all(layer["kept"] == layer["dense"] for layer in record["layers"])
    assert digest(tmp_path / "ticket") == digest(tmp_path / "dense")


def test_the_proximal_form_reaches_exact_zeros(tiny_settings, tmp_path: Path):
    settings = tiny_settings(penalty_form="proximal", penalty=0.062, on_no_ticket="draw", epsilon=1e-6, clock="epochs")
    go(settings, tmp_path / "run")
    weights = Ticket.load(tmp_path / "run" / "ticket.safetensors").weights
    at_zero = torch.cat([weights[f"{norm}.weight"] for norm in ("stem.1", "left.1", "right.1")]) == 0
    assert 0 < at_zero.sum() < len(at_zero)


@pytest.mark.parametrize("criterion", ["bn_saliency", "filter_l1", "taylor"])
def test_the_other_criteria_cut_as_many_units(tiny_settings, tmp_path: Path, criterion: str):
    settings = tiny_settings(criterion=criterion, on_no_ticket="draw", training={"epochs": 4})
    record = go(settings, tmp_path / "run")
    assert record["ticket"]["realised_ratio"] == 0.5


def test_a_search_by_saliency_sees_the_loss_alone_and_goes_on_with_the_same_bits_after_a_kill(
    tiny_settings, tmp_path: Path, monkeypatch
):
    settings = tiny_settings(criterion="bn_saliency", draw_at=9, training={"epochs": 4})
    go(settings, tmp_path / "whole")
    original = loop._train_step

    def die(state: Any, x: torch.Tensor, y: torch.Tensor) -> None:
        original(state, x, y)
        if state.step == 7:  # after the checkpoint at step 5
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_train_step", die)
    with pytest.raises(KeyboardInterrupt):
        go(settings, tmp_path / "killed")
    monkeypatch.setattr(loop, "_train_step", original)
    go(settings, tmp_path / "killed")
    scales = [np.load(tmp_path / name / "scales.npz") for name in ("whole", "killed")]
    assert list(scales[0]["steps"]) == list(range(1, 10))
    assert all(np.array_equal(scales[0][layer], scales[1][layer]) for layer in scales[0].files)
    # One update with the gradients of the first step, on which no penalty of any strength lies.
    go(tiny_settings(criterion="bn_saliency", draw_at=9, penalty=5.0, training={"epochs": 4}), tmp_path / "strong")
    strong = np.load(tmp_path / "strong" / "scales.npz")
    assert np.array_equal(strong["stem.1"][0], scales[0]["stem.1"][0])
    assert not np.array_equal(strong["stem.1"][-1], scales[0]["stem.1"][-1])


def test_a_disk_that_refuses_the_ticket_is_one_line(tiny_settings, tmp_path: Path, monkeypatch):
    def full(self: Ticket, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ticket, "save", full)
    with pytest.raises(TicketError, match=r"could not be written .*No space left.*give the same command again"):
        go(tiny_settings(epsilon=1.0), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_rewind_weights_of_another_epoch_are_never_taken_for_these(tmp_path: Path):
    assert rewind_file(tmp_path, 1) != rewind_file(tmp_path, 2)


def test_a_ticket_never_holds_a_weight_that_is_no_number(tiny_settings, tmp_path: Path, monkeypatch):
    """A step can break a convolution while every scale, which is all that is scored, is still fine."""
    original = loop._train_step

    def poison(state: Any, x: Any, y: Any) -> None:
        after = state.hooks.after_step

        def broken(state: Any) -> bool:
            if state.step == 3:
                with torch.no_grad():
                    state.model.left[0].weight[0, 0] = float("nan")
            return after(state)

        with monkeypatch.context() as patch:
            patch.setattr(state.hooks, "after_step", broken)
            original(state, x, y)

    monkeypatch.setattr(loop, "_train_step", poison)
    with pytest.raises(NonFiniteError, match=r"weight 'left\.0\.weight' became NaN or infinite by step 2"):
        go(tiny_settings(epsilon=1.0, window=2), tmp_path / "run")
    assert not (tmp_path / "run" / "ticket.safetensors").exists()


def test_a_score_that_is_no_number_stops_the_search_with_its_step(tiny_settings, tmp_path: Path, monkeypatch):
    scores = early_bird.CRITERIA["bn_scale"]
    draws: list[int] = []

    def diverging(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        draws.append(1)
        return {name: score * (float("nan") if len(draws) == 5 else 1.0) for name, score in scores(model).items()}

    monkeypatch.setitem(early_bird.CRITERIA, "bn_scale", diverging)
    with pytest.raises(NonFiniteError, match=r"at step 3 of phase 'search': .*the last checkpoint is intact"):
        go(tiny_settings(), tmp_path / "run")


@pytest.mark.parametrize("strength", [1e-4, 1e-5, 3e-5, 7e-4])
def test_any_strength_comes_out_unchanged_to_the_bit_in_a_run_of_the_papers_length(strength: float):
    """3e-5 * 31360 / 31360 is not 3e-5 in floating point."""
    assert Clock("scaled", steps_per_epoch=196, total_steps=PAPER_STEPS).penalty(strength) == strength
