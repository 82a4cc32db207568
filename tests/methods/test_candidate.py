"""What a ticket becomes: weights, schedule, shapes (`docs/method.md` section 1, "After the ticket")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from earlybird.core import Ticket
from earlybird.errors import TicketError
from earlybird.methods import pipeline
from earlybird.methods.task import Candidate
from earlybird.runs.run import run, run_search
from earlybird.settings.method import requests_of
from earlybird.settings.run import RunConfig
from earlybird.training import loop

STEPS_PER_EPOCH = 5  # 90 images in batches of 20


class Seen(Exception):
    """Ends a run where its retrain would begin."""


@pytest.fixture
def candidate_of(tiny_settings, tmp_path: Path, monkeypatch) -> Callable[..., tuple[Candidate, Any]]:
    """Run the search and the cut; the candidate with its weights untouched, and the task."""
    found: list[tuple[Candidate, Any]] = []

    def catch(task: Any, candidate: Candidate, resume: Any) -> None:
        found.append((candidate, task))
        raise Seen

    monkeypatch.setattr(pipeline, "train_candidate", catch)

    def candidate_of(**values: Any) -> tuple[Candidate, Any]:
        settings = RunConfig.from_dict(tiny_settings(**{"clock": "epochs", **values}))
        with pytest.raises(Seen):
            run(settings, tmp_path / f"run{len(found)}", quiet=True)
        return found[-1]

    return candidate_of


def weights_after(monkeypatch: pytest.MonkeyPatch, step: int) -> dict[str, Tensor]:
    """Filled with the network's weights when the next training has done `step` steps."""
    kept: dict[str, Tensor] = {}
    original = loop._train_step

    def watch(state: Any, x: Tensor, y: Tensor) -> None:
        original(state, x, y)
        if state.step == step and not kept:
            kept.update({name: value.clone() for name, value in state.model.state_dict().items()})

    monkeypatch.setattr(loop, "_train_step", watch)
    return kept


