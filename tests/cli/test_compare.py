"""`earlybird compare`: what it prints and writes, what it says to wrong input, and workers that are killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybird.cli.compare_command import listed, parse_grid
from earlybird.cli.main import main
from earlybird.errors import ConfigError
from earlybird.grids import engines
from earlybird.grids.run_node import events_since

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def flags(tiny: Path) -> list[str]:
    return [
        "compare", "--model", f"{tiny}:network", "--data", f"{tiny}:data", "--data.augment", "flip", "--epochs", "6",
        "--batch-size", "20", "--lr", "0.05", "--precision", "fp32", "--round-to", "1", "--method.min_draw_steps", "1",
    ]  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_grid_is_run_and_its_tables_are_printed_and_written(flags, tmp_path: Path, capsys):
    out = tmp_path / "cmp"
    methods = "dense,early_bird,uniform,snip,soft_filter_pruning"
    assert main([*flags, "--methods", methods, "--seeds", "0,1", "--equal-cost", "all", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "16 of 16 runs and searches are left to do" in captured.err
    assert re.search(r"16/16  finished soft_filter_pruning-p0\.5-s1-equal", captured.err)
    said = " ".join(captured.out.split())
    assert "p = 0.5: at equal ratio" in said and "p = 0.5: at the total cost of early_bird" in said
    found = rows(out / "runs.csv")
    assert len(found) == 2 * 7 and {row["status"] for row in found} == {"finished"}
    table = {(row["comparison"], row["method"]): row for row in rows(out / "table.csv")}
    dense = [float(row["accuracy"]) for row in found if row["method"] == "dense"]
    bird = [float(row["accuracy"]) for row in found if row["method"] == "early_bird"]
    points = sum(100 * (d - b) for d, b in zip(dense, bird, strict=True)) / 2
    assert float(table["equal ratio", "dense"]["points"]) == pytest.approx(points)
    assert table["equal ratio", "early_bird"]["points"] == "" and table["equal ratio", "early_bird"]["n"] == "2"
    assert float(table["equal cost", "uniform"]["cost_ratio"]) == pytest.approx(1, abs=0.05)
    assert float(table["equal cost", "snip"]["cost_ratio"]) == pytest.approx(1, abs=0.15)
    markdown = (out / "table.md").read_text()
    assert markdown.startswith("### tiny.py:network on tiny.py:data, 6 epochs, recipe paper, p = 0.5: at equal ratio")
    assert "soft_filter_pruning: " in markdown and "% before its channels went." in markdown
    latex = (out / "table.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert r"early\_bird" in latex and not re.search(r"(?<!\\)[_%](?![^$]*\$)", latex.replace(r"\textbackslash ", ""))
    # Again, with nothing left to do: the same tables.
    assert main([*flags, "--methods", methods, "--seeds", "0,1", "--equal-cost", "all", "--out", str(out)]) == 0
    assert capsys.readouterr().out.split("runs.csv")[0] == captured.out.split("runs.csv")[0]
    assert (out / "table.md").read_text() == markdown


def test_a_dry_run_lists_runs_and_hours_and_runs_nothing(flags, tmp_path: Path, capsys):
    out = tmp_path / "cmp"
    methods = ["--methods", "dense,early_bird,snip,lottery_ticket,scratch_longer", "--ratios", "0.3,0.5"]
    assert main([*flags, *methods, "--dry-run", "--workers", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert re.search(r"│ search +│ +– │ +1 │", lines["search"])
    assert re.search(r"│ all +│ +│ +10 │", lines["all"])
    assert "10 of 10 runs and searches are left" in text and "with 2 workers" in " ".join(text.split())
    assert not out.exists()


def test_a_dry_run_of_what_is_done_says_so_and_one_of_other_settings_is_refused(flags, tmp_path: Path, capsys):
    out = str(tmp_path / "cmp")
    assert main([*flags, "--methods", "dense", "--out", out]) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cmp").rglob("*")}
    capsys.readouterr()
    assert main([*flags, "--methods", "dense", "--out", out, "--dry-run"]) == 0
    assert "nothing is left to do in " in capsys.readouterr().out
    assert main([*flags, "--methods", "dense", "--lr", "0.01", "--out", out, "--dry-run"]) == 2
    assert "holds a comparison with other settings (training.lr: 0.05 -> 0.01)" in capsys.readouterr().err
    assert main([*flags, "--methods", "snip", "--out", out, "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "1 of 2 runs and searches are left" in captured.out
    # The finished run knows the seconds: nothing is measured.
    assert "as recorded by dense-s0" in " ".join(captured.out.split()) and captured.err == ""
    assert main([*flags, "--methods", "snip", "--out", str(tmp_path / "other"), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "20 steps measured of each network" in " ".join(captured.out.split())
    assert captured.err.startswith("measuring training steps here") and captured.err.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cmp").rglob("*")} == before


def test_a_record_that_cannot_be_read_costs_its_own_line_only(flags, tmp_path: Path, capsys):
    out = tmp_path / "cmp"
    assert main([*flags, "--methods", "dense,snip", "--out", str(out)]) == 0
    (out / "snip-p0.5-s0" / "record.json").write_text('{"x')
    capsys.readouterr()
    for arguments in (["compare", "--out", str(out)], [*flags, "--methods", "dense,snip", "--out", str(out)]):
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert re.search(r"not in the tables: snip-p0\.5-s0: cannot read record '.*; remove it and", captured.err)
        assert [row["status"] for row in rows(out / "runs.csv")] == ["finished", "failed"]
    (out / "snip-p0.5-s0" / "record.json").unlink()
    assert main([*flags, "--methods", "dense,snip", "--out", str(out)]) == 0


def test_a_folder_that_no_run_may_have_is_refused_before_anything_is_written(flags, tmp_path: Path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for out, said in ((f"{tmp_path}/a/../b", "contains '..'"), (f"{tmp_path}/link", "is a symbolic link")):
        assert main([*flags, "--methods", "dense", "--out", out]) == 2
        assert said in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name in ("a", "b")) == [] and not any(
        (tmp_path / "real").iterdir()
    )


def test_a_failed_run_is_listed_and_the_exit_code_is_1(flags, tmp_path: Path, capsys):
    out = tmp_path / "cmp"
    methods = ["--methods", "dense,early_bird,uniform", "--method.epsilon", "1e-6", "--method.penalty", "1e-2"]
    assert main([*flags, *methods, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "failed: uniform-p0.5-s0: no ticket of p = 0.5: the rule never fired" in captured.err
    assert "1 of 4 failed" in captured.err
    assert "0 (1 failed)" in (out / "table.md").read_text()
    assert [row["status"] for row in rows(out / "runs.csv") if row["method"] == "uniform"] == ["failed"]


def test_without_methods_the_tables_of_the_folder_are_printed_again(flags, tmp_path: Path, capsys):
    out = tmp_path / "cmp"
    assert main([*flags, "--methods", "dense,snip", "--out", str(out), "--quiet"]) == 0
    first = capsys.readouterr()
    assert first.err == "" and "| points from dense |" in (out / "table.md").read_text()
    assert main(["compare", "--out", str(out)]) == 0
    assert capsys.readouterr().out == first.out
    shutil.rmtree(out / "dense-s0")
    assert main(["compare", "--out", str(out)]) == 1  # nothing is run
    assert "not done: dense-s0; give the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "--methods is missing; give methods to compare, such as dense,early_bird,uniform"),
        ("--methods magic", "method.name is 'magic'; give one of early_bird"),
        ("--methods dense --ratios 1.0", r"ratios is \[1.0\]; give numbers in \[0, 1\)"),
        ("--methods dense --ratios some", "--ratios is .'some'.; give numbers"),
        ("--methods dense --seeds 0.5", r"--seeds is \[0.5\]; give integers"),
        ("--methods dense --workers 0", "--workers is 0; give an integer >= 1"),
        ("--methods dense --engine slurm", "--engine is 'slurm'; give local or ray"),
        ("--methods dense --method.magic 1", "no method of the grid has a setting 'magic'"),
        ("--methods dense --ratio 0.5", "--ratio is of one run; compare takes --ratios"),
        ("--methods dense --seed 3", "--seed is of one run; compare takes --seeds"),
        ("--methods dense --method reinit", "--method is of one run; compare takes --methods"),
        ("--methods dense --equal-cost snip", "--equal-cost names 'snip', which is not compared"),
        ("--methods dense --grid x.yaml", "--grid and --methods both say what to compare"),
        ("--grid nowhere.yaml", "nowhere.yaml cannot be read"),
        ("--methods dense --reference early_bird", "--reference is 'early_bird'; give one of dense"),
        ("--methods network_slimming:penalty=-1", "network_slimming:penalty=-1: method.penalty is -1"),
    ],
)
def test_wrong_input_is_one_line_with_the_cure_and_nothing_is_run(more, message, flags, tmp_path: Path, capsys):
    quick = [*flags, "--epochs", "1"]
    assert main([*quick, *more.split(), "--out", str(tmp_path / "cmp"), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and re.search(message, captured.err), captured.err


def test_a_method_on_a_network_it_cannot_handle_is_named_before_any_training(flags, tiny: Path, tmp_path: Path, capsys):
    tiny.write_text(tiny.read_text().replace("BatchNorm2d", "InstanceNorm2d"))
    assert main([*flags, "--methods", "dense,network_slimming", "--out", str(tmp_path / "cmp")]) == 2
    assert "method network_slimming cannot handle this network: it ranks BatchNorm scales" in capsys.readouterr().err
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []), ("a,b", ["a", "b"]), ("[a, b]", ["a", "b"]), (["a", "b,c"], ["a", "b", "c"]), (0.5, [0.5]),
        ("0.3,5e-1", [0.3, 0.5]), ("m.py:M:x=1", ["m.py:M:x=1"]), ([0, 1], [0, 1]),
    ],
)  # fmt: skip
def test_lists_are_taken_in_every_form(value, expected):
    assert listed(value) == expected


def test_a_grid_file_has_blocks_and_wrong_ones_are_named(flags, tmp_path: Path):
    path = tmp_path / "grid.yaml"
    blocks = [{"methods": ["dense", "snip"], "seeds": [0, 1]}, {"methods": "snip", "ratios": [0.3, 0.7]}]
    path.write_text(yaml.safe_dump(blocks))
    grid, _ = parse_grid([*flags[1:], "--grid", str(path)])
    assert grid is not None
    assert [(b.methods, b.ratios, b.seeds) for b in grid.blocks] == [
        (("dense", "snip"), (0.5,), (0, 1)), (("snip",), (0.3, 0.7), (0,)),
    ]  # fmt: skip
    path.write_text("[{method: dense}]")
    with pytest.raises(ConfigError, match="unknown key in a block of --grid: 'method'; did you mean 'methods'"):
        parse_grid([*flags[1:], "--grid", str(path)])
    path.write_text("methods: dense")
    with pytest.raises(ConfigError, match="holds no list of blocks"):
        parse_grid([*flags[1:], "--grid", str(path)])


def test_settings_come_from_a_config_too(flags, tmp_path: Path):
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"methods": ["dense", "snip"], "ratios": [0.3], "training": {"epochs": 3}}))
    grid, _ = parse_grid(["--config", str(path), "--lr", "0.2"])
    assert grid is not None
    assert (grid.blocks[0].methods, grid.blocks[0].ratios) == (("dense", "snip"), (0.3,))
    assert (grid.settings["training"]["epochs"], grid.settings["training"]["lr"]) == (3, 0.2)


METHODS = "dense,early_bird,snip"


def started(flags: list[str], out: Path, workers: int) -> list[str]:
    command = [*flags, "--methods", METHODS, "--seeds", "0,1,2", "--training.checkpoint_every", "3"]
    return [*command, "--workers", str(workers), "--out", str(out)]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_work(out: Path) -> dict[int, str]:
    """Process -> the node that it has begun and not ended."""
    found: dict[int, str] = {}
    for event in events_since(out, 0)[0]:
        found.pop(event["pid"], None)
        if event["event"] == "started":
            found[event["pid"]] = event["node"]
    return found


def finished(out: Path) -> list[str]:
    return [event["node"] for event in events_since(out, 0)[0] if event["event"] == "finished"]


def test_one_of_two_workers_killed_and_the_grid_restarted_every_run_is_done_once(
    flags, tmp_path: Path, child: Callable[..., BaseProcess], monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # bits depend on it
    out = tmp_path / "cmp"
    process = child(main, started(flags, out, workers=2))
    wait_until(lambda: len(finished(out)) >= 2 and len(at_work(out)) == 2)
    pid, node = next(iter(at_work(out).items()))
    os.kill(pid, signal.SIGKILL)
    before = len(finished(out))
    wait_until(lambda: len(finished(out)) > before + 1)  # the other goes on, also with what this one had begun
    process.terminate()
    process.join(timeout=60)
    assert process.exitcode == 128 + signal.SIGTERM
    said = (tmp_path / "child.err").read_text()
    assert said.count("died (SIGKILL); the others take over its work") == 1
    assert main(started(flags, out, workers=1)) == 0
    runs = sorted(path.parent.name for path in out.glob("*/record.json"))
    assert len(runs) == 9
    assert sorted(node for node in finished(out) if not node.startswith("search-")) == runs  # none lost, none twice
    assert all(row["status"] == "finished" for row in rows(out / "runs.csv"))
    # What was killed ends as if it had been left alone.
    method, seed = ("dense", "0") if node.startswith("search-") else (node.split("-")[0], node[-1])
    alone = tmp_path / "alone"
    more = ["--methods", f"{method},dense", "--seeds", seed, "--training.checkpoint_every", "3"]
    assert main([*flags, *more, "--out", str(alone)]) == 0
    for path in alone.glob("*/model.safetensors"):
        assert path.read_bytes() == (out / path.parent.name / path.name).read_bytes(), path.parent.name


def test_workers_that_all_die_leave_a_list_of_what_is_not_done(
    flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    real = engines.run_workers

    def killed(sweep: Any, workers: int, command: Any, *more: Any) -> None:
        real(sweep, workers, ["sh", "-c", "kill -KILL $$"], *more)

    monkeypatch.setattr(engines, "run_workers", killed)
    out = tmp_path / "cmp"
    assert main(started(flags, out, workers=2)) == 1
    assert re.search(r"not done: .*dense-s2.*; give the same command again", capsys.readouterr().err)
    assert json.loads((out / "grid.json").read_text())["blocks"][0]["seeds"] == [0, 1, 2]
