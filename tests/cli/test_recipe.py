"""`--recipe`: what it sets, what wins over it, and how runs of different recipes are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.cli.compare_command import parse_grid
from earlybird.cli.main import main
from earlybird.cli.options import parse_run
from earlybird.errors import ConfigError
from earlybird.settings.recipes import RECIPES, recipe_of
from earlybird.settings.run import TrainingSettings

FULL = yaml.safe_dump({"training": {**RECIPES["paper"], "epochs": 7}})


def trained_by(*argv: str) -> TrainingSettings:
    return parse_run("train", "", argv)[0].training


def test_a_recipe_changes_defaults_and_flags_and_files_win(tmp_path: Path):
    file = tmp_path / "run.yaml"
    assert trained_by() == TrainingSettings()
    assert trained_by("--recipe", "modern") == TrainingSettings(**RECIPES["modern"])
    assert trained_by("--recipe=modern", "--training.ema", "0").ema == 0.0
    file.write_text("recipe: modern\ntraining: {nesterov: false, epochs: 3}\n")
    found = trained_by("--config", str(file), "--method", "dense", "--epochs", "4")
    assert (found.schedule, found.nesterov, found.epochs) == ("linear", False, 4)
    assert trained_by("--config", str(file), "--recipe", "paper").schedule == "step"
    grid, _ = parse_grid(["--methods", "dense", "--config", str(file)])
    assert grid is not None and recipe_of(grid.settings["training"]) == "modern with nesterov=False"
    assert "recipe" not in grid.settings["training"]


@pytest.mark.parametrize("command", ["train", "search", "compare"])
def test_a_recipe_that_a_file_overrules_or_that_nobody_knows_is_refused(command: str, tmp_path: Path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(FULL)
    flags = [command, "--out", str(tmp_path / "out"), *(["--methods", "dense"] if command == "compare" else [])]
    for more, told in (
        (
            ["--recipe", "modern", "--config", str(file)],
            "but the settings given are of recipe paper; leave out --recipe",
        ),
        (["--recipe", "modrn"], "--recipe is 'modrn'; did you mean 'modern'? give paper, modern"),
    ):
        assert main([*flags, *more]) == 2
        said = capsys.readouterr()
        assert told in said.err and said.err.count("\n") == 1
    file.write_text("recipe: [modern]\n")
    with pytest.raises(ConfigError, match=r"--recipe is \['modern'\]; give paper, modern"):
        trained_by("--config", str(file))


@pytest.fixture
def flags(tiny: Path) -> list[str]:
    return [
        "--model", f"{tiny}:network", "--data", f"{tiny}:data", "--epochs", "2", "--batch-size", "20", "--lr", "0.05",
        "--precision", "fp32", "--quiet",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_runs_of_two_recipes_stand_in_two_tables_each_with_its_own(flags, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("earlybird.report.plots.plot_run", lambda *_: [])
    early = ["--ratio", "0.5", "--method.draw_at", "3", "--method.min_draw_steps", "1", "--round-to", "1"]
    runs: dict[str, list[str]] = {
        "dense": ["train", *flags, "--method", "dense"],
        "modern": ["train", *flags, "--recipe", "modern", *early],
    }
    for name, command in runs.items():
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    ticket = str(tmp_path / "modern" / "ticket.safetensors")
    code = flags[:4]
    for name, more in (("again", []), ("back", ["--recipe", "paper"])):
        out = str(tmp_path / name)
        assert main(["retrain", "--ticket", ticket, *code, *more, "--out", out, "--quiet"]) == 0
    found: dict[str, Any] = {
        name: json.loads((tmp_path / name / "record.json").read_text())["resolved"]["recipe"]
        for name in ("dense", "modern", "again", "back")
    }
    assert found == {"dense": "paper", "modern": "modern", "again": "modern", "back": "paper"}
    assert yaml.safe_load((tmp_path / "modern" / "config.yaml").read_text())["resolved"]["recipe"] == "modern"
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--markdown"]) == 0
    tables = capsys.readouterr().out.split("\n### ")
    assert [title.splitlines()[0].rpartition(", ")[2] for title in tables] == ["recipe modern", "recipe paper"]
    assert "No dense run of this model, data, schedule, recipe and seed" in tables[0]
    assert "| dense |" in tables[1] and "| dense |" not in tables[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_comparison_states_its_recipe_and_takes_no_other(flags, tmp_path: Path, capsys):
    command = ["compare", *flags, "--methods", "dense", "--out", str(tmp_path / "cmp")]
    assert main([*command, "--recipe", "modern"]) == 0
    assert "2 epochs, recipe modern: at equal ratio" in (tmp_path / "cmp" / "table.md").read_text()
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 2
    assert "with other settings (training.nesterov: True -> False; training.schedule:" in capsys.readouterr().err
