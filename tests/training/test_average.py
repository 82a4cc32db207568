"""The average of the weights: its arithmetic, and where a run keeps, validates, saves and hands it on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from earlybird.errors import CheckpointError, MethodError
from earlybird.grids.grid import Block, Grid, nodes_of
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig
from earlybird.training import loop
from earlybird.training.average import WeightAverage
from earlybird.training.checkpoint import Checkpoints


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def killed_at(step: int, settings: dict[str, Any], out: Path) -> None:
    original, count = loop._train_step, [0]

    def counted(*arguments: Any) -> None:
        original(*arguments)
        count[0] += 1
        if count[0] == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_train_step", counted)
        with pytest.raises(Killed):
            go(settings, out)


def test_the_decay_rises_from_a_tenth_to_what_was_asked_for():
    """Weights 1, then 2 ever after: of the first 1 stay .1, .1 * 2/11, then half of that at each update."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    average, found = WeightAverage(model, 0.5), []
    nn.init.constant_(model.weight, 2.0)
    for updates in (0, 1, 8, 9):  # (1 + 8) / (10 + 8) is .5
        average.updates = updates
        average.update()
        found.append(2 - average.state_dict()["weights"]["weight"].item())
    assert found == pytest.approx([0.1, 0.2 / 11, 0.1 / 11, 0.05 / 11], abs=1e-6)
    assert average.state_dict()["updates"] == 10
    assert model.weight.item() == 2.0


def test_inside_the_average_stands_for_the_weights_and_statistics_are_the_networks_own():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.9)
    nn.init.constant_(model.weight, 1 / 3)
    model.running_mean.fill_(5.0)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), average.in_place():
        assert model.weight.tolist() == [1.0, 1.0] and model.running_mean.tolist() == [5.0, 5.0]
        raise ZeroDivisionError
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weight": torch.ones(3)}, r"the average of weight is torch.float32 \[3\], not \[2\]"),
        ({"weight": torch.ones(2).double()}, "the average of weight is torch.float64"),
        ({"bias": torch.tensor([0.0, float("nan")])}, "the average of bias is NaN or infinite"),
        ({"more": torch.ones(2)}, "is of other parameters"),
    ],
)
def test_the_average_of_another_network_is_refused(change: dict[str, Tensor], told: str):
    average = WeightAverage(nn.BatchNorm1d(2), 0.9)
    state = average.state_dict()
    with pytest.raises(ValueError, match=told):
        average.load_state_dict(state | {"weights": state["weights"] | change})
    with pytest.raises(CheckpointError, match="its updates is -1, no integer in"):
        average.load_state_dict(state | {"updates": -1})


@pytest.mark.parametrize("kind", ["eager", "captured"])
def test_a_killed_run_ends_with_the_bits_of_its_average(tiny_settings, tmp_path: Path, fake, kind: str):
    """The steps, and so the weights, are those of a run without an average; what is left is not."""
    training = {"epochs": 4, "lr": 0.003, "ema": 0.9, "schedule": "linear", "warmup": 0.1, "nesterov": True}
    settings = tiny_settings("dense", training=training, data={"val_fraction": 0.2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("earlybird.runs.run.choose_step", lambda s, m, n, compute: replace(compute, step=kind))
        whole = go(settings, tmp_path / "whole")
        plain = go(tiny_settings("dense", training=training | {"ema": 0.0}, data={"val_fraction": 0.2}), tmp_path / "p")
        killed_at(11, settings, tmp_path / "killed")
        resumed = go(settings, tmp_path / "killed")
    assert (fake.captures > 0) == (kind == "captured") and whole["flags"] == []
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert resumed["test"] == whole["test"]
    assert not torch.equal(weights(tmp_path / "whole")["head.weight"], weights(tmp_path / "p")["head.weight"])
    seen = [[(row["train_loss"], row["val_accuracy"]) for row in record["metrics"]] for record in (whole, plain)]
    assert [loss for loss, _ in seen[0]] == [loss for loss, _ in seen[1]]
    assert [accuracy for _, accuracy in seen[0]] != [accuracy for _, accuracy in seen[1]]


def test_a_checkpoint_without_an_average_does_not_begin_one(tiny_settings, tmp_path: Path):
    settings = tiny_settings("dense", training={"epochs": 2})
    killed_at(7, settings, tmp_path / "run")
    assert "average" not in (Checkpoints(tmp_path / "run" / "checkpoints").latest() or {})
    told = (
        r"holds no average of the weights: it was begun without training.ema; give --training.ema 0, or another --out"
    )
    with pytest.raises(CheckpointError, match=told):
        go(tiny_settings("dense", training={"epochs": 2, "ema": 0.9}), tmp_path / "run", force=True)


def test_a_ticket_is_of_the_trained_weights_and_the_network_behind_it_of_their_average(tiny_settings, tmp_path: Path):
    for name, training in (("plain", {}), ("averaged", {"ema": 0.9})):
        go(tiny_settings(draw_at=3, training={"epochs": 3, **training}), tmp_path / name)
    tickets = [weights(tmp_path / name, "ticket") for name in ("plain", "averaged")]
    assert same(*tickets)
    ends = [weights(tmp_path / name) for name in ("plain", "averaged")]
    assert ends[0].keys() == ends[1].keys() and not same(*ends)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_a_ticket_the_dense_training_leaves_its_average(tiny_settings, tmp_path: Path):
    training = {"epochs": 3, "ema": 0.9}
    go(tiny_settings("dense", training=training), tmp_path / "dense")
    record = go(tiny_settings(penalty=0.0, max_search_epochs=1, training=training), tmp_path / "searched")
    assert record["ticket"]["none"] and not any("averaged" in flag for flag in record["flags"])
    assert same(weights(tmp_path / "dense"), weights(tmp_path / "searched"))


def test_what_is_cut_after_its_last_step_is_flagged_as_not_averaged(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("soft_filter_pruning", training={"epochs": 2, "ema": 0.9}), tmp_path / "run")
    told = "the weights are not averaged (training.ema): nothing was trained after the cut"
    assert told in record["flags"]


def test_a_dense_run_that_left_its_average_serves_no_method_that_prunes_weights(tiny_settings, tmp_path: Path):
    training = {"epochs": 2, "ema": 0.9}
    go(tiny_settings("dense", training=training), tmp_path / "dense")
    with pytest.raises(MethodError, match="left the average of its weights, not the weights; give one without"):
        go(tiny_settings("lottery_ticket", training=training), tmp_path / "run", dense_run=tmp_path / "dense")
    for ema, shared in ((0.0, True), (0.9, False)):
        [*_, node] = nodes_of(Grid({"training": {"ema": ema}}, (Block(("lottery_ticket",)),)))
        assert (node.dense_run is not None) == shared