def assert_cut_from(candidate: Candidate, dense: dict[str, Tensor]) -> None:
    """Every tensor of the tiny network is the dense one's at the kept channels."""
    assert candidate.ticket is not None
    stem, branch = candidate.ticket.mask["stem.1"], candidate.ticket.mask["left.1"]
    small = candidate.model.state_dict()
    assert torch.equal(small["stem.0.weight"], dense["stem.0.weight"][stem])
    assert torch.equal(small["left.0.weight"], dense["left.0.weight"][branch][:, stem])
    assert torch.equal(small["right.0.weight"], dense["right.0.weight"][branch][:, stem])
    assert torch.equal(small["head.weight"], dense["head.weight"][:, branch])
    for norm, keep in (("stem.1", stem), ("left.1", branch), ("right.1", branch)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(small[f"{norm}.{part}"], dense[f"{norm}.{part}"][keep])


def test_inherit_takes_the_trained_weights_and_goes_on_where_the_search_stopped(candidate_of):
    candidate, task = candidate_of()
    assert_cut_from(candidate, dict(candidate.ticket.weights))
    assert candidate.start_step == candidate.ticket.notes["step"] == candidate.ticket.drawn_after * STEPS_PER_EPOCH
    assert candidate.end_step == task.session.total_steps == 12 * STEPS_PER_EPOCH
    assert candidate.penalty == 0.0


def test_inherit_restart_trains_the_same_weights_over_the_whole_schedule(candidate_of):
    candidate, _ = candidate_of(schedule="restart")
    assert_cut_from(candidate, dict(candidate.ticket.weights))
    assert (candidate.start_step, candidate.end_step) == (0, 60)


@pytest.mark.parametrize(
    ("clock", "retrain_penalty", "expected"),
    [
        ("epochs", 2e-4, 2e-4),
        ("scaled", 2e-4, 2e-4),
        ("epochs", "search", 1e-4),
        ("scaled", "search", 1e-4 * 31360 / 60),
    ],
)
def test_the_retrain_is_penalised_as_it_is_told_or_as_the_search_was(candidate_of, clock, retrain_penalty, expected):
    candidate, _ = candidate_of(clock=clock, retrain_penalty=retrain_penalty, penalty=1e-4, draw_at=1)
    assert candidate.penalty == pytest.approx(expected, rel=1e-12)


def test_the_preset_of_the_released_code_stops_by_its_rule_and_penalises_the_retrain(candidate_of):
    candidate, _ = candidate_of(method="early_bird_as_released", penalty=1e-4)
    assert candidate.ticket.rule == "authors_code"
    assert candidate.penalty == 1e-4  # by epochs nothing is scaled


def test_rewind_to_0_takes_the_initial_weights(candidate_of):
    candidate, task = candidate_of(weights="rewind")
    assert_cut_from(candidate, task.build().state_dict())
    assert candidate.start_step == 0


def test_rewind_to_an_epoch_takes_its_weights_and_its_place_in_the_schedule(candidate_of, monkeypatch):
    seen = weights_after(monkeypatch, 2 * STEPS_PER_EPOCH)
    candidate, _ = candidate_of(weights="rewind", rewind_epoch=2)
    assert_cut_from(candidate, seen)
    assert candidate.start_step == 2 * STEPS_PER_EPOCH
    assert candidate.flags == candidate.ticket.flags


def test_rewind_to_an_epoch_that_the_search_did_not_reach_inherits_and_says_so(candidate_of):
    candidate, _ = candidate_of(weights="rewind", rewind_epoch=11)
    assert_cut_from(candidate, dict(candidate.ticket.weights))
    assert candidate.start_step == candidate.ticket.notes["step"]
    assert any("drawn before rewind epoch 11" in flag for flag in candidate.flags)


def test_reinit_draws_weights_that_neither_the_search_nor_its_start_had(candidate_of):
    candidate, task = candidate_of(weights="reinit")
    again, _ = candidate_of(weights="reinit")
    small = candidate.model.state_dict()
    assert all(torch.equal(small[name], value) for name, value in again.model.state_dict().items())
    keep = candidate.ticket.mask["stem.1"]
    for dense in (task.build().state_dict(), candidate.ticket.weights):
        assert not torch.equal(small["stem.0.weight"], dense["stem.0.weight"][keep])
    assert (candidate.start_step, candidate.end_step) == (0, 60)


def test_reinit_continue_is_what_the_authors_code_does(candidate_of):
    candidate, _ = candidate_of(weights="reinit", schedule="continue")
    assert candidate.start_step == candidate.ticket.notes["step"]


def test_a_built_in_network_is_initialised_at_the_tickets_widths(candidate_of, tiny: Path):
    """He's variance 2 / (k*k*C_out) follows the small network's C_out, not the dense one's."""
    tiny.write_text(tiny.read_text().replace("        self.drop =", "        self.started = 0\n        self.drop ="))
    tiny.write_text(tiny.read_text() + "\n    def initialise_(self):\n        self.started = self.head.in_features\n")
    candidate, _ = candidate_of(weights="reinit")
    assert candidate.model.started == candidate.ticket.mask.kept_counts()["left.1"]


@pytest.fixture
def ticket(tiny_settings, tmp_path: Path) -> Path:
    config = RunConfig.from_dict(tiny_settings(policy="tie"))
    (path,) = run_search(config, requests_of([0.5]), tmp_path / "search", quiet=True).values()
    assert path is not None
    return path


def test_a_ticket_of_a_loop_of_ones_own_is_refused_with_the_cure(tiny_settings, ticket: Path, tmp_path: Path):
    foreign = tmp_path / "foreign.safetensors"
    replace(Ticket.load(ticket), notes={}).save(foreign)
    config = RunConfig.from_dict(tiny_settings(policy="tie"))
    with pytest.raises(TicketError, match=r"does not say step, .*journal: .*or cut with earlybird\.slim"):
        run(config, tmp_path / "run", ticket=foreign, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_ticket_of_another_policy_is_refused(tiny_settings, ticket: Path, tmp_path: Path):
    config = RunConfig.from_dict(tiny_settings(policy="inner"))
    with pytest.raises(
        TicketError, match=r"policy 'tie'\) than this network has under policy 'inner'; give .*--method"
    ):
        run(config, tmp_path / "run", ticket=ticket, quiet=True)
    assert not (tmp_path / "run").exists()
