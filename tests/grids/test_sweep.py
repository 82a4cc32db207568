"""Sweeps in this process: what is run, what is skipped, what fails, and who holds a lock."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from earlybird.core import Ticket
from earlybird.errors import ConfigError, MethodError, SweepError
from earlybird.grids import run_node as node_module
from earlybird.grids.grid import nodes_of
from earlybird.grids.run_node import events_since, execute, new_token, node_lock
from earlybird.grids.sweep import (
    Sweep,
    check_methods,
    failures,
    open_sweep,
    read_grid,
    refuse_methods_of_file,
    unfinished,
    with_precision,
    work,
)
from earlybird.runs.record_file import recorded_training_macs
from earlybird.settings.method import TicketRequest
from earlybird.training.checkpoint import Checkpoints

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def record(root: Path, name: str) -> dict[str, Any]:
    return json.loads((root / name / "record.json").read_text())


def events(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in events_since(root, 0)[0]:
        found.setdefault(event["node"], []).append(event["event"])
    return found


def test_every_node_is_done_once_and_a_second_call_does_nothing(grid, tmp_path: Path):
    one = grid("dense", "early_bird", "network_slimming", "uniform", "lottery_ticket", ratios=(0.3, 0.5))
    told: list[tuple[str, str]] = []
    sweep = open_sweep(tmp_path / "cmp", one, "a")
    work(sweep, lambda node, event: told.append((node.id, event)))
    assert len(told) == 2 * len(sweep.nodes) == 2 * 11  # two searches: slimming draws once, and has no floor to set
    assert all(found == ["started", "finished"] for found in events(sweep.root).values())
    before = {p: p.stat().st_mtime_ns for p in sweep.root.rglob("*") if p.is_file()}
    work(Sweep(sweep.root, read_grid(sweep.root), "b"))
    assert {p: p.stat().st_mtime_ns for p in sweep.root.rglob("*") if p.is_file()} == before
    assert failures(sweep) == {} and unfinished(sweep) == []


def test_what_is_shared_is_charged_in_full_to_each(grid, tmp_path: Path):
    sweep = open_sweep(tmp_path / "cmp", grid("dense", "network_slimming", "lottery_ticket", ratios=(0.3, 0.5)), "a")
    work(sweep)
    dense = record(sweep.root, "dense-s0")["cost"]["phases"]["train"]
    for name in ("network_slimming-p0.3-s0", "network_slimming-p0.5-s0", "lottery_ticket-p0.3-s0"):
        search = record(sweep.root, name)["cost"]["phases"]["search"]
        assert (search["images"], search["macs"]) == (dense["images"], dense["macs"]) == (1080, dense["macs"])
        assert search["wall_seconds"] > 0


def test_controls_cost_what_an_early_bird_that_restarts_costs(grid, tmp_path: Path):
    sweep = open_sweep(tmp_path / "cmp", grid("early_bird", "uniform", "dense_shorter", schedule="restart"), "a")
    work(sweep)
    found = {name: record(sweep.root, f"{name}-p0.5-s0") for name in ("early_bird", "uniform", "dense_shorter")}
    retrained = found["early_bird"]["cost"]["phases"]["retrain"]["images"]
    assert retrained == 12 * found["early_bird"]["data"]["train_images"]
    macs = recorded_training_macs(found["early_bird"])
    for name in ("uniform", "dense_shorter"):
        step = 20 * found[name]["final"]["train_macs"]
        assert recorded_training_macs(found[name]) == pytest.approx(macs, abs=step)


def test_a_failing_run_is_recorded_the_rest_goes_on_and_the_next_call_tries_again(grid, tmp_path: Path, monkeypatch):
    sweep = open_sweep(tmp_path / "cmp", grid("dense", "snip", "lottery_ticket"), "a")
    original = node_module.run_node

    def broken(root: Path, node: Any, **more: Any) -> None:
        if node.id == "dense-s0":
            raise RuntimeError("the disk\nis on fire")
        original(root, node, **more)

    with monkeypatch.context() as patch:
        patch.setattr(node_module, "run_node", broken)
        work(sweep)
    assert failures(sweep) == {
        "dense-s0": "RuntimeError: the disk is on fire",
        "lottery_ticket-p0.5-s0": "dense-s0 failed, from which it starts",
    }
    failed = json.loads((sweep.root / "dense-s0.failed.json").read_text())
    assert "in broken" in failed["traceback"] and failed["kind"] == "RuntimeError"
    assert sweep.state(sweep.nodes[1]) == "done"
    again = Sweep(sweep.root, read_grid(sweep.root), "b")
    work(again)
    assert failures(again) == {} and not list(sweep.root.glob("*.failed.json"))


def test_a_run_that_diverges_fails_with_its_step(grid, tmp_path: Path):
    one = grid("dense", "snip")
    one.settings["training"]["lr"] = 1e30
    sweep = open_sweep(tmp_path / "cmp", one, "a")
    work(sweep)
    assert set(failures(sweep)) == {"dense-s0", "snip-p0.5-s0"}
    assert "became NaN or infinite" in failures(sweep)["dense-s0"]


def test_a_search_that_never_fires_fails_what_is_matched_to_it_and_early_bird_ends_dense(grid, tmp_path: Path):
    sweep = open_sweep(tmp_path / "cmp", grid("early_bird", "uniform", epsilon=1e-6, penalty=1e-2), "a")
    work(sweep)
    assert record(sweep.root, "early_bird-p0.5-s0")["ticket"]["none"] is True
    (why,) = failures(sweep).values()
    assert why.startswith("no ticket of p = 0.5: the rule never fired in search-")


def test_a_node_whose_lock_another_process_holds_is_left_to_it(grid, tmp_path: Path):
    sweep = open_sweep(tmp_path / "cmp", grid("dense"), "a")
    (node,) = sweep.nodes
    with node_lock(sweep.root, node) as first, node_lock(sweep.root, node) as second:
        assert first == ""
        assert second.startswith(f"process {os.getpid()} on ")
    with node_lock(sweep.root, node) as again:
        assert again == ""


def test_a_grid_grows_in_its_folder_and_other_settings_are_refused_with_a_diff(grid, tmp_path: Path):
    root = tmp_path / "cmp"
    work(open_sweep(root, grid("dense"), "a"))
    grown = open_sweep(root, grid("dense", "snip"), "b")
    assert [node.id for node in grown.nodes] == ["dense-s0", "snip-p0.5-s0"]
    assert grown.state(grown.nodes[0]) == "done"
    other = grid("dense")
    other.settings["training"]["lr"] = 0.01
    before = (root / "grid.json").read_bytes()
    with pytest.raises(SweepError, match=r"holds a comparison with other settings \(training\.lr: 0\.05 -> 0\.01\)"):
        open_sweep(root, other, "c")
    assert (root / "grid.json").read_bytes() == before


def test_a_failure_counts_for_all_calls_that_had_begun_and_a_later_call_tries_again(grid, tmp_path: Path):
    one = grid("dense")
    one.settings["training"]["lr"] = 1e30
    first, second = (open_sweep(tmp_path / "cmp", one, new_token()) for _ in range(2))
    for sweep in (first, second):  # The second sees what the first has tried, as if it had run beside it.
        work(sweep)
        assert set(failures(sweep)) == {"dense-s0"} and unfinished(sweep) == []
    assert events(first.root) == {"dense-s0": ["started", "failed"]}
    time.sleep(0.01)
    later = Sweep(first.root, one, new_token())
    assert unfinished(later) == ["dense-s0"]
    work(later)
    assert events(first.root) == {"dense-s0": ["started", "failed"] * 2}
    assert set(failures(first)) == set(failures(later)) == {"dense-s0"}


def test_calls_that_begin_at_once_all_find_their_methods_in_the_grid(grid, tmp_path: Path):
    root, methods = tmp_path / "cmp", ["dense", "snip", "lottery_ticket", "early_bird", "uniform", "thinet"]
    with ThreadPoolExecutor(len(methods)) as pool:
        sweeps = list(pool.map(lambda method: open_sweep(root, grid(method), "a"), methods * 3))
    assert {text for block in read_grid(root).blocks for text in block.methods} == set(methods)
    assert len(sweeps) == 18 and [p.name for p in root.iterdir() if ".tmp-" in p.name] == []


def test_a_begun_run_goes_on_from_its_own_ticket_when_the_search_was_done_again(
    grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "cmp"
    sweep = open_sweep(root, grid("early_bird"), "a")
    search, node = sweep.nodes
    execute(root, search, "a")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "clear", lambda self: None)  # as if it had been killed before its end
        execute(root, node, "a")
    (root / node.id / "record.json").unlink()
    own = (root / node.id / "ticket.safetensors").read_bytes()
    # More ratios: another search, whose ticket differs in bits, as after a change of the number of threads.
    grown = open_sweep(root, grid("early_bird", ratios=(0.3, 0.5)), "b")
    again = next(n for n in grown.nodes if n.kind == "search")
    assert again.id != search.id
    execute(root, again, "b")
    path = root / again.id / TicketRequest(0.5).file_name(again.requests)
    ticket = Ticket.load(path)
    name = next(name for name, weight in sorted(ticket.weights.items()) if weight.is_floating_point())
    ticket.weights[name].add_(1e-6)
    ticket.save(path)
    work(grown)
    assert failures(grown) == {}
    assert (root / node.id / "ticket.safetensors").read_bytes() == own


def test_a_search_summary_that_cannot_be_read_is_named(grid, tmp_path: Path):
    root = tmp_path / "cmp"
    sweep = open_sweep(root, grid("early_bird"), "a")
    execute(root, sweep.nodes[0], "a")
    (root / sweep.nodes[0].id / "search.json").write_text("{")
    work(sweep)
    assert re.search(r"search-\w+-s0/search\.json is corrupt \(.*\); remove it", failures(sweep)["early_bird-p0.5-s0"])


def test_a_folder_of_something_else_is_refused(grid, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SweepError, match=r"is not empty and holds no comparison \(no grid\.json\); give another --out"):
        open_sweep(tmp_path, grid("dense"), "a")
    with pytest.raises(SweepError, match="holds no comparison"):
        read_grid(tmp_path)
    (tmp_path / "grid.json").write_text("{")
    with pytest.raises(SweepError, match=r"grid\.json is corrupt"):
        read_grid(tmp_path)


def test_code_that_only_the_folders_grid_names_is_not_run(grid, tmp_path: Path):
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    plain = dataclasses.asdict(grid("dense"))
    for change in ({"methods": [f"{evil}:Method"]}, {"methods": [f"early_bird:criterion={evil}:score"]}):
        plain["blocks"] = [{"methods": ["dense"], "ratios": [0.5], "seeds": [0], **change}]
        root = tmp_path / "cmp"
        root.mkdir(exist_ok=True)
        (root / "grid.json").write_text(json.dumps(plain))
        with pytest.raises(ConfigError, match="code that runs only when you name it"):
            open_sweep(root, grid("dense"), "a")
    plain["blocks"][0]["methods"] = [f"{evil}:Method"]
    (root / "grid.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"method '.*evil\.py:Method' of this comparison is code .* whole command"):
        refuse_methods_of_file(read_grid(root))
    assert not (tmp_path / "ran").exists()


def test_methods_that_cannot_handle_the_network_are_all_named_before_anything_runs(grid, tiny: Path, tmp_path: Path):
    from earlybird.grids.sweep import any_config
    from earlybird.runs.inputs import network_and_data

    tiny.write_text(tiny.read_text().replace("BatchNorm2d", "InstanceNorm2d"))
    one = grid("dense", "lottery_ticket", "network_slimming", "thinet", "early_bird")
    spec, _, _ = network_and_data(any_config(one))
    with pytest.raises(MethodError) as refused:
        check_methods(one, spec)
    said = str(refused.value)
    assert (
        "method network_slimming cannot handle this network: it ranks BatchNorm scales, and the network has none"
        in said
    )
    assert "method early_bird cannot" in said and "method thinet cannot" in said and "lottery" not in said
    assert "\n" not in said


def test_precision_auto_is_settled_once_for_all_runs(grid, tmp_path: Path):
    from earlybird.grids.sweep import any_config
    from earlybird.runs.inputs import network_and_data

    one = grid("dense", "snip")
    one.settings["training"]["precision"] = "auto"
    spec, _, _ = network_and_data(any_config(one))
    settled = with_precision(one, spec)
    assert settled.settings["training"]["precision"] in ("fp32", "bf16")
    assert with_precision(one, spec, "bf16").settings["training"]["precision"] == "bf16"
    assert with_precision(grid("dense"), spec, "bf16").settings["training"]["precision"] == "fp32"  # as asked for


def test_the_log_is_read_in_whole_lines(grid, tmp_path: Path):
    (tmp_path / "events.jsonl").write_bytes(b'{"node": "a", "event": "x"}\n{"node": "b", "event": "x"}\n{"no')
    first, place = events_since(tmp_path, 0)
    assert [event["node"] for event in first] == ["a", "b"]
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'de": "c", "event": "x"}\n\x00\n[]\n{"node": "d"}\n')
    assert events_since(tmp_path, place)[0] == [{"node": "c", "event": "x"}]  # lines that are none are left out
    assert events_since(tmp_path / "nothing", 3) == ([], 3)


def test_a_search_that_all_runs_are_done_with_is_not_needed_any_more(grid, tmp_path: Path):
    import shutil

    sweep = open_sweep(tmp_path / "cmp", grid("early_bird"), "a")
    work(sweep)
    search = next(node for node in nodes_of(sweep.grid) if node.kind == "search")
    shutil.rmtree(sweep.root / search.id)
    work(Sweep(sweep.root, sweep.grid, "b"))
    assert not (sweep.root / search.id).exists()
