"""`PhaseMeter` with an energy counter: joules, the seconds they are of, and when it was."""

from __future__ import annotations

import os
import time

import pytest
import torch

from earlybird.cost import PhaseMeter, Work
from earlybird.energy import NoCounter


class FakeCounter:
    """Gives what it was told, one reading after another."""

    method, device, notes, others = "fake", "GPU 0", (), None

    def __init__(self, *readings: float | str | None) -> None:
        self.readings = list(readings)
        self.idle_watts = None
        self.pending = False
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def take(self) -> float | None:
        self.calls.append("take")
        reading = self.readings.pop(0)
        self.pending = reading == "pending"
        return None if isinstance(reading, str) else reading

    def stop(self) -> None:
        self.calls.append("stop")


def test_readings_of_a_phase_add_up(clock) -> None:
    counter = FakeCounter(3.0, 4.0, 5.0)
    with PhaseMeter("search", "cpu", counter) as meter:
        clock.work(1.0)
        assert meter.cost(Work()).joules == 3.0
        assert meter.cost(Work()).joules == 7.0
    cost = meter.cost(Work())
    assert (cost.joules, cost.energy_method, cost.energy_device, cost.energy_coverage) == (12.0, "fake", "GPU 0", 1.0)
    assert counter.calls == ["start", "take", "take", "take"]


def test_a_lost_stretch_lowers_the_coverage(clock) -> None:
    with PhaseMeter("search", "cpu", FakeCounter(3.0, None)) as meter:
        clock.sleep(0.05)
        meter.cost(Work())
        clock.sleep(0.15)
    cost = meter.cost(Work())
    assert cost.joules == 3.0 and cost.energy_coverage == pytest.approx(0.25)


def test_seconds_whose_joules_come_later_are_covered(clock) -> None:
    with PhaseMeter("search", "cpu", FakeCounter("pending", 3.0)) as meter:
        clock.sleep(0.02)
        assert meter.cost(Work()).joules is None
        clock.sleep(0.02)
    cost = meter.cost(Work())
    assert (cost.joules, cost.energy_coverage) == (3.0, 1.0)


def test_a_phase_too_short_for_its_counter_has_no_joules_rather_than_zero() -> None:
    with PhaseMeter("slim", "cpu", FakeCounter("pending")) as meter:
        pass
    cost = meter.cost(Work())
    assert (cost.joules, cost.energy_coverage, cost.energy_device) == (None, 0.0, "")


def test_without_a_counter_the_reason_stands_in_the_cost() -> None:
    with PhaseMeter("slim", "cpu", NoCounter("RAPL: only root may read it")) as meter:
        pass
    assert meter.cost(Work()).energy_method == "not measured (no counter: RAPL: only root may read it)"


def test_spans_say_when_it_ran(clock) -> None:
    meter = PhaseMeter("search")
    for _ in range(2):
        with meter:
            clock.sleep(2.0)
        clock.sleep(3.0)
    cost = meter.cost(Work())
    assert cost.spans == ((1e9, 1e9 + 2), (1e9 + 5, 1e9 + 7))
    assert cost.wall_seconds == 4.0


def test_seconds_between_two_phases_are_of_the_later_one():
    with PhaseMeter("search") as search:
        pass
    time.sleep(0.05)
    with PhaseMeter("slim", after=search) as slim:
        pass
    cost, before = slim.cost(Work()), search.cost(Work())
    assert 0.05 <= cost.wall_seconds < 0.5 and before.wall_seconds < 0.05
    (start, end), (_, end_before) = cost.spans[0], before.spans[-1]
    assert end - start == pytest.approx(cost.wall_seconds, abs=1e-3) and start == pytest.approx(end_before, abs=0.01)


def test_a_meter_after_one_that_never_ran_or_still_runs_begins_when_it_is_entered():
    idle = PhaseMeter("search")
    time.sleep(0.05)
    with PhaseMeter("slim", after=idle) as slim:
        pass
    assert slim.cost(Work()).wall_seconds < 0.05


def test_joules_between_two_phases_are_of_the_later_one_as_its_seconds_are(clock) -> None:
    counter = FakeCounter(3.0, 4.0)
    with PhaseMeter("search", "cpu", counter) as search:
        clock.sleep(1.0)
    clock.sleep(2.0)
    with PhaseMeter("slim", "cpu", counter, after=search) as slim:
        clock.sleep(1.0)
    cost = slim.cost(Work())
    assert (cost.wall_seconds, cost.joules, cost.energy_coverage) == (3.0, 4.0, 1.0)
    assert (search.cost(Work()).joules, counter.calls) == (3.0, ["start", "take", "take"])


def test_joules_that_come_after_their_phase_are_nobodys(clock) -> None:
    """A phase that ended before its counter ticked leaves its joules to no other: their seconds are its own."""
    counter = FakeCounter("pending", 4.0)
    with PhaseMeter("slim", "cpu", counter) as slim:
        clock.sleep(1.0)
    with PhaseMeter("retrain", "cpu", counter, after=slim) as retrain:
        clock.sleep(1.0)
    assert (slim.cost(Work()).joules, slim.cost(Work()).energy_coverage) == (None, 0.0)
    assert (retrain.cost(Work()).joules, retrain.cost(Work()).energy_coverage) == (4.0, 1.0)
    assert counter.calls == ["start", "take", "start", "take"]


def test_a_meter_that_is_entered_again_leaves_out_what_came_between(clock) -> None:
    meter = PhaseMeter("search", "cpu", counter := FakeCounter(3.0, 4.0))
    for _ in range(2):
        with meter:
            clock.sleep(1.0)
        clock.sleep(5.0)
    cost = meter.cost(Work())
    assert (cost.wall_seconds, cost.joules, cost.energy_coverage) == (2.0, 7.0, 1.0)
    assert counter.calls == ["start", "take", "start", "take"]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel keeps the high-water mark")
def test_a_smaller_phase_has_a_smaller_peak_on_a_cpu():
    """As after a cut; what is used between two phases counts as the later one's."""
    mega = 1024 * 1024
    peaks, before = [], None
    for size in (300, 20, 20):
        with PhaseMeter("search", after=before) as meter:
            torch.ones(size * mega // 4)
        before = meter
        peaks.append(meter.cost(Work(0)).peak_bytes)
        if len(peaks) == 2:
            torch.ones(150 * mega // 4)
    wide, narrow, after_a_cut = peaks
    assert wide - narrow > 200 * mega
    assert after_a_cut - narrow > 100 * mega
