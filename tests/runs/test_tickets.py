"""Tickets as files: searched in one folder, retrained in another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from earlybird.core import Ticket
from earlybird.errors import ConfigError, EarlyBirdError, RunFolderError, TicketError
from earlybird.runs.run import run, run_search
from earlybird.settings.method import requests_of
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def seek(settings: dict[str, Any], ratios: list[float], out: Path, **more: Any) -> dict[float, Path | None]:
    paths = run_search(RunConfig.from_dict(settings), requests_of(ratios), out, quiet=True, **more)
    return {request.prune_ratio: path for request, path in paths.items()}


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def kill_at(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Break off before the training step of this number."""
    count, original = [0], loop._train_step

    def step(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == steps:
            raise Killed
        original(*arguments)

    patch.setattr(loop, "_train_step", step)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_what_is_rewound_to_travels_with_the_ticket(tiny_settings, tmp_path: Path, run_once):
    settings = tiny_settings(weights="rewind", rewind_epoch=1, clock="epochs")
    whole = run_once(settings, tmp_path / "whole")
    (ticket,) = seek(settings, [0.5], tmp_path / "search").values()
    record = go(settings, tmp_path / "retrain", ticket=ticket)
    assert digest(tmp_path / "retrain") == digest(tmp_path / "whole")
    assert record["cost"]["phases"]["retrain"]["images"] == whole["cost"]["phases"]["retrain"]["images"] == 11 * 90
    other = tiny_settings(weights="rewind", rewind_epoch=2, clock="epochs")
    with pytest.raises(TicketError, match=r"rewind-e2\.safetensors is missing; search again .*rewind_epoch 2"):
        go(other, tmp_path / "other", ticket=ticket)


def test_a_folder_that_began_from_another_ticket_is_refused(tiny_settings, tmp_path: Path):
    (ticket,) = seek(tiny_settings(), [0.5], tmp_path / "s0").values()
    settings = tiny_settings(training={"seed": 1})
    (other,) = seek(settings, [0.5], tmp_path / "s1").values()
    record = go(tiny_settings(), tmp_path / "run", ticket=ticket)
    with pytest.raises(RunFolderError, match="did not start from this ticket; give another --out"):
        go(tiny_settings(), tmp_path / "run", ticket=other)
    assert go(tiny_settings(), tmp_path / "run", ticket=ticket) == record


def test_a_folder_that_never_cut_is_refused_to_a_ticket(tiny_settings, tmp_path: Path):
    never = tiny_settings(epsilon=1e-6, penalty=1e-2)
    go(never, tmp_path / "run")
    (ticket,) = seek(tiny_settings(), [0.5], tmp_path / "s").values()
    with pytest.raises(RunFolderError, match="did not start from this ticket"):
        go(never, tmp_path / "run", ticket=ticket)


def test_a_search_ends_with_its_draws_and_says_which_ratio_found_nothing(tiny_settings, tmp_path: Path):
    steps: list[int] = []
    settings = tiny_settings(epsilon=1e-6, penalty=1e-2, max_search_epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        original = loop._train_step
        patch.setattr(loop, "_train_step", lambda state, x, y: (steps.append(state.step), original(state, x, y))[1])
        paths = seek(settings, [0.3, 0.5], tmp_path / "finish")
    assert paths == {0.3: None, 0.5: None}
    assert len(steps) == 2 * 5
    with pytest.raises(EarlyBirdError, match=r"no ticket for ratio 0\.3, 0\.5: the search never fired"):
        seek(
            tiny_settings(epsilon=1e-6, penalty=1e-2, max_search_epochs=2, on_no_ticket="error"),
            [0.3, 0.5],
            tmp_path / "e",
        )
    drawn = seek(
        tiny_settings(epsilon=1e-6, penalty=1e-2, max_search_epochs=2, on_no_ticket="draw"), [0.3], tmp_path / "d"
    )
    assert Ticket.load(drawn[0.3]).rule == "forced"


@pytest.mark.parametrize("ratios", [[], [0.5, 1.0], [-0.1], [0.5, 0.5], [0.5, 0.5000000001], [float("nan")]])
def test_ratios_that_are_none_leave_no_folder(tiny_settings, tmp_path: Path, ratios: list[float]):
    with pytest.raises(ConfigError, match=r"--ratios is .*; give different numbers in \[0, 1\)"):
        seek(tiny_settings(), ratios, tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_ticket_of_a_configuration_that_was_forced_out_is_not_reported(tiny_settings, tmp_path: Path, monkeypatch):
    with (
        monkeypatch.context() as patch
    ):  # Both tickets are written, then the search is killed before its first epoch ends.
        patch.setattr("earlybird.methods.hooks.SearchHooks.save_scores", lambda *a: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            seek(tiny_settings(epsilon=1.0, window=1), [0.3, 0.5], tmp_path / "search")
    assert len(list((tmp_path / "search").glob("ticket-*"))) == 2
    for path in (tmp_path / "search" / "checkpoints").iterdir():
        path.unlink()
    changed = tiny_settings(epsilon=1e-6, penalty=1e-2, max_search_epochs=1)
    assert set(seek(changed, [0.3, 0.5], tmp_path / "search", force=True).values()) == {None}


def test_a_finished_search_is_not_forced_into_another(tiny_settings, tmp_path: Path):
    seek(tiny_settings(), [0.5], tmp_path / "search")
    with pytest.raises(RunFolderError, match="holds a finished run with another configuration"):
        seek(tiny_settings(training={"lr": 0.01}), [0.5], tmp_path / "search", force=True)


def test_a_search_that_was_killed_goes_on_to_the_same_tickets(tiny_settings, tmp_path: Path, monkeypatch):
    settings = tiny_settings(training={"checkpoint_every": 2})
    whole = seek(settings, [0.3, 0.6], tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(5, patch)
        with pytest.raises(Killed):
            seek(settings, [0.3, 0.6], tmp_path / "killed")
    again = seek(settings, [0.3, 0.6], tmp_path / "killed")
    for ratio in (0.3, 0.6):
        one, other = Ticket.load(whole[ratio]), Ticket.load(again[ratio])
        assert one.mask == other.mask
        assert one.distances == other.distances
        assert all((one.weights[name] == other.weights[name]).all() for name in one.weights)


def test_a_search_goes_on_only_for_the_tickets_it_was_begun_for(tiny_settings, tmp_path: Path, monkeypatch):
    settings = tiny_settings(training={"checkpoint_every": 2})
    with monkeypatch.context() as patch:
        kill_at(5, patch)
        with pytest.raises(Killed):
            seek(settings, [0.3, 0.6], tmp_path / "search")
    with pytest.raises(ConfigError, match=r"was begun for p = 0\.3 at rule, p = 0\.6 at rule; give these, or another"):
        seek(settings, [0.3, 0.5], tmp_path / "search")
    assert set(seek(settings, [0.3, 0.6], tmp_path / "search")) == {0.3, 0.6}


def test_momentum_and_rewind_files_of_a_forced_out_search_are_gone(tiny_settings, tmp_path: Path, monkeypatch):
    old = tiny_settings(epsilon=1.0, window=1, weights="rewind", rewind_epoch=1, clock="epochs")
    with monkeypatch.context() as patch:
        patch.setattr("earlybird.methods.hooks.SearchHooks.save_scores", lambda *a: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            seek(old, [0.5], tmp_path / "search")
    left = {path.name for path in (tmp_path / "search").glob("*.safetensors")}
    assert {"rewind-e1.safetensors", "ticket.safetensors"} <= left
    for path in (tmp_path / "search" / "checkpoints").iterdir():
        path.unlink()
    new = tiny_settings(epsilon=1e-6, penalty=1e-2, max_search_epochs=1)
    assert seek(new, [0.5], tmp_path / "search", force=True) == {0.5: None}
    assert list((tmp_path / "search").glob("*.safetensors")) == []


def test_a_method_is_not_forced_upon_what_another_began(tiny_settings, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(8, patch)
        with pytest.raises(Killed):
            go(tiny_settings("dense"), tmp_path / "run")
    with pytest.raises(RunFolderError, match="cannot go on with these settings: another method has begun it"):
        go(tiny_settings("lottery_ticket"), tmp_path / "run", force=True)
    record = go(tiny_settings("dense", training={"lr": 0.01}), tmp_path / "run", force=True)
    assert record["metrics"][-1]["lr"] == pytest.approx(0.01 * 0.01)


def test_settings_of_a_search_that_is_over_are_not_forced(tiny_settings, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(50, patch)
        with pytest.raises(Killed):
            go(tiny_settings(), tmp_path / "run")
    with pytest.raises(RunFolderError, match="cannot go on with these settings: its search is over"):
        go(tiny_settings(prune_ratio=0.3), tmp_path / "run", force=True)
    assert go(tiny_settings(), tmp_path / "run")["ticket"]["prune_ratio"] == 0.5


def test_settings_are_not_forced_upon_a_search_of_which_a_part_is_pruned_already(
    tiny_settings, tmp_path: Path, monkeypatch
):
    old = tiny_settings("lottery_ticket", rounds=2)
    with monkeypatch.context() as patch:
        kill_at(80, patch)  # in the second round
        with pytest.raises(Killed):
            go(old, tmp_path / "run")
    for changed in ({"rounds": 1}, {"rounds": 2, "prune_ratio": 0.1}):
        with pytest.raises(RunFolderError, match="cannot go on with these settings: a part is pruned already"):
            go(tiny_settings("lottery_ticket", **changed), tmp_path / "run", force=True)
    assert go(old, tmp_path / "run")["config"]["method"]["rounds"] == 2


def test_a_ticket_may_lie_in_the_folder_that_is_trained_in(tiny_settings, tmp_path: Path):
    settings = tiny_settings(carry_momentum=True)
    (ticket,) = seek(settings, [0.5], tmp_path / "search").values()
    elsewhere = go(settings, tmp_path / "elsewhere", ticket=ticket)
    (tmp_path / "here").mkdir()
    for path in (tmp_path / "search").glob("ticket*"):
        (tmp_path / "here" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "here" / "config.yaml").write_text((tmp_path / "search" / "config.yaml").read_text())
    record = go(settings, tmp_path / "here", ticket=tmp_path / "here" / ticket.name)
    assert record["test"] == elsewhere["test"]
