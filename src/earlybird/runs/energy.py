"""The energy of a run: what its counter measured, or why it did not, and what is estimated.

In a record the two stand apart (`energy.measured`, by method, and `energy.estimated`); every figure has its method, its
device and its coverage, the share of the run's seconds that it is of, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earlybird.cost import CostLedger, PhaseCost
from earlybird.energy import EnergyCounter, estimated_joules, unit_energies


def energy_facts(ledger: CostLedger, counter: EnergyCounter, traffic_reason: str = "") -> dict[str, Any]:
    """The record's `energy`: measured by the run's own counters, or why not, and the estimate beside it.

    Args:
        ledger: all phases of the run.
        counter: the counter of this process; a resumed run may have had another.
        traffic_reason: why the memory traffic of a network is not known.
    """
    total, phases = ledger.total(), ledger.merged()
    methods = dict.fromkeys(cost.energy_method for cost in ledger if cost.joules is not None)
    measured = {method: _measured(ledger, method) for method in methods}
    for method, facts in measured.items():
        facts["idle_watts"] = counter.idle_watts if method == counter.method else None
    estimated = _estimate(total, phases)
    return {
        "measured": measured,
        "reason": None if measured else total.energy_method,
        "notes": list(counter.notes),
        "estimated": estimated,
        "estimate_reason": None if estimated else _why_no_estimate(total, traffic_reason),
    }


def _measured(ledger: CostLedger, method: str) -> dict[str, Any]:
    """What one counter measured, in whatever stretches it did; coverage is of all seconds of the run, or phase."""
    stretches = [cost for cost in ledger if cost.joules is not None and cost.energy_method == method]

    def part(mine: Sequence[PhaseCost], wall_seconds: float) -> dict[str, Any]:
        covered = sum(cost.energy_coverage * cost.wall_seconds for cost in mine)
        joules = sum(cost.joules or 0.0 for cost in mine) if mine else None
        return {"joules": joules, "coverage": min(1.0, covered / wall_seconds) if wall_seconds else 0.0}

    phases = {
        name: part([cost for cost in stretches if cost.phase == name], whole.wall_seconds)
        for name, whole in ledger.merged().items()
    }
    whole = part(stretches, ledger.total().wall_seconds)
    device = "; ".join(dict.fromkeys(cost.energy_device for cost in stretches))
    return whole | {"method": method, "device": device, "phases": phases}


def _why_no_estimate(total: PhaseCost, traffic_reason: str) -> str:
    if sum(total.macs_by_width.values()) != total.macs:
        return "a part of the run was counted by a version that knew no operand widths"
    if total.traffic_bytes is None:
        return traffic_reason or "the memory traffic of a part of the run was not counted"
    return f"the table has no unit energy for products of {', '.join(total.macs_by_width)} bits"


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
