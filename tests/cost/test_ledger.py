"""The ledger adds what may be added, and the meter measures what it says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from earlybird.cost import CostLedger, PhaseCost, PhaseMeter, Work
from earlybird.energy import NO_ENERGY_COUNTER
from earlybird.errors import CheckpointError, ConfigError

SEARCH = PhaseCost("search", 10, 100, 300.0, 2.0, 3.0, 50)
RETRAIN = PhaseCost("retrain", 20, 40, 120.0, 1.0, 1.5, 30)


def ledger_of(*costs: PhaseCost) -> CostLedger:
    ledger = CostLedger()
    for cost in costs:
        ledger.add(cost)
    return ledger


def test_the_same_phase_adds_up_and_its_peak_is_the_highest() -> None:
    merged = ledger_of(RETRAIN, SEARCH, replace(SEARCH, peak_bytes=70)).merged()
    assert list(merged) == ["search", "retrain"]
    assert merged["search"] == PhaseCost("search", 20, 200, 600.0, 4.0, 6.0, 70)
    assert merged["retrain"] == RETRAIN


def test_the_total_adds_all_phases() -> None:
    assert ledger_of(SEARCH, RETRAIN).total() == PhaseCost("total", 30, 140, 420.0, 3.0, 4.5, 50)


def test_an_empty_ledger_costs_nothing_and_has_measured_no_energy() -> None:
    total = CostLedger().total()
    assert total == PhaseCost("total", 0, 0, 0.0, 0.0, 0.0, 0, None, NO_ENERGY_COUNTER, traffic_bytes=0)
    assert CostLedger().merged() == {} and len(CostLedger()) == 0


def test_one_unknown_part_makes_the_sum_unknown() -> None:
    assert ledger_of(SEARCH, replace(RETRAIN, paper_flops=None)).total().paper_flops is None


def test_energy_adds_up_only_within_one_method() -> None:
    measured = replace(SEARCH, joules=5.0, energy_method="nvml", energy_device="GPU 0", energy_coverage=1.0)
    total = ledger_of(measured, measured).total()
    assert (total.joules, total.energy_method, total.energy_device, total.energy_coverage) == (10.0, "nvml", "GPU 0", 1)
    mixed = ledger_of(measured, replace(measured, joules=7.0, energy_method="rapl")).total()
    assert (mixed.joules, mixed.energy_method, mixed.energy_coverage) == (None, "nvml; rapl", 0.0)


def test_energy_of_a_part_says_of_which_part_of_the_seconds_it_is() -> None:
    # Search: 2 s, measured over half of them. Retrain: 1 s, not measured. Together 1 of 3 s.
    measured = replace(SEARCH, joules=5.0, energy_method="nvml", energy_device="GPU 0", energy_coverage=0.5)
    total = ledger_of(measured, RETRAIN).total()
    assert (total.joules, total.energy_method, total.energy_coverage) == (5.0, "nvml", pytest.approx(1 / 3))


def test_products_add_up_by_width_and_traffic_only_where_all_of_it_is_known() -> None:
    one = replace(SEARCH, macs_by_width={"16x16": 90, "32x32": 10}, traffic_bytes=7, spans=((1.0, 2.0),))
    other = replace(RETRAIN, macs_by_width={"16x16": 40}, traffic_bytes=3, spans=((5.0, 6.0), (8.0, 9.0)))
    total = ledger_of(one, other).total()
    assert (total.macs_by_width, total.traffic_bytes) == ({"16x16": 130, "32x32": 10}, 10)
    assert total.spans == ((1.0, 2.0), (5.0, 6.0), (8.0, 9.0))
    assert ledger_of(one, RETRAIN).total().traffic_bytes is None


def test_a_ledger_survives_json() -> None:
    full = replace(SEARCH, macs_by_width={"16x16": 100}, traffic_bytes=7, spans=((1.0, 2.0),))
    again = CostLedger.from_state(json.loads(json.dumps(ledger_of(full, RETRAIN).state_dict())))
    assert list(again) == [full, RETRAIN]


def test_a_ledger_of_an_older_version_is_read() -> None:
    old = {
        "phase": "search", "images": 10, "macs": 100, "paper_flops": 300.0, "wall_seconds": 2.0, "cpu_seconds": 3.0,
        "peak_bytes": 50, "joules": None, "energy_method": NO_ENERGY_COUNTER,
    }  # fmt: skip
    assert list(CostLedger.from_state([old])) == [SEARCH]


def test_a_damaged_ledger_is_refused_with_the_entry_and_the_field() -> None:
    entry = ledger_of(SEARCH).state_dict()[0]
    with pytest.raises(CheckpointError, match="cost entry 1 has missing or unknown fields: macs, watts"):
        CostLedger.from_state([entry, {**{k: v for k, v in entry.items() if k != "macs"}, "watts": 1}])
    with pytest.raises(CheckpointError, match=r"cost entry 0 cannot be read: images .* is -1"):
        CostLedger.from_state([{**entry, "images": -1}])
    with pytest.raises(CheckpointError, match="cost entry 0 cannot be read"):
        CostLedger.from_state([{**entry, "images": "many"}])
    for wrong in ({"macs_by_width": None}, {"energy_coverage": 7.0}, {"spans": [[5, 1]]}, {"spans": [["a", "b"]]}):
        with pytest.raises(CheckpointError, match="cost entry 0 cannot be read"):
            CostLedger.from_state([entry | wrong])
    with pytest.raises(CheckpointError, match="cost entry 0 cannot be read: a ledger takes single phases"):
        CostLedger.from_state([{**entry, "phase": "total"}])


def test_unknown_phases_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="'warmup'; give one of search, slim, train, retrain, evaluate"):
        replace(SEARCH, phase="warmup")
    with pytest.raises(ConfigError, match="'total'"):
        PhaseMeter("total")
    with pytest.raises(ConfigError, match="wall_seconds of phase 'search' is nan"):
        replace(SEARCH, wall_seconds=float("nan"))
    with pytest.raises(ConfigError, match="not a total"):
        CostLedger().add(replace(SEARCH, phase="total"))


def test_the_meter_measures_sleep_as_wall_time_and_work_as_cpu_time_too(clock) -> None:
    with PhaseMeter("slim") as meter:
        clock.sleep(2.0)
        clock.work(0.5)
    cost = meter.cost(Work(1, {"32x32": 2}, 3.0))
    assert (cost.wall_seconds, cost.cpu_seconds) == (2.5, 0.5)
    assert (cost.phase, cost.images, cost.macs, cost.paper_flops) == ("slim", 1, 2, 3.0)
    assert cost.joules is None and cost.energy_method == "not measured (no counter: none was asked for)"


def test_a_meter_can_be_read_while_it_runs_and_entered_again(clock) -> None:
    meter = PhaseMeter("search")
    with meter:
        clock.sleep(2.0)
        assert meter.cost(Work()).wall_seconds == 2.0
        clock.sleep(1.0)
    clock.sleep(4.0)
    assert meter.cost(Work()).wall_seconds == 3.0
    with meter:
        clock.sleep(0.5)
    assert meter.cost(Work()).wall_seconds == 3.5


def test_a_meter_that_runs_is_not_entered_twice() -> None:
    with PhaseMeter("search") as meter, pytest.raises(ConfigError, match="already running"):
        meter.__enter__()


def test_the_peak_on_a_cpu_is_the_resident_set_of_the_process_in_bytes() -> None:
    with PhaseMeter("search") as meter:
        pass
    peak = meter.cost(Work()).peak_bytes
    assert 50 * 2**20 < peak < 2**40  # PyTorch alone takes more than 50 MiB
    with PhaseMeter("retrain") as later:
        block = bytearray(64 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
    assert later.cost(Work()).peak_bytes >= peak
