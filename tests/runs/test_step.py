"""The form of a run's training step: settled once, recorded, kept; refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from earlybird.cli.main import main
from earlybird.errors import ConfigError
from earlybird.report.comparison import comparison_rows, group_rows
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig
from earlybird.training import loop


def go(settings: dict[str, Any], out: Path, **more: Any) -> dict[str, Any]:
    return run(RunConfig.from_dict(settings), out, quiet=True, **more)


@pytest.fixture
def killed_at_the_third_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    def kill(state: Any, x: Any, y: Any) -> None:
        if state.step == 2:
            raise KeyboardInterrupt
        original(state, x, y)

    original = loop._train_step

    def killed(settings: dict[str, Any], out: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_train_step", kill)
            with pytest.raises(KeyboardInterrupt):
                go(settings, out)

    return killed


def test_on_a_cpu_the_step_is_eager_and_recorded(tiny_settings, tmp_path: Path):
    record = go(tiny_settings("dense", training={"epochs": 1}), tmp_path / "run")
    assert (record["resolved"]["step"], record["resolved"]["layout"]) == ("eager", "channels_last")
    assert record["config"]["training"]["step"] == "auto"
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["resolved"]
    assert (stored["step"], stored["layout"]) == ("eager", "channels_last")


def test_a_captured_step_on_a_cpu_is_one_line_and_leaves_nothing(tiny: Path, tmp_path: Path, capsys):
    flags = ["train", "--model", f"{tiny}:network", "--data", f"{tiny}:data", "--method", "dense", "--device", "cpu"]
    assert main([*flags, "--training.step", "captured", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].endswith("training.step is 'captured', but cpu has no CUDA graphs; give auto, eager or compiled")
    assert not (tmp_path / "run").exists()
    assert main([*flags, "--training.step", "captrued", "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'captured'?" in capsys.readouterr().err


def test_a_run_that_began_before_there_were_forms_goes_on_eager(
    tiny_settings, tmp_path: Path, monkeypatch, killed_at_the_third_step
):
    settings, path = tiny_settings("dense", training={"epochs": 1}), tmp_path / "run" / "config.yaml"
    killed_at_the_third_step(settings, tmp_path / "run")
    stored = yaml.safe_load(path.read_text())
    for key in ("step", "layout"):
        del stored["resolved"][key]
    for key in ("step", "tf32"):
        del stored["training"][key]
    path.write_text(yaml.safe_dump(stored))
    monkeypatch.setattr("earlybird.runs.run.choose_step", lambda *a: pytest.fail("it is settled already"))
    record = go(settings, tmp_path / "run")
    assert record["resolved"]["step"] == "eager"


def test_the_settled_form_is_kept_and_a_forced_one_settled_anew(
    tiny_settings, tmp_path: Path, killed_at_the_third_step
):
    settings = tiny_settings("dense", training={"epochs": 1})
    killed_at_the_third_step(settings, tmp_path / "run")
    asked = tiny_settings("dense", training={"epochs": 1, "step": "eager"})
    record = go(asked, tmp_path / "run", force=True)
    assert record["resolved"]["step"] == record["config"]["training"]["step"] == "eager"
    path = tmp_path / "other" / "config.yaml"
    killed_at_the_third_step(settings, tmp_path / "other")
    path.write_text(path.read_text().replace("step: eager", "step: sideways"))
    with pytest.raises(ConfigError, match="resolved.step is 'sideways'; give eager, captured or compiled"):
        go(settings, tmp_path / "other")


def test_a_phase_that_ran_in_another_form_is_flagged(tiny_settings, tmp_path: Path, monkeypatch):
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    settings = tiny_settings("dense", training={"epochs": 1})
    eager = go(settings, tmp_path / "eager")
    monkeypatch.setattr(torch, "compile", no_compiler)
    settings["training"]["step"] = "compiled"
    with pytest.warns(UserWarning, match=r"cannot be compiled \(no C\+\+ compiler\) and runs eager"):
        record = go(settings, tmp_path / "run")
    assert record["resolved"]["step"] == "compiled" and eager["flags"] == []
    assert record["flags"] == ["the step of phase 'train' cannot be compiled and ran eager"]
    assert record["files"]["model.safetensors"] == eager["files"]["model.safetensors"]


def test_reports_keep_runs_of_other_forms_apart_and_older_ones_together(tiny_settings, tmp_path: Path):
    new = go(tiny_settings("dense", training={"epochs": 1}), tmp_path / "run")
    old = json.loads(json.dumps(new))
    for key in ("step", "layout"):
        del old["resolved"][key]
    for key in ("step", "tf32"):
        del old["config"]["training"][key]
    old |= {"run_id": "old"}
    captured = json.loads(json.dumps(new)) | {"run_id": "captured"}
    captured["resolved"]["step"] = "captured"
    [groups] = group_rows(comparison_rows([new, old, captured])).values()
    assert sorted(sorted(row["run_id"] for row in group.rows) for group in groups) == [["captured"], ["old", "run"]]
