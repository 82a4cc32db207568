"""The same grid as Ray tasks, on a cluster of two processes started here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from earlybird.cli.main import main
from earlybird.errors import ConfigError
from earlybird.grids.engines import RaySettings
from earlybird.grids.run_node import events_since

# What differs between two executions of one run: when it ran, and how long.
TIMED = {
    "wall_seconds", "cpu_seconds", "spans", "peak_bytes", "draw_wall_seconds", "draw_cpu_seconds", "created_at",
    "energy", "ticket.safetensors",  # the digest of the ticket, which holds the seconds of its draws
}  # fmt: skip


def compare(tiny: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "earlybird", "compare", "--model", f"{tiny}:network", "--data", f"{tiny}:data",
        "--data.augment", "flip", "--epochs", "6", "--batch-size", "20", "--lr", "0.05", "--precision", "fp32",
        "--round-to", "1", "--methods", "dense,early_bird,lottery_ticket", "--training.checkpoint_every", "2",
        "--out", str(out), *more,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # bits depend on the threads


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(entry) for key, entry in value.items() if key not in TIMED}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value


def records(out: Path) -> dict[str, Any]:
    return {path.parent.name: untimed(json.loads(path.read_text())) for path in out.glob("*/record.json")}


@pytest.mark.slow
def test_a_grid_on_ray_gives_the_records_of_one_on_this_machine_also_when_a_task_is_killed(tiny: Path, tmp_path: Path):
    subprocess.run(compare(tiny, tmp_path / "local"), check=True, capture_output=True, env=environment())
    out = tmp_path / "ray"
    process = subprocess.Popen(
        compare(tiny, out, "--engine", "ray"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    deadline, victim = time.monotonic() + 90, None
    while victim is None:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
        started = [event for event in events_since(out, 0)[0] if event["event"] == "started"]
        if len(started) > 1:
            victim = started[-1]
            os.kill(victim["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()[-3000:]
    local, ray = records(tmp_path / "local"), records(out)
    assert set(local) == set(ray) == {"dense-s0", "early_bird-p0.5-s0", "lottery_ticket-p0.5-s0"}
    assert local == ray
    events = events_since(out, 0)[0]
    finished = [event["node"] for event in events if event["event"] == "finished"]
    assert len(finished) == len(set(finished)) == 4
    assert len({event["pid"] for event in events}) >= 2  # more processes than one
    assert [event["event"] for event in events if event["node"] == victim["node"]] in (
        ["started", "started", "finished"],
        ["started", "finished"],  # it had just ended
    )


def test_a_cluster_that_is_not_there_is_one_line(tiny: Path, tmp_path: Path, child, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    _, _, _, *arguments = compare(tiny, tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:1")
    process = child(main, arguments)
    process.join(timeout=110)
    assert process.exitcode == 2
    assert "--ray-address '127.0.0.1:1' cannot be joined" in (tmp_path / "child.err").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cpus_per_run": 0}, "--cpus-per-run is 0; give a number > 0"),
        ({"gpus_per_run": -1}, "--gpus-per-run is -1; give a number >= 0"),
        ({"retries": -1}, "--retries is -1; give an integer >= 0"),
    ],
)
def test_resources_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RaySettings(**values)


def test_without_ray_installed_the_cure_is_named(monkeypatch):
    from earlybird.grids import engines

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray; pip install 'earlybird\[ray\]'"):
        engines._started(None)
