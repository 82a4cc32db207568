"""docs/extending.md: its files as they stand there pass the conformance checks and appear in a comparison."""

from __future__ import annotations

import csv
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import earlybird.core
from earlybird import EarlyBird, channel_groups
from earlybird.cli.main import main
from earlybird.cli.options import expand_short_flags, parse_run
from earlybird.core import STOP_RULES, stop_rules
from earlybird.slimming import rules

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "extending.md").read_text()


@pytest.fixture
def files(tmp_path: Path, costs_counted_once: None) -> Path:
    """A folder with every Python file of the page."""
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        (tmp_path / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    return tmp_path


def test_the_criterion_takes_ten_lines(files: Path):
    lines = (files / "criterion.py").read_text().splitlines()[1:]  # without the file's name
    assert len([line for line in lines if line.strip() and '"""' not in line]) <= 10


@pytest.mark.parametrize("script", ["check_mine.py", "check_mine_too.py"])
def test_criterion_and_method_pass_the_conformance_checks(script: str, files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(files)  # as `python check_mine.py` does
    before = set(sys.modules)
    try:
        runpy.run_path(str(files / script), run_name="__main__")
    finally:
        for name in set(sys.modules) - before:
            if str(files) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def test_the_line_of_an_operation_stands_in_the_table():
    line = re.search(r"as this one:\n\n```\n(.*?)\n```", TEXT, flags=re.DOTALL)
    assert line is not None
    assert f"    {line.group(1)}\n" in Path(rules.__file__).read_text()


def test_one_entry_of_the_table_makes_an_operation_followed(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Threshold(0.0, 0.0), nn.Conv2d(4, 2, 1))
    images = torch.zeros(2, 3, 8, 8)
    assert channel_groups(net, images).num_units == 0
    monkeypatch.setitem(rules.RULES, nn.Threshold, rules.keeps_zero)
    assert channel_groups(net, images).num_units == 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_appear_in_a_comparison_on_the_network_and_the_data_of_the_page(files: Path, capsys):
    out, bird = files / "cmp", f"early_bird:criterion={files}/criterion.py:far_from_others"
    methods = f"dense,early_bird,{bird},{files}/method.py:WarmUpCut"
    flags = ["--model", f"{files}/network.py:Widening", "--data", f"{files}/dataset.py:stripes", "--epochs", "8"]
    flags += [
        "--batch-size",
        "20",
        "--lr",
        "0.05",
        "--precision",
        "fp32",
        "--seeds",
        "0",
        "--round-to",
        "1",
        "--method.min_draw_steps",
        "1",
    ]
    assert main(["compare", *flags, "--methods", methods, "--equal-cost", "all", "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "WarmUpCut" in table and "far_from_others" in "".join(table.split())
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    at_ratio = {row["method"]: row for row in rows if row["comparison"] == "equal ratio"}
    assert list(at_ratio) == ["dense", "early_bird", "early_bird:criterion=far_from_others", "WarmUpCut"]
    assert all(row["n"] == "1" and float(row["accuracy"]) > 0.5 for row in at_ratio.values())
    assert float(at_ratio["WarmUpCut"]["macs"]) < float(at_ratio["dense"]["macs"])
    assert "WarmUpCut" in {row["method"] for row in rows if row["comparison"] == "equal cost"}
    # The run's own folder is evaluated without its method's code; retraining by its name needs the user's word.
    folder = out / "WarmUpCut-p0.5-s0"
    named = ["--model", f"{files}/network.py:Widening", "--data", f"{files}/dataset.py:stripes"]
    assert main(["evaluate", str(folder), *named]) == 0
    assert main(["retrain", "--ticket", str(folder / "ticket.safetensors"), *named, "--out", str(files / "x")]) == 2
    assert "code that runs only when you name it; add --method" in capsys.readouterr().err


def test_the_stop_rule_fires_when_the_mean_distance_is_small(files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stop_rules, "STOP_RULES", known := dict(STOP_RULES))
    monkeypatch.setattr(earlybird.core, "STOP_RULES", known, raising=False)
    exec(compile((files / "stop_rule.py").read_text(), "stop_rule.py", "exec"), {})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 2, 3))
    nn.init.uniform_(net[1].weight)
    detector = EarlyBird(0.5, channel_groups(net, torch.zeros(1, 3, 8, 8)), rule="mean", window=2)
    # Nothing changes, so both distances are 0 at the third draw, the first at which the rule can fire.
    assert [detector.update(net) is not None for _ in range(3)] == [False, False, True]
    assert detector.tickets[0.5].rule == "mean"


def test_the_settings_of_a_method_of_ones_own_are_flags(files: Path):
    flags = ["--method", f"{files}/method.py:WarmUpCut", "--method.dense_epochs", "3", "--ratio", "0.25"]
    config, _ = parse_run("train", "", expand_short_flags(flags))
    assert (config.method.dense_epochs, config.method.prune_ratio) == (3, 0.25)
    assert config.to_dict()["method"]["name"] == f"{files}/method.py:WarmUpCut"


def test_the_commands_of_the_page_have_flags_that_there_are():
    from earlybird.cli.compare_command import parse_grid

    commands = re.findall(r"^earlybird compare (.*)$", TEXT.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        known = re.sub(r"[\w./]+\.py:\w+", "early_bird", command).replace("early_bird:criterion=early_bird", "dense")
        grid, _ = parse_grid(known.split())
        assert grid is not None
