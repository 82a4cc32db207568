"""A machine made up of files and a patched NVML, whose energy counters the tests move by hand."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from earlybird.energy import counters

RANGE_UJ = 262_143_328_850  # of an Intel server


class Machine:
    """Counters that a test moves by hand: `gpu(10)`, `package(10)` and `dram(10)` each use 10 J."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.gpu_millijoules = [5_000, 7_000]
        self.gpu_error: Exception | None = None
        self.noticed: dict[str, int] = {}
        # What NVML lists on each GPU; None: it does not support the list.
        self.compute: list[list[int] | None] = [[os.getpid()], [os.getpid()]]
        self.graphics: list[int] | None = None
        self.is_split = False

    def zone(self, path: str, name: str, start_uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> None:
        folder = self.folder / path
        folder.mkdir(parents=True)
        for file, text in (("name", name), ("energy_uj", start_uj), ("max_energy_range_uj", range_uj)):
            (folder / file).write_text(f"{text}\n")

    def add_rapl(self, start_uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> None:
        self.zone("intel-rapl:0", "package-0", start_uj, range_uj)
        self.zone("intel-rapl:0/intel-rapl:0:0", "core", start_uj, range_uj)
        self.zone("intel-rapl:0/intel-rapl:0:1", "dram", start_uj, range_uj)

    def use(self, path: str, joules: float) -> None:
        folder = self.folder / path
        count = int((folder / "energy_uj").read_text()) + round(joules * 1e6)
        new = folder / "new"
        new.write_text(f"{count % int((folder / 'max_energy_range_uj').read_text())}\n")
        new.replace(folder / "energy_uj")  # at once: zeus may read meanwhile

    def package(self, joules: float) -> None:
        self.use("intel-rapl:0", joules)

    def dram(self, joules: float) -> None:
        self.use("intel-rapl:0/intel-rapl:0:1", joules)

    def gpu(self, joules: float, index: int = 0) -> None:
        self.gpu_millijoules[index] += round(joules * 1000)

    def zeus_notices_the_wrap(self, path: str = "intel-rapl:0") -> None:
        file = str(self.folder / path / "energy_uj")
        self.noticed[file] = self.noticed.get(file, 0) + 1

    def add_gpus(self) -> None:
        import pynvml

        def energy(handle: int) -> int:
            if self.gpu_error is not None:
                raise self.gpu_error
            return self.gpu_millijoules[handle]

        def not_supported(handle: int = 0) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        def listed(pids: list[int] | None) -> list[SimpleNamespace]:
            return not_supported() if pids is None else [SimpleNamespace(pid=pid) for pid in pids]

        def name(index: int) -> str:
            return f"NVIDIA H100 no. {index}"

        fakes = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": name,
            "nvmlDeviceGetC2cModeInfoV": not_supported,
            "nvmlDeviceGetArchitecture": lambda handle: pynvml.NVML_DEVICE_ARCH_HOPPER,
            "nvmlDeviceGetTotalEnergyConsumption": energy,
            "nvmlDeviceGetMigMode": lambda handle: [int(self.is_split)] * 2,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: listed(self.compute[handle]),
            "nvmlDeviceGetMPSComputeRunningProcesses": not_supported,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: listed(self.graphics),
        }
        for function, fake in fakes.items():
            self.patch.setattr(pynvml, function, fake)
        self.patch.setattr(torch.cuda, "get_device_name", name)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine; zeus has forgotten the real one, and its wrap tracker is moved by the test."""
    pytest.importorskip("zeus")
    import zeus.device.cpu
    import zeus.device.gpu
    from zeus.device.cpu import rapl
    from zeus.device.gpu import nvidia

    machine = Machine(tmp_path / "intel-rapl", monkeypatch)
    # For good: it shuts NVML down, and collected in the middle of a later, real nvmlInit that is a deadlock.
    nvidia.NVIDIAGPUs.__del__ = lambda self: None

    class Tracker:
        def __init__(self, path: str, range_uj: float) -> None:
            self.path = path

        def get_num_wraparounds(self) -> int:
            return machine.noticed.get(self.path, 0)

    monkeypatch.setattr(counters, "unsupported_reason", lambda device: None)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(machine.folder))
    monkeypatch.setattr(rapl, "CONTAINER_RAPL_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(rapl, "RaplWraparoundTracker", Tracker)
    monkeypatch.setattr(zeus.device.cpu, "_cpus", None)
    monkeypatch.setattr(zeus.device.gpu, "_gpus", None)
    for name in ("CUDA_VISIBLE_DEVICES", "ZEUSD_SOCK_PATH", "ZEUSD_HOST_PORT", "ZEUSD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    caches = (rapl.rapl_is_available, nvidia.nvml_is_available)
    for cache in caches:
        cache.cache_clear()
    yield machine
    for cache in caches:
        cache.cache_clear()
