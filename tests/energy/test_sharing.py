"""A card with others on it is noticed, where NVML can tell; `conftest.py` has the machine."""

from __future__ import annotations

import os
import time

import pytest
import torch

from earlybird.cost import PhaseMeter, Work
from earlybird.energy import counters, find_counter, measure_idle, most_others, sharing

GPU = torch.device("cuda:0")
SELF, OTHER, THIRD = os.getpid(), 7, 8  # pids


@pytest.fixture
def counter(machine, monkeypatch):
    """The counter of a machine with two GPUs, on the machine itself, not in a container."""
    monkeypatch.setattr(sharing, "_has_own_pids", lambda: False)
    machine.add_gpus()
    counter = find_counter(GPU)
    yield counter
    counter.stop()


def stretch(machine, counter) -> int | None:
    """Others on the card during 5 J."""
    counter.start()
    machine.gpu(5.0)
    assert counter.take() == pytest.approx(5.0)
    return counter.others


@pytest.mark.parametrize(
    ("counts", "most"), [((0, 0), 0), ((0, 3, 1), 3), ((0, None), None), ((None, 2), 2), ((), None), ((None,), None)]
)
def test_what_one_look_could_not_tell_is_not_known_unless_another_saw_somebody(counts, most):
    assert most_others(*counts) == most


@pytest.mark.parametrize(
    ("compute", "graphics", "others"),
    [
        ([SELF], None, 0),
        ([SELF], [SELF], 0),
        ([SELF, SELF], [], 0),  # two contexts of one process
        ([SELF, OTHER], None, 1),
        ([OTHER, SELF, THIRD], [THIRD], 2),
        ([SELF], [OTHER], 1),  # a display or a game
        ([OTHER], None, 0),  # this process, under the pid that another namespace has for it
        ([OTHER, THIRD], None, 1),
    ],
)
def test_others_are_those_that_are_not_this_process(machine, counter, compute, graphics, others):
    machine.compute[0], machine.graphics = compute, graphics
    assert stretch(machine, counter) == others
    assert len(counter.notes) == 1 and counter.notes[0].startswith("RAPL")


def test_processes_of_another_card_do_not_count(machine, counter):
    machine.compute[1] = [OTHER, THIRD]
    assert stretch(machine, counter) == 0


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (None, "NVML lists no processes: Not Supported"),
        ([], "NVML lists nobody, not even this process"),
    ],
)
def test_what_nvml_does_not_tell_is_not_known_and_said_once(machine, counter, compute, reason):
    machine.compute[0] = compute
    assert stretch(machine, counter) is None and stretch(machine, counter) is None
    assert counter.notes[1:] == (f"whether others computed on the GPU is not known: {reason}",)


def test_a_container_sees_its_own_processes_alone(machine, counter, monkeypatch):
    monkeypatch.setattr(sharing, "_has_own_pids", lambda: True)
    assert stretch(machine, counter) is None
    assert "in this container NVML lists its own processes alone" in counter.notes[-1]
    machine.compute[0] = [SELF, OTHER]
    assert stretch(machine, counter) == 1


def test_whether_pids_are_those_of_the_machine_is_read_from_the_namespace(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "_NAMESPACE", tmp_path / "pid")
    assert not sharing._has_own_pids()  # no such file: another system than Linux
    for target, own in (("pid:[4026531836]", False), ("pid:[4026532201]", True)):
        (tmp_path / "pid").unlink(missing_ok=True)
        (tmp_path / "pid").symlink_to(target)
        assert sharing._has_own_pids() is own


def test_a_neighbour_of_a_part_of_a_stretch_is_noticed_and_forgotten_in_the_next(machine, counter, monkeypatch):
    monkeypatch.setattr(counters, "_SECONDS_BETWEEN_LOOKS", 0.002)
    looks = []
    machine.patch.setattr(counter._watch, "_look", lambda: looks.append(0) or len(machine.compute[0]) - 1)

    def wait_for_a_look() -> None:
        seen, end = len(looks), time.monotonic() + 5
        while len(looks) < seen + 2 and time.monotonic() < end:
            time.sleep(0.002)

    counter.start()
    machine.compute[0] = [SELF, OTHER, THIRD]
    wait_for_a_look()
    machine.compute[0] = [SELF]
    machine.gpu(5.0)
    assert counter.take() == 5.0 and counter.others == 2
    machine.gpu(5.0)
    assert counter.take() == 5.0 and counter.others == 0


def test_a_neighbour_at_the_end_of_a_stretch_is_of_the_next_one_too(machine, counter):
    counter.start()
    for pids, others in (([SELF, OTHER], 1), ([SELF], 1), ([SELF], 0)):
        machine.compute[0] = pids
        machine.gpu(5.0)
        assert counter.take() == 5.0 and counter.others == others


def test_neighbours_of_seconds_whose_joules_come_later_count(machine, counter):
    counter.start()
    machine.compute[0] = [SELF, OTHER]
    assert counter.take() is None and counter.pending
    machine.compute[0] = [SELF]
    machine.gpu(5.0)
    assert counter.take() == 5.0 and counter.others == 1


def test_a_phase_has_the_most_neighbours_of_its_stretches(machine, counter):
    with PhaseMeter("search", "cpu", counter) as meter:
        for pids in ([SELF], [SELF, OTHER, THIRD], [SELF], [SELF]):
            machine.compute[0] = pids
            machine.gpu(5.0)
            meter.cost(Work())
        machine.gpu(5.0)
    machine.gpu(5.0)
    with PhaseMeter("retrain", "cpu", counter, after=meter) as after:
        machine.gpu(5.0)
    assert meter.cost(Work()).energy_shared_with == 2
    assert after.cost(Work()).energy_shared_with == 0


def test_a_card_with_others_has_no_idle_power(machine, counter, monkeypatch):
    from types import SimpleNamespace

    clock = SimpleNamespace(sleep=lambda seconds: machine.gpu(5.0), perf_counter=time.perf_counter)
    monkeypatch.setattr(counters, "time", clock)
    assert measure_idle(counter) > 0
    machine.compute[0] = [SELF, OTHER]
    assert measure_idle(counter) is None and counter.idle_watts is None


@pytest.mark.parametrize("visible", [None, "MIG-12345678-aaaa-bbbb-cccc-0123456789ab"])
def test_a_card_that_is_split_is_not_measured(machine, monkeypatch, visible):
    """torch's name of an instance differs from NVML's of the card, which is not what is wrong."""
    machine.add_gpus()
    machine.is_split = True
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"NVIDIA H100 no. {index} MIG 1g.10gb")
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    method = find_counter(GPU).method
    assert method.startswith("not measured (no counter: NVML: ") and "MIG" in method and "\n" not in method
    assert visible or "GPU 0 is split by MIG, and its counter is of the whole card" in method


def test_a_card_that_knows_no_mig_is_not_split(machine, counter):
    import pynvml

    def not_supported(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    machine.patch.setattr(pynvml, "nvmlDeviceGetMigMode", not_supported)
    assert not sharing.is_split(0)


def test_a_cpu_has_no_card_to_share(machine):
    machine.add_rapl()
    counter = find_counter(torch.device("cpu"))
    counter.start()
    machine.package(5.0)
    machine.dram(1.0)
    assert counter.take() == pytest.approx(6.0) and counter.others is None
