"""Joules of counted work by a published table of unit energies: an estimate, never a measurement.

Products by operand width times picojoules each, plus bytes moved times picojoules per byte of DRAM traffic
(`docs/method.md` section 6). Nothing else is in it: no caches, no leakage, no idle machine, no data loading; and it
charges all traffic to the DRAM. It serves to compare runs, and it stands in no column with measured joules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from earlybird.errors import ConfigError


@dataclass(frozen=True)
class UnitEnergies:
    """Unit energies of a published table of `unit_energy.json`.

    name: its key, with the file's version. source: where it was published. device: what it is of. mac_picojoules: width
    in bits of the wider operand -> energy of one multiply-accumulate. dram_picojoules_per_byte: read or written.
    """

    name: str
    source: str
    device: str
    mac_picojoules: Mapping[int, float]
    dram_picojoules_per_byte: float


@cache
def unit_energies(name: str | None = None) -> UnitEnergies:
    """A table of `unit_energy.json`, by default the one it names as default.

    Raises:
        ConfigError: no table has this name.
    """
    data: dict[str, Any] = json.loads((files("earlybird.energy") / "unit_energy.json").read_text(encoding="utf-8"))
    key = data["default"] if name is None else name
    if key not in data["tables"]:
        raise ConfigError(f"unit-energy table is {key!r}; give one of {', '.join(data['tables'])}")
    table = data["tables"][key]
    macs = {int(bits): float(energy) for bits, energy in table["mac_picojoules"].items()}
    name, dram = f"{key} (version {data['version']})", float(table["dram_picojoules_per_byte"])
    return UnitEnergies(name, table["source"], table["device"], macs, dram)


def estimated_joules(macs_by_width: Mapping[str, int], traffic_bytes: int | None) -> float | None:
    """Joules of products and memory traffic by `unit_energies()`; None for unknown traffic or a width it lacks.

    macs_by_width: bits of the two operands, such as "16x16" -> multiply-accumulates; the wider one decides.

    Example:
        estimated_joules({"32x32": 10**12}, 0)   # 4.6
    """
    table = unit_energies()
    wider = {width: max(map(int, width.split("x"))) for width in macs_by_width}
    if traffic_bytes is None or not set(wider.values()) <= set(table.mac_picojoules):
        return None
    compute = sum(macs * table.mac_picojoules[wider[width]] for width, macs in macs_by_width.items())
    return (compute + traffic_bytes * table.dram_picojoules_per_byte) * 1e-12
