"""Energy sources of this machine that zeus can read: one per counter, found by asking the drivers.

Each finder appends what it could not get, and why, to the notes. zeus is imported within the functions, never before.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earlybird.energy.sharing import is_split
from earlybird.errors import reason

# Where zeus looks: on the machine, and in a container made by its recipe.
RAPL_FOLDERS = ("/sys/class/powercap/intel-rapl", "/zeus_sys/class/powercap/intel-rapl")


def unsupported_reason(device: torch.device) -> str | None:
    """Reason why this machine has no counter; None if zeus must be asked, which takes two seconds."""
    is_pc = sys.platform == "linux" and platform.machine() in ("x86_64", "i686")  # hence no Jetson, no Apple silicon
    if device.type == "cpu" and is_pc and not any(Path(folder).exists() for folder in RAPL_FOLDERS):
        return f"RAPL: no {RAPL_FOLDERS[0]}"
    return None


@dataclass(frozen=True)
class EnergySource:
    """One counter within a measurement of zeus.

    name: what it covers. read: joules of it in a `zeus.monitor.energy.Measurement`. range_uj: the microjoules after
    which it begins again at zero; None where it never does, or where nobody knows.
    """

    name: str
    read: Callable[[Any], float]
    range_uj: int | None = None

    def joules(self, measurement: Any) -> float:
        """Joules of one window, with counter wraps undone.

        RAPL counters wrap every few minutes to half an hour. zeus counts the wraps in a process of its own that looks
        once a second: a window that ends before it looked is too small by one range, the next one too large, and a wrap
        while that process starts is never noticed. Each is off by whole ranges, hence exact modulo the range, as long
        as the window itself uses less than one; `ZeusCounter` keeps its windows that short.

        Raises:
            ValueError: the counter went backwards, and its range is unknown.
        """
        joules = self.read(measurement)
        if self.range_uj is not None:
            # In whole microjoules: a rounding error below zero would come out as a whole range.
            return round(joules * 1e6) % self.range_uj / 1e6
        if joules < 0:
            raise ValueError(f"{self.name} went backwards by {-joules:.3g} J")
        return joules


def chip_source() -> tuple[str, EnergySource] | None:
    """Source of the whole chip: an engine that idles at zero must not hold up the rest."""
    from zeus.device import get_soc
    from zeus.device.soc.common import ZeusSoCInitError

    try:
        chip = get_soc()
    except ZeusSoCInitError:
        return None
    found = chip.get_available_metrics()
    if type(chip).__name__ == "Jetson":
        # The rail of the module holds the others.
        fields = ["total_energy_mj"] if "total_energy_mj" in found else ["cpu_energy_mj", "gpu_energy_mj"]
        method, name = "jetson", "Jetson"
    else:
        # The CPU's total holds its cores and clusters. GPU SRAM is left out: it is small, and Apple does not say
        # whether the GPU holds it.
        fields = ["cpu_total_mj", "dram_mj", "gpu_mj", "ane_mj"]
        method, name = "apple", "Apple silicon"
    fields = [field for field in fields if field in found]
    if not fields:
        return None
    parts = ", ".join(field.split("_")[0] for field in fields)

    def read(measurement: Any) -> float:
        return float(sum(getattr(measurement.soc_energy, field) for field in fields)) / 1e3

    return method, EnergySource(f"{name} ({parts})", read)


def gpu_source(index: int, notes: list[str]) -> tuple[str, EnergySource] | None:
    """Method and source of one GPU by torch's index, which zeus maps through CUDA_VISIBLE_DEVICES."""
    from zeus.device import get_gpus
    from zeus.device.gpu import nvidia

    amd = torch.version.hip is not None
    label = "AMD SMI" if amd else "NVML"
    try:
        if not amd:
            nvidia.pynvml.nvmlInit()  # zeus asks the same and keeps the answer to itself
        gpus = get_gpus()
        name = gpus.get_name(index)
        if not amd and is_split(gpu_handle(index)):
            notes.append(f"NVML: GPU {index} is split by MIG, and its counter is of the whole card")
            return None
        if not amd and name != (seen := torch.cuda.get_device_name(index)):
            # CUDA counts the fastest GPU first, NVML by slot.
            notes.append(f"NVML: GPU {index} is {name}, CUDA's is {seen}; set CUDA_DEVICE_ORDER=PCI_BUS_ID")
            return None
        counts = gpus.supports_get_total_energy_consumption(index)
        if counts:
            gpus.get_total_energy_consumption(index)
    except Exception as error:
        notes.append(f"{label}: {reason(error)}")
        return None
    method = ("amdsmi" if amd else "nvml") + ("" if counts else " (sampled power)")
    return method, EnergySource(f"GPU {index} ({name})", lambda measurement: float(measurement.gpu_energy[index]))


def gpu_handle(index: int) -> Any:
    """NVML's handle of a GPU by torch's index."""
    from zeus.device import get_gpus

    return get_gpus().gpus[index].handle


def rapl_sources(notes: list[str]) -> dict[int, list[EnergySource]]:
    """Sources by zeus's index of the package; notes tell what is missing."""
    from zeus.device import get_cpus
    from zeus.device.cpu import rapl
    from zeus.device.cpu.common import ZeusCPUNoPermissionError

    if not rapl.rapl_is_available():
        notes.append(f"RAPL: no {rapl.RAPL_DIR}")
        return {}
    try:
        # ZeusMonitor would swallow the refusal.
        cpus = get_cpus()
        readings = [cpus.get_total_energy_consumption(index) for index in range(len(cpus))]
    except (ZeusCPUNoPermissionError, PermissionError):
        cure = "sudo chmod a+r $(find /sys/devices/virtual/powercap -name energy_uj), or run zeusd"
        notes.append(f"RAPL: only root may read energy_uj; {cure}")
        return {}
    except Exception as error:
        notes.append(f"RAPL: {reason(error)}")
        return {}
    packages = {}
    for index, reading in enumerate(readings):
        zone = Path(cpus.rapl_dir) / f"intel-rapl:{cpus.cpus[index].cpu_index}"
        if found := _package_sources(index, zone, reading, notes):
            packages[index] = found
    if not packages:
        notes.append("RAPL: no package that counts")
    return packages


def _package_sources(index: int, zone: Path, reading: Any, notes: list[str]) -> list[EnergySource]:
    """Sources of the package and its DRAM; counters that stand at zero (virtual machines) are left out."""
    if not (_text(zone / "name") or "package").startswith("package"):
        return []  # psys, which counts the packages again
    if not reading.cpu_mj:
        notes.append(f"RAPL: CPU package {index} stands at zero")
        return []
    package = EnergySource(f"CPU package {index}", lambda measured: float(measured.cpu_energy[index]), _range_uj(zone))
    if not reading.dram_mj:
        notes.append(f"RAPL: no DRAM counter in package {index}")
        return [package]
    inner = next((path for path in zone.glob("intel-rapl:*") if _text(path / "name") == "dram"), zone / "dram")
    dram = EnergySource(f"DRAM {index}", lambda measured: float(measured.dram_energy[index]), _range_uj(inner))
    return [package, dram]


def _range_uj(zone: Path) -> int | None:
    """Range of the counter, which everybody may read; None where the zone is out of sight (zeusd in a container)."""
    text = _text(zone / "max_energy_range_uj")
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
