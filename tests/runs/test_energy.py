"""Energy of whole runs: measured by a counter that a test moves, estimated, imported from a power meter, or neither."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from earlybird.cost import CostLedger, PhaseCost, meter
from earlybird.energy import NoCounter, estimated_joules
from earlybird.energy.power_log import MeterReading
from earlybird.errors import DataError, RunFolderError
from earlybird.runs import run as run_module
from earlybird.runs.energy import energy_facts, import_power_log, shared_card
from earlybird.runs.record_file import finished_record
from earlybird.runs.run import run
from earlybird.settings.run import RunConfig

WATTS = 50.0


class SteadyCounter:
    """A machine that draws 50 W of a clock on which a second passes between two readings of a meter."""

    method, device, others = "fake", "the test's machine", 0
    notes = ("DRAM is missing",)

    def __init__(self, clock) -> None:
        self.clock, self.idle_watts, self.pending = clock, 12.0, False

    def start(self) -> None:
        self.last = self.clock.wall + 1.0  # when the meter reads it, which comes next

    def take(self) -> float:
        joules, self.last = WATTS * (self.clock.wall - self.last), self.clock.wall
        return joules

    def stop(self) -> None:
        pass


@pytest.fixture
def finished(tiny_settings, tmp_path: Path):
    """Runs tiny settings to their record; returns record and folder."""

    def go(name: str = "run", method: str = "early_bird") -> tuple[dict[str, Any], Path]:
        return run(RunConfig.from_dict(tiny_settings(method)), tmp_path / name, quiet=True), tmp_path / name

    return go


def test_a_machine_without_a_counter_says_so_and_estimates(finished, monkeypatch):
    monkeypatch.setattr(run_module, "find_counter", lambda device: NoCounter("RAPL: no such folder"))
    energy, cost = (record := finished()[0])["energy"], record["cost"]
    assert energy["measured"] == {}
    assert energy["reason"] == "not measured (no counter: RAPL: no such folder)"
    assert all(phase["joules"] is None and phase["energy_coverage"] == 0 for phase in cost["phases"].values())
    estimated = energy["estimated"]
    total = cost["total"]
    assert estimated["joules"] == pytest.approx(estimated_joules(total["macs_by_width"], total["traffic_bytes"]))
    assert estimated["method"] == "estimated: horowitz-2014-45nm (version 1)" and 0 < estimated["coverage"] <= 1
    phases = estimated["phases"]
    assert phases["slim"]["joules"] is None  # nothing was counted there, which is not nothing
    assert sum(part["joules"] or 0 for part in phases.values()) == pytest.approx(estimated["joules"])


def test_products_and_traffic_of_a_run_are_those_of_its_images(finished):
    record, _ = finished(method="dense")
    phase = record["cost"]["phases"]["train"]
    assert phase["macs_by_width"] == {"32x32": phase["macs"]}
    assert phase["macs"] == phase["images"] * record["final"]["train_macs"]
    assert phase["images"] == 12 * 90 == record["data"]["train_images"] * 12
    assert phase["traffic_bytes"] > phase["images"] * 3 * 8 * 8 * 4


@pytest.fixture
def steady(clock, monkeypatch) -> None:
    """Runs are measured by a `SteadyCounter`."""

    def a_second_later(device) -> tuple[float, float]:
        clock.work(1.0)
        return clock.wall, clock.cpu

    monkeypatch.setattr(meter, "read_clocks", a_second_later)
    monkeypatch.setattr(run_module, "find_counter", lambda device: SteadyCounter(clock))
    monkeypatch.setattr(run_module, "measure_idle", lambda counter: None)


def test_a_counter_measures_every_phase(finished, steady):
    record, _ = finished()
    measured, total = record["energy"]["measured"]["fake"], record["cost"]["total"]
    assert measured["joules"] == pytest.approx(WATTS * total["wall_seconds"])
    assert measured["coverage"] == 1.0  # the seconds between two phases too, in both
    assert all(phase["coverage"] == 1.0 for phase in measured["phases"].values())
    assert (measured["device"], measured["idle_watts"]) == ("the test's machine", 12.0)
    assert set(measured["phases"]) == {"search", "slim", "retrain", "evaluate"}
    assert sum(phase["joules"] for phase in measured["phases"].values()) == pytest.approx(measured["joules"])
    assert record["energy"]["reason"] is None and record["energy"]["notes"] == ["DRAM is missing"]
    assert record["energy"]["estimated"]["joules"] != measured["joules"]


def test_a_run_on_a_shared_card_is_flagged_and_says_in_which_phases(finished, steady, monkeypatch):
    taken = SteadyCounter.take

    def take_beside_three(self) -> float:
        self.others = 3 if self.clock.wall < 4 else 0  # for the first seconds, which are of the search
        return taken(self)

    monkeypatch.setattr(SteadyCounter, "take", take_beside_three)
    record, folder = finished()
    told = "joules were measured on a card shared with up to 3 other processes (search) and are theirs too"
    assert told in record["flags"] and record["energy"]["notes"] == ["DRAM is missing", told]
    measured = record["energy"]["measured"]["fake"]
    assert measured["shared_with"] == 3
    shares = {name: phase["shared_with"] for name, phase in measured["phases"].items()}
    assert shares == {"search": 3, "slim": 0, "retrain": 0, "evaluate": 0}
    assert record["cost"]["phases"]["search"]["energy_shared_with"] == 3
    assert finished_record(folder) == record  # as the schema wants it


def test_joules_of_two_counters_in_one_phase_are_flagged_too():
    ledger = CostLedger()
    for method, others in (("nvml", 1), ("nvml+rapl", 0)):
        ledger.add(PhaseCost("search", 1, 0, 0.0, 1.0, 1.0, 1, 5.0, method, "x", 1.0, energy_shared_with=others))
    told = ["joules were measured on a card shared with 1 other process (search) and are theirs too"]
    assert shared_card(ledger) == told and ledger.total().joules is None
    facts = energy_facts(ledger, NoCounter("gone"))["measured"]
    assert {name: found["shared_with"] for name, found in facts.items()} == {"nvml": 1, "nvml+rapl": 0}
    assert shared_card(CostLedger()) == []


def write_log(path: Path, samples: list[tuple[float, float]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("timestamp", "watts"), *samples])
    return path


def spans_of(record: dict[str, Any]) -> list[tuple[float, float]]:
    return [tuple(span) for phase in record["cost"]["phases"].values() for span in phase["spans"]]


def test_a_power_meters_log_is_integrated_over_the_phases(finished, tmp_path: Path):
    record, folder = finished()
    spans = spans_of(record)
    begin, end = min(start for start, _ in spans), max(last for _, last in spans)
    # 100 samples a second from 5 s before to 5 s after: 20 W idle, 70 W while the run runs.
    times = [begin - 5 + k / 100 for k in range(int((end - begin + 10) * 100) + 1)]
    log = write_log(tmp_path / "meter.csv", [(t, 70.0 if begin - 1 <= t <= end + 1 else 20.0) for t in times])
    facts = import_power_log(folder, MeterReading(log))
    seconds = sum(last - start for start, last in spans)
    assert facts["joules"] == pytest.approx(70 * seconds, rel=0.01)
    assert facts["coverage"] == pytest.approx(1, abs=1e-3) and facts["gaps"] == []
    assert facts["idle_watts"] == 20.0
    stored = json.loads((folder / "record.json").read_text())
    assert stored["energy"]["measured"] == {"external_meter": facts}
    assert stored["cost"] == record["cost"]  # what the run itself measured stays
    assert facts["log"]["file"] == "meter.csv" and len(facts["log"]["sha256"]) == 64
    assert facts["log"]["columns"] == "time in column 1 ('timestamp'), power in column 2 ('watts'), in W"


def test_columns_and_unit_of_a_log_are_the_callers(finished, tmp_path: Path):
    record, folder = finished()
    begin, end = spans_of(record)[0]
    log = tmp_path / "meter.csv"
    rows = [("volts", "when", "kW"), *((230.0, begin - 10 + k / 10, 0.04) for k in range(400))]
    log.write_text("\n".join(",".join(map(str, row)) for row in rows))
    facts = import_power_log(folder, MeterReading(log, time_column="when", power_column="kW", power_unit="kW"))
    assert facts["phases"]["search"]["joules"] == pytest.approx(40 * (end - begin), rel=0.01)
    assert facts["log"]["columns"] == "time in column 2 ('when'), power in column 3 ('kW'), in kW"


def test_a_gap_in_the_log_is_coverage_and_not_joules(finished, tmp_path: Path):
    record, folder = finished()
    begin, end = spans_of(record)[0]
    middle = (begin + end) / 2
    times = [begin - 0.2 + k / 20_000 for k in range(int((middle - begin + 0.2) * 20_000))]
    log = write_log(tmp_path / "meter.csv", [(t, 70.0) for t in times])  # the meter stops in the midst of the search
    facts = import_power_log(folder, MeterReading(log, max_gap_seconds=0.001))
    search = facts["phases"]["search"]
    assert search["coverage"] == pytest.approx(0.5, abs=0.05)
    assert search["joules"] == pytest.approx(70 * (middle - begin), rel=0.02)
    assert facts["phases"]["evaluate"] == {"joules": None, "coverage": 0.0}
    assert facts["gaps"]


def test_importing_again_replaces_the_log_and_leaves_the_counters(finished, steady, tmp_path: Path):
    record, folder = finished()
    begin, end = spans_of(record)[0]
    for watts in (10.0, 30.0):
        times = [begin - 10 + k / 10 for k in range(400)]
        import_power_log(folder, MeterReading(write_log(tmp_path / "meter.csv", [(t, watts) for t in times])))
    measured = json.loads((folder / "record.json").read_text())["energy"]["measured"]
    assert set(measured) == {"fake", "external_meter"}
    assert measured["external_meter"]["phases"]["search"]["joules"] == pytest.approx(30 * (end - begin), rel=0.01)


def test_a_log_of_another_time_is_refused_and_nothing_is_written(finished, tmp_path: Path):
    record, folder = finished()
    before = (folder / "record.json").read_bytes()
    log = write_log(tmp_path / "meter.csv", [(1000.0 + k, 50.0) for k in range(10)])
    with pytest.raises(DataError, match=r"covers no moment of the run: it goes from 1000 to 1009 .*--offset"):
        import_power_log(folder, MeterReading(log))
    assert (folder / "record.json").read_bytes() == before
    # With the right offset the same log fits.
    start = spans_of(record)[0][0]
    assert import_power_log(folder, MeterReading(log, offset_seconds=start - 1001))["joules"] > 0


def test_a_record_that_does_not_say_when_it_ran_is_refused(finished, tmp_path: Path):
    record, folder = finished()
    for phase in record["cost"]["phases"].values():
        del phase["spans"]
    (folder / "record.json").write_text(json.dumps(record))
    log = write_log(tmp_path / "meter.csv", [(1.0, 1.0), (2.0, 1.0)])
    with pytest.raises(RunFolderError, match="does not say when its phases ran .*run it again beside the meter"):
        import_power_log(folder, MeterReading(log))
    with pytest.raises(RunFolderError, match="no finished run in"):
        import_power_log(tmp_path / "absent", MeterReading(log))


def test_seconds_without_a_moment_lower_the_coverage_of_a_log(finished, tmp_path: Path):
    record, folder = finished()
    search = record["cost"]["phases"]["search"]
    search["wall_seconds"] *= 4  # as if an older version, which noted no moments, had run the first three quarters
    (folder / "record.json").write_text(json.dumps(record))
    begin = search["spans"][0][0]
    log = write_log(tmp_path / "meter.csv", [(begin - 10 + k / 10, 40.0) for k in range(400)])
    facts = import_power_log(folder, MeterReading(log))
    assert facts["phases"]["search"]["coverage"] == pytest.approx(0.25, rel=0.02)
    assert facts["phases"]["retrain"]["coverage"] == pytest.approx(1, rel=0.01) and facts["coverage"] < 1


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (None, r"cost: None is not of type 'object'"),
        ({}, "cost: 'phases' is a required property"),
        ({"phases": {"search": {"images": 1}}, "total": {}}, "is a required property"),
    ],
)
def test_a_record_without_costs_is_refused_in_one_line(finished, tmp_path: Path, cost: object, message: str):
    record, folder = finished()
    (folder / "record.json").write_text(json.dumps(record | {"cost": cost}))
    log = write_log(tmp_path / "meter.csv", [(1.0, 1.0), (2.0, 1.0)])
    with pytest.raises(RunFolderError, match=rf"cannot read record .*{message}"):
        import_power_log(folder, MeterReading(log))


def test_a_cost_of_a_newer_version_is_kept_and_not_looked_at(finished, tmp_path: Path):
    record, folder = finished()
    record["cost"]["phases"]["search"]["photons"] = 1
    (folder / "record.json").write_text(json.dumps(record))
    begin = record["cost"]["phases"]["search"]["spans"][0][0]
    log = write_log(tmp_path / "meter.csv", [(begin - 10 + k / 10, 40.0) for k in range(400)])
    assert import_power_log(folder, MeterReading(log))["joules"] > 0
    assert json.loads((folder / "record.json").read_text())["cost"]["phases"]["search"]["photons"] == 1


def test_two_counters_of_one_run_stand_side_by_side():
    ledger = CostLedger()
    ledger.add(PhaseCost("search", 1, 0, 0.0, 1.0, 1.0, 1, 100.0, "nvml+rapl", "GPU 0, CPU package 0", 1.0))
    ledger.add(PhaseCost("retrain", 1, 0, 0.0, 3.0, 3.0, 1, 900.0, "nvml", "GPU 0", 1.0))
    facts = energy_facts(ledger, NoCounter("gone"))
    assert {name: (one["joules"], one["coverage"]) for name, one in facts["measured"].items()} == {
        "nvml+rapl": (100.0, 0.25), "nvml": (900.0, 0.75)
    }  # fmt: skip
    assert facts["measured"]["nvml"]["phases"]["search"] == {"joules": None, "coverage": 0.0, "shared_with": None}
    assert facts["reason"] is None


DROPS_LAYERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.extra = nn.Conv2d(8, 8, 3, padding=1)
        self.mean = torch.tensor([0.5])  # a plain attribute, no buffer
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.stem(x - self.mean.to(x.device))
        if self.training and torch.rand(1).item() > 2:
            x = self.extra(x)
        return self.head(x.mean((2, 3)))
"""


def test_a_network_whose_traffic_cannot_be_counted_trains_and_says_why_it_is_not_estimated(
    tiny_settings, tmp_path: Path, capsys
):
    (tmp_path / "drops.py").write_text(DROPS_LAYERS)
    settings = tiny_settings("dense", training={"epochs": 1})
    settings["model"]["name"] = f"{tmp_path / 'drops.py'}:Net"
    record = run(RunConfig.from_dict(settings), tmp_path / "run", quiet=True)
    assert record["cost"]["total"]["macs"] > 0 and record["cost"]["total"]["traffic_bytes"] is None
    assert record["energy"]["estimated"] is None
    assert "memory traffic of Net cannot be counted" in record["energy"]["estimate_reason"]
    assert capsys.readouterr().err == ""
