"""`carry_momentum`: the retrain goes on as if nothing but channels had gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from earlybird.core import Ticket
from earlybird.errors import ConfigError, TicketError
from earlybird.methods import pipeline
from earlybird.runs.run import run, run_search
from earlybird.settings.method import EarlyBirdTraining, TicketRequest, requests_of
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def no_dropout(tiny: Path) -> None:
    """Each phase seeds dropout anew, so the bits of two phases are those of one only without it."""
    tiny.write_text(tiny.read_text().replace("nn.Dropout(0.1)", "nn.Identity()"))


@pytest.mark.usefixtures("no_dropout")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_with_nothing_removed_the_run_ends_as_dense_training_does(tiny_settings, tmp_path: Path, run_once):
    settings = {"prune_ratio": 0.0, "penalty": 0.0}
    run_once(tiny_settings("dense"), tmp_path / "dense")
    record = go(tiny_settings(carry_momentum=True, **settings), tmp_path / "carried")
    go(tiny_settings(**settings), tmp_path / "fresh")
    assert 0 < record["cost"]["phases"]["retrain"]["images"] < 12 * 90
    assert same(weights(tmp_path / "carried"), weights(tmp_path / "dense"))
    assert not same(weights(tmp_path / "fresh"), weights(tmp_path / "dense"))


def test_momentum_is_cut_like_the_weights(tiny_settings, tmp_path: Path, monkeypatch):
    found: list[Any] = []
    original = pipeline.train_candidate
    monkeypatch.setattr(
        pipeline,
        "train_candidate",
        lambda task, candidate, resume: found.append(candidate) or original(task, candidate, resume),
    )
    go(tiny_settings(carry_momentum=True), tmp_path / "run")
    dense = load_file(tmp_path / "run" / "ticket.momentum.safetensors")
    keep = found[0].ticket.mask["stem.1"]
    assert 0 < int(keep.sum()) < 12
    assert torch.equal(found[0].momentum["stem.0.weight"], dense["stem.0.weight"][keep])
    assert torch.equal(found[0].momentum["stem.1.bias"], dense["stem.1.bias"][keep])
    assert set(found[0].momentum) == {name for name, _ in found[0].model.named_parameters()}


def test_a_killed_retrain_goes_on_with_it(tiny_settings, tmp_path: Path, monkeypatch, run_once):
    settings = tiny_settings(carry_momentum=True)
    run_once(settings, tmp_path / "whole")
    original = loop._train_step

    def die(state: Any, x: torch.Tensor, y: torch.Tensor) -> None:
        original(state, x, y)
        if state.span.phase == "retrain" and state.step == state.span.start_step + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_train_step", die)
    with pytest.raises(KeyboardInterrupt):
        go(settings, tmp_path / "killed")
    monkeypatch.setattr(loop, "_train_step", original)
    go(settings, tmp_path / "killed")
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_it_travels_with_the_ticket_of_a_search(tiny_settings, tmp_path: Path, run_once):
    settings = tiny_settings(carry_momentum=True)
    run_once(settings, tmp_path / "whole")
    paths = run_search(RunConfig.from_dict(settings), requests_of([0.5, 0.3]), tmp_path / "search", quiet=True)
    go(settings, tmp_path / "retrain", ticket=paths[TicketRequest(0.5)])
    assert same(weights(tmp_path / "retrain"), weights(tmp_path / "whole"))


def test_a_file_that_is_missing_corrupt_or_of_another_network_is_refused(tiny_settings, tmp_path: Path):
    settings = tiny_settings(carry_momentum=True)
    (path,) = run_search(
        RunConfig.from_dict(tiny_settings()), requests_of([0.5]), tmp_path / "without", quiet=True
    ).values()
    with pytest.raises(
        TicketError, match=r"ticket\.momentum\.safetensors is missing; search again with --method\.carry"
    ):
        go(settings, tmp_path / "a", ticket=path)
    assert Ticket.load(path).prune_ratio == 0.5
    beside = path.with_suffix(".momentum.safetensors")
    beside.write_bytes(b"torn")
    with pytest.raises(TicketError, match="is corrupt or of another network.*; search again"):
        go(settings, tmp_path / "b", ticket=path)
    from safetensors.torch import save_file

    save_file({"stem.0.weight": torch.zeros(2, 2)}, beside)
    with pytest.raises(TicketError, match="is corrupt or of another network.*; search again"):
        go(settings, tmp_path / "c", ticket=path)


@pytest.mark.parametrize("of", ["rewind", "reinit"])
def test_momentum_of_other_weights_is_a_contradiction(of):
    with pytest.raises(ConfigError, match=f"carry_momentum contradicts method.weights '{of}'"):
        EarlyBirdTraining(carry_momentum=True, weights=of)
