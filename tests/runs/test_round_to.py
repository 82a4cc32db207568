"""`round_to` "auto": settled by device and precision once, recorded, kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.cost import ModelCost, PlannedData, Schedule
from earlybird.errors import ConfigError, RunFolderError
from earlybird.methods import thinet
from earlybird.methods.pipeline import plan_method
from earlybird.runs import run as runs
from earlybird.runs.run import run
from earlybird.settings.catalog import METHODS, ThiNet, WideStart
from earlybird.settings.method import EarlyBirdTraining
from earlybird.settings.run import RunConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


def test_methods_of_the_paper_keep_their_default_and_the_new_one_has_auto():
    found = {name: kind().round_to for name, kind in METHODS.items() if hasattr(kind, "round_to")}  # type: ignore[attr-defined]
    assert found.pop("wide_start") == "auto"
    assert len(found) == 5 and set(found.values()) == {8}


def test_auto_is_settled_for_the_hardware_and_recorded(tiny_settings, tmp_path: Path, monkeypatch):
    found = go(tiny_settings("early_bird", draw_at=1, round_to="auto"), tmp_path / "run")
    assert found["config"]["method"]["round_to"] == "auto"
    assert (found["resolved"]["round_to"], found["ticket"]["round_to"]) == (8, 8)
    monkeypatch.setattr(
        runs, "hardware_multiple", lambda device, precision: 2 if (device, precision) == ("cpu", "fp32") else 9
    )
    found = go(tiny_settings("snip", form="channels", round_to="auto"), tmp_path / "other")
    assert found["resolved"]["round_to"] == 2
    assert {layer["kept"] % 2 for layer in found["layers"]} == {0}
    assert any(layer["kept"] % 8 for layer in found["layers"])


def test_a_resumed_run_keeps_what_was_settled(tiny_settings, tmp_path: Path, monkeypatch):
    settings = tiny_settings("wide_start", training={"budget": "macs=0.5"}, share=0.2, min_share=0.1)
    monkeypatch.setattr(runs, "hardware_multiple", lambda *_: 4)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_method", lambda *_: 1 / 0)
        folder = runs.RunFolder(tmp_path / "run")
        with folder.held():
            runs.prepare(RunConfig.from_dict(settings), folder, folder.open(RunConfig.from_dict(settings)), None, True)  # type: ignore[arg-type]
    monkeypatch.undo()
    found = go(settings, tmp_path / "run")
    assert found["resolved"]["round_to"] == 4
    assert any(layer["kept"] % 8 for layer in found["layers"])
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("round_to: 4", "round_to: many"))
    with pytest.raises(RunFolderError, match=r"config\.yaml is corrupt \(resolved"):
        go(settings, tmp_path / "run")


def test_a_run_of_a_version_before_auto_is_the_same_run(tiny_settings, tmp_path: Path):
    settings = tiny_settings("wide_start", training={"budget": "macs=0.5"}, share=0.2)
    first = go(settings, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["method"]["round_to"] = 8
    path.write_text(yaml.safe_dump(stored))
    assert go(settings, tmp_path / "run")["run_id"] == first["run_id"]
    stored["method"]["round_to"] = 4
    path.write_text(yaml.safe_dump(stored))
    with pytest.raises(RunFolderError, match=r"method\.round_to: 4 -> 'auto'"):
        go(settings, tmp_path / "run")


def test_a_plan_takes_auto_as_its_device_and_precision_would(monkeypatch):
    taken: list[object] = []
    monkeypatch.setattr(thinet, "plan", lambda method, schedule: taken.append(method.round_to) or 1 / 0)
    cost = ModelCost(1, 1, 1, 1.0, {"all": 1}, {"all": 1})
    for device, precision in [("cpu", "bf16"), ("cuda", "fp32"), ("cuda", "bf16")]:
        schedule = Schedule(16, PlannedData(80, 30, 20), cost, cost, 8, device=device, precision=precision)
        with pytest.raises(Exception, match="division by zero"):
            plan_method(ThiNet(round_to="auto"), schedule)
    assert taken == [8, 8, 16]


def test_what_is_no_round_to():
    for method in (EarlyBirdTraining, WideStart):
        with pytest.raises(ConfigError, match=r"method\.round_to is 'exact'; .*give an integer or auto"):
            method(round_to="exact")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"method\.round_to is 0; give an integer >= 1, or auto"):
            method(round_to=0)
