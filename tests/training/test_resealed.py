"""Checkpoints whose content was changed and sealed again: refused in one line, before a step is trained."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from earlybird.core import EarlyBird
from earlybird.errors import ConfigError, EarlyBirdError
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig
from earlybird.training.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")
State = dict[str, Any]


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


SETTINGS: dict[str, tuple[str, dict[str, Any], Callable[[State], Any]]] = {
    "dense": ("dense", {}, lambda state: state["step"] == 7),
    "search": ("early_bird", {}, lambda state: state["phase"] == "search" and state["step"] == 3),
    "retrain": ("early_bird", {"draw_at": 2}, lambda state: state["phase"] == "retrain" and state["with_momentum"]),
    "round": ("lottery_ticket", {"rounds": 2}, lambda state: state.get("round") == 1 and state["step"] == 3),
    "soft": ("soft_filter_pruning", {"round_to": 1, "policy": "inner"}, lambda state: state["step"] == 7),
    "thinet": ("thinet", {"round_to": 1, "finetune_steps": 4}, lambda state: "layers_done" in state),
    "budget": ("dense", {}, lambda state: state["step"] == 7),
}


# A second convolution behind the stem, whose input another one alone reads: ThiNet cuts only such.
CHAIN = "self.right = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))"


@pytest.fixture
def killed(
    tiny: Path, tiny_settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[RunConfig, Path]]:
    """A run of a kind that was killed where its first checkpoint in the middle lay."""

    def begin(kind: str) -> tuple[RunConfig, Path]:
        name, values, is_there = SETTINGS[kind]
        if kind == "thinet":
            tiny.write_text(re.sub(r"self\.right = .*", CHAIN, tiny.read_text()))
        budget = {"budget_macs": 8e7} if kind == "budget" else {}
        training = {"epochs": 3, "checkpoint_every": 1, **budget}
        config, save = RunConfig.from_dict(tiny_settings(name, training=training, **values)), Checkpoints.save

        def save_and_die(self: Checkpoints, state: State) -> bool:
            save(self, state)
            if is_there(state):
                raise Killed
            return True

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Checkpoints, "save", save_and_die)
            run(config, tmp_path / "run", quiet=True)
        return config, tmp_path / "run"

    return begin


def reseal(folder: Path, change: Callable[[State], Any]) -> None:
    """Change the newest checkpoint, seal it again, and leave no older one."""
    *older, newest = sorted((folder / "checkpoints").glob("*.pt"))
    state = torch.load(newest, weights_only=True)
    change(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    newest.write_bytes(buffer.getvalue())
    manifest = json.loads(newest.with_suffix(".json").read_text())
    manifest |= {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "bytes": buffer.getbuffer().nbytes}
    newest.with_suffix(".json").write_text(json.dumps(manifest))
    for path in older:
        path.unlink()
        path.with_suffix(".json").unlink()


def momentum_of(state: State) -> State:
    return state["optimizer"]["state"]


def first(tensors: State) -> str:
    return next(iter(tensors))


def histories(state: State) -> State:
    return state["hooks"]["detector"]["histories"][0.5]


def put(*place: Any) -> Callable[[State], None]:
    """Set the entry at a path of keys to a value, the last of `place`."""
    *above, last, value = place

    def change(state: State) -> None:
        at = state
        for key in above:
            at = at[key]
        at[last] = value

    return change


OF_ANY: dict[str, tuple[Callable[[State], Any], str]] = {
    "no phase": (lambda s: s.pop("phase"), "lacks 'phase'"),
    "unknown phase": (put("phase", "other"), "'other'"),
    "phase of no text": (put("phase", [1]), "[1]"),
    "no step": (lambda s: s.pop("step"), "its step is None"),
    "step that is none": (put("step", True), "its step is True"),
    "step before the phase": (put("step", -1), "its step is -1"),
    "step beyond the schedule": (put("step", 10**6), "its step is 1000000"),
    "no weights": (put("model", {}), "Missing key"),
    "a weight less": (lambda s: s["model"].pop(first(s["model"])), "Missing key"),
    "a weight more": (put("model", "newer", torch.ones(1)), "Unexpected key"),
    "weights of another shape": (lambda s: put("model", "head.bias", torch.ones(7))(s), "size mismatch"),
    "weights of another kind": (lambda s: put("model", "head.bias", torch.ones(3, dtype=torch.float64))(s), "float64"),
    "weights that are no numbers": (put("model", "head.bias", torch.full((3,), torch.nan)), "head.bias"),
    "no momentum": (put("optimizer", "state", {}), "a momentum is missing"),
    "a momentum less": (lambda s: momentum_of(s).pop(0), "a momentum is missing"),
    "a momentum of none": (lambda s: momentum_of(s).update({0: {}}), "momentum_buffer"),
    "a momentum of another shape": (lambda s: momentum_of(s)[0].update(momentum_buffer=torch.ones(2)), "a momentum is"),
    "a momentum of no numbers": (lambda s: momentum_of(s)[0]["momentum_buffer"].fill_(torch.inf), "NaN or infinite"),
    "an optimizer of nothing": (put("optimizer", 3), "int"),
    "hooks of another method": (put("hooks", {"other": 1}), ""),
    "hooks of nothing": (put("hooks", 1), ""),
    "no journal": (put("journal", {}), "journal"),
    "more hits than images": (put("correct", 10**6), "its correct is 1000000"),
    "more images than there are": (put("seen", 10**6), "its seen is 1000000"),
    "a loss that is no number": (put("loss_sum", float("nan")), "its loss_sum is nan"),
    "a loss of text": (put("loss_sum", "x"), "str"),
    "no random state": (put("random_state", {}), "'cpu' is missing"),
    "a random state of nothing": (put("random_state", "cpu", torch.ones(3)), "was changed"),
}  # fmt: skip
OF_A_KIND: dict[str, tuple[str, Callable[[State], Any], str]] = {
    "search of a dense run": ("dense", put("phase", "search"), "which method dense has not"),
    "retrain of a dense run": ("dense", put("phase", "retrain"), "its phase is 'retrain', not 'train'"),
    "retrain of a search": ("search", put("phase", "retrain"), "ticket.safetensors"),
    "search of a retrain": ("retrain", put("phase", "search"), "was changed"),
    "no detector": ("search", lambda s: s["hooks"].pop("detector"), "'detector' is missing"),
    "other ratios": ("search", put("hooks", "detector", "histories", {0.3: {}}), "prune ratios [0.3]"),
    "fewer draws": ("search", put("hooks", "detector", "draws", 1), "distances after 1 draws"),
    "no masks": ("search", lambda s: put("masks", [])(histories(s)), "0 masks"),
    "masks of another network": ("search", lambda s: put("masks", [{"x": torch.ones(2) > 0}])(histories(s)), "masks"),
    "masks that are none": ("search", lambda s: put("masks", [{"x": torch.ones(2)}])(histories(s)), "bool"),
    "a distance of 2": ("search", lambda s: histories(s)["distances"].append(2.0), "distances"),
    "draws of text": ("search", put("hooks", "detector", "draws", "x"), "draws 'x'"),
    "steps of no draw": ("search", put("hooks", "draw_steps", [1]), "its draws are [1]"),
    "scores of other draws": ("search", put("hooks", "scores", torch.ones(1, 3)), "its scores are not of"),
    "seconds of text": ("search", put("hooks", "draw_seconds", ["x", 0]), "its draw_seconds are"),
    "a ticket that is not there": ("search", put("hooks", "saved", [[0.5, "rule"]]), "which is not in"),
    "a ticket that nobody asked for": ("search", put("hooks", "saved", [[0.9, "last"]]), "which is not in"),
    "a round too many": ("round", put("round", 2), "its round is 2, no integer in [0, 1]"),
    "a round of text": ("round", put("round", "x"), "its round is 'x'"),
    "no round": ("round", lambda s: s.pop("round"), "its round is None"),
    "a first mask of another network": ("soft", put("hooks", "first", {"x": torch.ones(2) > 0}), "its first mask"),
    "hooks of a search": ("soft", put("hooks", {"detector": 1}), "its first mask"),
    "a layer too many": ("thinet", put("layers_done", 99), "its layers_done is 99"),
    "a keep of another network": ("thinet", put("keep", torch.ones(3) > 0), "its 'keep' is no bool tensor"),
    "no budget": ("budget", lambda s: s.pop("budget"), "its budget is None"),
    "an end beyond the budget": ("budget", put("budget", "end_step", 10**6), "its end_step is 1000000"),
    "flags of numbers": ("budget", put("budget", "flags", [1]), "its budget is"),
}  # fmt: skip


def slow(kind: str) -> Any:
    return pytest.param(kind, marks=pytest.mark.slow)


def refusal_of(config: RunConfig, folder: Path) -> str:
    with pytest.raises(EarlyBirdError) as refused:
        run(config, folder, quiet=True)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 600
    assert (folder / "checkpoints").is_dir() and not (folder / "record.json").exists()
    return said


@pytest.mark.parametrize("kind", ["dense", slow("search"), slow("retrain")])
def test_a_checkpoint_that_was_changed_and_sealed_again_is_refused(kind: str, killed, tmp_path: Path):
    config, folder = killed(kind)
    for number, (what, (change, why)) in enumerate(OF_ANY.items()):
        shutil.copytree(folder, tmp_path / str(number))
        reseal(tmp_path / str(number), change)
        said = refusal_of(config, tmp_path / str(number))
        assert why in said, what
    assert run(config, folder, quiet=True)["status"] == "finished"


@pytest.mark.parametrize("kind", ["dense", "search", "retrain", slow("round"), "soft", slow("thinet"), "budget"])
def test_what_a_method_adds_to_a_checkpoint_is_checked_too(kind: str, killed, tmp_path: Path):
    config, folder = killed(kind)
    for number, (what, (whose, change, why)) in enumerate(OF_A_KIND.items()):
        if whose == kind:
            shutil.copytree(folder, tmp_path / str(number))
            reseal(tmp_path / str(number), change)
            said = refusal_of(config, tmp_path / str(number))
            assert why in said, what
    assert run(config, folder, quiet=True)["status"] == "finished"


def test_a_checkpoint_of_an_older_version_goes_on(killed):
    """It did not say which parameters have a momentum."""
    config, folder = killed("dense")
    reseal(folder, lambda state: state.pop("with_momentum"))
    assert run(config, folder, quiet=True)["status"] == "finished"


@pytest.mark.parametrize("state", [None, {}, {"histories": 3}, {"histories": {0.5: None}, "draws": 0, "fired": {}}])
def test_the_state_of_a_detector_that_was_changed_is_one_line(state: Any):
    with pytest.raises(ConfigError, match="detector state"):
        EarlyBird(0.5).load_state_dict(state)
