"""The energy of a run: what its counter measured, or why it did not, and what is estimated.

In a record the two stand apart (`energy.measured`, by method, and `energy.estimated`); every figure has its method, its
device and its coverage, the share of the run's seconds that it is of, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earlybird.cost import CostLedger, EnergyCounter, PhaseCost, estimated_joules, unit_energies


def energy_facts(ledger: CostLedger, counter: EnergyCounter) -> dict[str, Any]:
    """The record's `energy`: measured by the run's own counter, or why not, and the estimate beside it."""
    total, phases = ledger.total(), ledger.merged()
    measured = {}
    if total.joules is not None:
        measured[total.energy_method] = {
            "joules": total.joules,
            "method": total.energy_method,
            "device": total.energy_device,
            "coverage": total.energy_coverage,
            "idle_watts": counter.idle_watts,
            "phases": {
                name: {"joules": cost.joules, "coverage": cost.energy_coverage} for name, cost in phases.items()
            },
        }
    return {
        "measured": measured,
        "reason": None if measured else total.energy_method,
        "notes": list(counter.notes),
        "estimated": _estimate(total, phases),
    }


def _estimate(total: PhaseCost, phases: Mapping[str, PhaseCost]) -> dict[str, Any] | None:
    """Joules of the counted work by a published table; None where a part of the run was not counted."""
    joules = {name: _estimated(cost) for name, cost in phases.items()}
    whole = _estimated(total)
    if whole is None:
        return None
    table = unit_energies()
    counted = sum(cost.wall_seconds for cost in phases.values() if cost.macs)
    return {
        "joules": whole,
        "method": f"estimated: {table.name}",
        "device": table.device,
        "coverage": counted / total.wall_seconds if total.wall_seconds else 0.0,
        "source": table.source,
        "phases": {name: {"joules": value} for name, value in joules.items()},
    }


def _estimated(cost: PhaseCost) -> float | None:
    if not cost.macs:
        return None
    if sum(cost.macs_by_width.values()) != cost.macs:  # A part was counted by a version that knew no widths.
        return None
    return estimated_joules(cost.macs_by_width, cost.traffic_bytes)
