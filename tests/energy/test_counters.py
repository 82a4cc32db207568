"""Joules come out right, wraps and all, and what was not measured is never zero; `conftest.py` has the machine."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch

from earlybird.energy import counters, sources
from earlybird.energy.counters import NO_ENERGY_COUNTER, NoCounter, ZeusCounter, find_counter, measure_idle
from earlybird.energy.sources import EnergySource
from earlybird.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
RANGE_UJ = 262_143_328_850  # of an Intel server, as in the fixture `machine`


def test_no_counter_measures_nothing_and_says_why():
    counter = NoCounter("the sensor is on fire")
    counter.start()
    assert counter.take() is None and measure_idle(counter, seconds=1e9) is None
    counter.stop()
    assert counter.method == "not measured (no counter: the sensor is on fire)" and counter.device == ""
    assert NoCounter().method == NO_ENERGY_COUNTER


def test_a_gpu_run_is_charged_its_gpu_the_packages_and_their_dram(machine):
    machine.add_rapl()
    machine.add_gpus()
    counter = find_counter(GPU)
    assert counter.method == "nvml+rapl" and counter.notes == ()
    assert counter.device == "GPU 0 (NVIDIA H100 no. 0), CPU package 0, DRAM 0"
    counter.start()
    for times in (1, 2):
        machine.gpu(100.0 * times)
        machine.gpu(9e6, index=1)  # somebody else's
        machine.package(20.0 * times)
        machine.dram(3.0 * times)
        machine.use("intel-rapl:0/intel-rapl:0:0", 5.0)  # the cores are part of the package
        assert counter.take() == pytest.approx(123.0 * times, rel=1e-9)
    counter.stop()


def test_a_cpu_run_is_not_charged_an_idle_gpu(machine):
    machine.add_rapl()
    machine.add_gpus()
    counter = find_counter(CPU)
    assert (counter.method, counter.device) == ("rapl", "CPU package 0, DRAM 0")
    counter.start()
    machine.gpu(100.0)
    machine.package(20.0)
    machine.dram(3.0)
    assert counter.take() == pytest.approx(23.0, rel=1e-9)


def test_the_gpu_is_counted_as_torch_counts_it(machine, monkeypatch):
    machine.add_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"NVIDIA H100 no. {index + 1}")
    counter = find_counter(GPU)
    assert counter.device == "GPU 0 (NVIDIA H100 no. 1)"
    assert counter.method == "nvml" and counter.notes == (f"RAPL: no {machine.folder}",)
    counter.start()
    machine.gpu(8.0, index=1)
    assert counter.take() == pytest.approx(8.0)


def test_a_gpu_that_cuda_numbers_otherwise_is_not_measured(machine, monkeypatch):
    machine.add_gpus()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA T4")
    assert "set CUDA_DEVICE_ORDER=PCI_BUS_ID" in find_counter(GPU).method


def test_a_start_drops_what_was_not_taken(machine):
    machine.add_gpus()
    counter = find_counter(GPU)
    assert counter.take() is None  # never started
    counter.start()
    machine.gpu(50.0)
    counter.start()
    machine.gpu(8.0)
    assert counter.take() == pytest.approx(8.0)
    machine.gpu(50.0)
    counter.stop()
    assert counter.take() is None
    counter.stop()


@pytest.mark.parametrize("noticed_in_window", [0, 1, 2, None])
def test_a_wrapped_counter_loses_nothing_whenever_zeus_notices(machine, noticed_in_window):
    """The package wraps in window 0; zeus notices in that window, in a later one or, at its start-up, never."""
    machine.add_rapl(start_uj=RANGE_UJ - 10_000_000)
    counter = find_counter(CPU)
    counter.start()
    taken = []
    for window in range(4):
        machine.package(40.0)
        machine.dram(1.0)
        if window == noticed_in_window:
            machine.zeus_notices_the_wrap()
        taken.append(counter.take())
    assert taken == pytest.approx([41.0] * 4, rel=1e-9)


def test_the_dram_counter_wraps_at_its_own_range(machine):
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:0/intel-rapl:0:0", "dram", start_uj=65_000_000_000, range_uj=65_712_999_613)
    counter = find_counter(CPU)
    counter.start()
    machine.package(1000.0)
    machine.use("intel-rapl:0/intel-rapl:0:0", 900.0)
    assert counter.take() == pytest.approx(1900.0, rel=1e-9)


def test_a_stretch_of_many_ranges_is_right_however_late_it_is_taken(machine):
    machine.add_rapl(range_uj=20_000_000)  # 20 J: the counter splits its windows every 10 ms
    counter = find_counter(CPU)
    counter.start()
    for _ in range(12):
        with counter._lock:  # a step that falls between two readings would be counted twice
            machine.package(8.0)
            machine.dram(1.0)
        time.sleep(0.03)
    assert counter.take() == pytest.approx(12 * 9.0, rel=1e-9)
    counter.stop()


def test_a_counter_that_nobody_holds_any_more_leaves_no_thread(machine):
    machine.add_rapl(range_uj=20_000_000)
    counter = find_counter(CPU)
    counter.start()
    threads = [thread for thread in threading.enumerate() if thread.name == "energy windows"]
    assert threads
    del counter
    threads[-1].join(timeout=5)
    assert not threads[-1].is_alive()


def test_a_counter_of_unknown_range_that_goes_backwards_is_not_measured():
    source = EnergySource("CPU package 0", lambda measurement: measurement)
    assert source.joules(3.0) == 3.0
    with pytest.raises(ValueError, match="CPU package 0 went backwards by 2 J"):
        source.joules(-2.0)
    assert EnergySource("", lambda measurement: measurement, range_uj=1000).joules(-1e-12) == 0.0


def test_the_real_tracker_of_zeus_may_notice_when_it_likes(machine, monkeypatch):
    from zeus.device.cpu import get_cpus, rapl

    monkeypatch.undo()  # the real tracker, on our files
    monkeypatch.setattr(counters, "unsupported_reason", lambda device: None)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(machine.folder))
    rapl.rapl_is_available.cache_clear()
    monkeypatch.setattr("zeus.device.cpu._cpus", None)
    machine.zone("intel-rapl:0", "package-0", start_uj=RANGE_UJ - 10_000_000)
    counter = find_counter(CPU)
    tracker = get_cpus().cpus[0].rapl_file.wraparound_tracker
    counter.start()
    machine.package(40.0)  # wraps while the process starts
    taken, used = [counter.take()], [40.0]
    end = time.monotonic() + 12
    while tracker.get_num_wraparounds() == 0 and time.monotonic() < end:
        time.sleep(0.25)
        for joules in (150_000.0, 140_000.0):  # wraps at every second turn or so
            machine.package(joules)
            taken.append(counter.take())
            used.append(joules)
    counter.stop()
    tracker._stop()
    assert taken == pytest.approx(used, rel=1e-9)


def test_no_permission_for_rapl_is_said_with_the_cure(machine, monkeypatch):
    from zeus.device.cpu import rapl

    machine.add_rapl()
    machine.add_gpus()

    def refuse(self, path):
        raise rapl.cpu_common.ZeusCPUNoPermissionError("no")

    monkeypatch.setattr(rapl.RAPLFile, "__init__", refuse)
    counter = find_counter(CPU)
    assert isinstance(counter, NoCounter)
    assert "only root may read energy_uj; sudo chmod a+r" in counter.method and "zeusd" in counter.method
    part = find_counter(GPU)
    assert part.method == "nvml" and part.device == "GPU 0 (NVIDIA H100 no. 0)"
    assert len(part.notes) == 1 and "only root may read energy_uj" in part.notes[0]


def test_the_cpu_alone_never_stands_for_a_gpu_run(machine):
    import pynvml

    machine.add_rapl()
    machine.add_gpus()
    machine.gpu_error = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert find_counter(GPU).method.startswith("not measured (no counter: NVML: Not Supported;")


def test_what_counts_the_package_again_or_stands_still_is_left_out(machine):
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:0/intel-rapl:0:0", "dram", start_uj=0)
    machine.zone("intel-rapl:1", "psys")
    machine.zone("intel-rapl:2", "package-1", start_uj=0)
    counter = find_counter(CPU)
    assert counter.device == "CPU package 0"
    assert counter.notes == ("RAPL: no DRAM counter in package 0", "RAPL: CPU package 2 stands at zero")
    counter.start()
    machine.package(5.0)
    machine.use("intel-rapl:1", 50.0)
    assert counter.take() == pytest.approx(5.0)


def test_a_lost_gpu_costs_its_window_and_one_warning(machine):
    import pynvml

    machine.add_gpus()
    counter = find_counter(GPU)
    counter.start()
    machine.gpu(1.0)
    assert counter.take() == pytest.approx(1.0)
    machine.gpu_error = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    with pytest.warns(RuntimeWarning, match=r"energy is not measured for now \(nvml\): GPU is lost") as told:
        assert [counter.take() for _ in range(3)] == [None] * 3
    assert len(told) == 1 and "\n" not in str(told[0].message) and not counter.pending
    machine.gpu_error = None
    machine.gpu(70.0)
    assert counter.take() is None  # no window was open
    machine.gpu(2.0)
    assert counter.take() == pytest.approx(2.0)
    machine.gpu_error = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    with pytest.warns(RuntimeWarning, match="GPU is lost"):
        counter.start()
        assert counter.take() is None
        counter.stop()


def test_permission_revoked_in_mid_run_costs_the_window(machine, monkeypatch):
    from zeus.device.cpu import rapl

    machine.add_rapl()
    counter = find_counter(CPU)
    counter.start()
    with monkeypatch.context() as revoked, pytest.warns(RuntimeWarning, match="Permission denied"):

        def refuse(self):
            raise PermissionError(13, "Permission denied")

        revoked.setattr(rapl.RAPLFile, "read", refuse)
        assert counter.take() is None
    assert counter.take() is None
    machine.package(2.0)
    machine.dram(1.0)
    assert counter.take() == pytest.approx(3.0)


def test_a_counter_that_has_not_ticked_is_neither_zero_nor_lost(machine):
    machine.add_rapl()
    machine.add_gpus()
    counter = find_counter(GPU)
    counter.start()
    machine.package(2.0)
    machine.dram(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert counter.take() is None and counter.pending
        assert counter.take() is None and counter.pending
        machine.gpu(10.0)
        assert counter.take() == pytest.approx(13.0) and not counter.pending
    machine.package(2.0)
    assert counter.take() is None and counter.pending
    counter.stop()
    assert not counter.pending and counter.take() is None


def test_idle_power_is_joules_by_seconds(machine, monkeypatch):
    machine.add_gpus()
    counter = find_counter(GPU)
    assert counter.idle_watts is None
    passed = [0.0]
    clock = SimpleNamespace(sleep=lambda seconds: passed.append(passed[-1] + seconds), perf_counter=lambda: passed[-1])
    monkeypatch.setattr(counters, "time", clock)
    start = machine.gpu_millijoules[0]
    import pynvml

    def hundred_watts(handle: int) -> int:
        return start + int(passed[-1] * 100_000)

    machine.patch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", hundred_watts)
    watts = measure_idle(counter, seconds=0.3)
    assert watts == pytest.approx(100.0) and counter.idle_watts == watts
    machine.patch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: start)
    assert measure_idle(counter, seconds=0.01) is None and counter.idle_watts is None
    with pytest.raises(ConfigError, match="give a positive number of seconds"):
        measure_idle(counter, seconds=0.0)


@pytest.mark.parametrize(
    ("total", "method", "device"),
    [(50_000.0, "jetson", "Jetson (total)"), (None, "jetson", "Jetson (cpu, gpu)")],
)
def test_a_jetson_is_charged_its_module_or_else_its_rails(machine, monkeypatch, total, method, device):
    from zeus.device.soc.jetson import JetsonMeasurement

    class Jetson:
        def get_available_metrics(self):
            return {"cpu_energy_mj", "gpu_energy_mj"} | ({"total_energy_mj"} if total else set())

        def begin_window(self, key, restart=False):
            pass

        def end_window(self, key):
            return JetsonMeasurement(10_000.0, 20_000.0, total)

    monkeypatch.setattr("zeus.device.soc._soc", Jetson())
    counter = find_counter(GPU)
    assert (counter.method, counter.device) == (method, device)
    counter.start()
    assert counter.take() == (50.0 if total else 30.0)


def test_apple_silicon_counts_nothing_twice(machine, monkeypatch):
    from zeus.device.soc.apple import AppleSiliconMeasurement

    class AppleSilicon:
        def get_available_metrics(self):
            return {"cpu_total_mj", "performance_cores_mj", "performance_cluster_mj", "dram_mj", "gpu_mj", "ane_mj"}

        def begin_window(self, key, restart=False):
            pass

        def end_window(self, key):
            parts = {"performance_cores_mj": [4000], "performance_cluster_mj": [4500]}
            return AppleSiliconMeasurement(cpu_total_mj=5000, dram_mj=1000, gpu_mj=8000, ane_mj=0, **parts)

    monkeypatch.setattr("zeus.device.soc._soc", AppleSilicon())
    counter = find_counter(torch.device("mps"))
    assert (counter.method, counter.device) == ("apple", "Apple silicon (cpu, dram, gpu, ane)")
    counter.start()
    assert counter.take() == 14.0


def test_a_machine_without_counters_says_what_was_tried(machine):
    told = find_counter(CPU).method
    assert told.startswith(f"not measured (no counter: RAPL: no {machine.folder};") and "\n" not in told
    assert "NVML: " in find_counter(GPU).method
    assert "'meta'" in find_counter(torch.device("meta")).method


def test_this_machine_has_a_counter_or_one_line_that_says_why():
    counter = find_counter(CPU)
    assert isinstance(counter, ZeusCounter) or counter.method.startswith("not measured (no counter: ")
    assert "\n" not in counter.method and len(counter.method) < 400


def test_without_zeus_the_cure_is_an_extra(monkeypatch):
    class NotInstalled:
        def find_spec(self, name, path, target=None):
            if name == "zeus":
                raise ModuleNotFoundError("No module named 'zeus'", name="zeus")

    for name in [name for name in sys.modules if name.partition(".")[0] == "zeus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])
    monkeypatch.setattr(counters, "unsupported_reason", lambda device: None)
    assert "zeus is not installed: pip install 'earlybird[energy]'" in find_counter(CPU).method


def test_zeus_is_not_loaded_where_nothing_can_count(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zeus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sources, "RAPL_FOLDERS", (str(tmp_path / "absent"),))
    monkeypatch.setattr(sources.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sources.sys, "platform", "linux")
    assert find_counter(CPU).method == f"not measured (no counter: RAPL: no {tmp_path / 'absent'})"
    assert "zeus" not in sys.modules


@pytest.mark.parametrize(
    ("system", "chip", "device"), [("darwin", "arm64", CPU), ("linux", "aarch64", CPU), ("linux", "x86_64", GPU)]
)
def test_zeus_is_asked_where_something_may_count(monkeypatch, tmp_path, system, chip, device):
    monkeypatch.setattr(sources, "RAPL_FOLDERS", (str(tmp_path / "absent"),))
    monkeypatch.setattr(sources.platform, "machine", lambda: chip)
    monkeypatch.setattr(sources.sys, "platform", system)
    assert sources.unsupported_reason(device) is None
    monkeypatch.setattr(sources, "RAPL_FOLDERS", (str(tmp_path),))
    assert sources.unsupported_reason(CPU) is None
