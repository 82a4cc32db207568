"""`energy` of a record: joules by the run's counter and by an external meter, and an estimate beside them.

The three stand apart (`energy.measured`, by method, and `energy.estimated`); every figure has its method, its device
and its coverage, the share of the run's seconds that it is of, in [0, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from earlybird.cost import CostLedger, PhaseCost
from earlybird.energy import EnergyCounter, estimated_joules, unit_energies
from earlybird.energy.power_log import MeteredEnergy, MeterReading, PowerLog, idle_watts, integrate, read_power_log
from earlybird.errors import ConfigError, DataError, RunFolderError, reason
from earlybird.runs.folder import folder_lock
from earlybird.runs.record_file import record_of, write_record

EXTERNAL_METER = "external_meter"


def energy_facts(ledger: CostLedger, counter: EnergyCounter, traffic_reason: str = "") -> dict[str, Any]:
    """`energy` of a record: joules by the run's own counters, or the reason why not, and the estimate.

    counter is that of this process; a resumed run may have had another. traffic_reason: why the memory traffic of a
    network is not known.
    """
    total, phases = ledger.total(), ledger.merged()
    methods = dict.fromkeys(cost.energy_method for cost in ledger if cost.joules is not None)
    idle = {counter.method: counter.idle_watts}
    measured = {method: _measured(ledger, method) | {"idle_watts": idle.get(method)} for method in methods}
    estimated = _estimate(total, phases)
    return {
        "measured": measured,
        "reason": None if measured else total.energy_method,
        "notes": [*counter.notes, *shared_card(ledger)],
        "estimated": estimated,
        "estimate_reason": None if estimated else _why_no_estimate(total, traffic_reason),
    }


def shared_card(ledger: CostLedger) -> list[str]:
    """Flag of a run that was charged the joules of others on its GPU; empty without."""
    shared = [(cost.energy_shared_with, cost.phase) for cost in ledger if cost.energy_shared_with]
    if not shared:
        return []
    most, phases = max(shared)[0], ", ".join(dict.fromkeys(phase for _, phase in shared))
    others = "1 other process" if most == 1 else f"up to {most} other processes"
    return [f"joules were measured on a card shared with {others} ({phases}) and are theirs too"]


def _measured(ledger: CostLedger, method: str) -> dict[str, Any]:
    """Joules by one counter, in the stretches that it measured; coverage is of all seconds of the run, or phase."""
    mine = CostLedger()
    for cost in ledger:
        mine.add(cost if cost.energy_method == method else replace(cost, joules=None, energy_coverage=0.0))
    total = mine.total()
    phases = {name: _figure(phase) for name, phase in mine.merged().items()}
    return _figure(total) | {"method": method, "device": total.energy_device, "phases": phases}


def _figure(cost: PhaseCost) -> dict[str, Any]:
    return {"joules": cost.joules, "coverage": cost.energy_coverage, "shared_with": cost.energy_shared_with}


def _why_no_estimate(total: PhaseCost, traffic_reason: str) -> str:
    if sum(total.macs_by_width.values()) != total.macs:
        return "a part of the run was counted by a version that knew no operand widths"
    if total.traffic_bytes is None:
        return traffic_reason or "the memory traffic of a part of the run was not counted"
    return f"the table has no unit energy for products of {', '.join(total.macs_by_width)} bits"


def _estimate(total: PhaseCost, phases: Mapping[str, PhaseCost]) -> dict[str, Any] | None:
    """Joules of the counted work by a published table; None where a part of the run was not counted."""
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
        "phases": {name: {"joules": _estimated(cost)} for name, cost in phases.items()},
    }


def _estimated(cost: PhaseCost) -> float | None:
    # Nothing was counted, or a part by a version that knew no widths.
    if not cost.macs or sum(cost.macs_by_width.values()) != cost.macs:
        return None
    return estimated_joules(cost.macs_by_width, cost.traffic_bytes)


def import_power_log(folder: Path, reading: MeterReading) -> dict[str, Any]:
    """Integrate a power meter's log over the phases of a finished run and write the joules into its record.

    What other counters measured stays; a log imported before is replaced.

    Returns:
        What stands in the record under `energy.measured.external_meter`.

    Raises:
        RunFolderError: the folder holds no finished run, or one whose record does not say when its phases ran.
        ConfigError, DataError: the log cannot be read, or covers no moment of the run.
    """
    record = record_of(folder)
    phases_of_run = _phases(record, folder)
    log = read_power_log(reading)
    phases = {name: _integrated(log, [phase], reading) for name, phase in phases_of_run.items()}
    total = _integrated(log, list(phases_of_run.values()), reading)
    everything = [span for phase in phases_of_run.values() for span in phase.spans]
    if total.joules is None:
        first, last = min(start for start, _ in everything), max(end for _, end in everything)
        went = f"from {log.times[0]:.0f} to {log.times[-1]:.0f} (Unix seconds), the run from {first:.0f} to {last:.0f}"
        cure = "give the log of that time, or --offset SECONDS where its clock differs"
        raise DataError(f"{reading.path} covers no moment of the run: it goes {went}; {cure}")
    facts = {
        "joules": total.joules,
        "method": EXTERNAL_METER,
        "device": reading.device,
        "coverage": total.coverage,
        "idle_watts": idle_watts(log, everything),
        "phases": {name: {"joules": part.joules, "coverage": part.coverage} for name, part in phases.items()},
        "gaps": [list(gap) for gap in total.gaps],
        "log": {
            "file": reading.path.name,
            "columns": log.columns,
            "sha256": hashlib.sha256(reading.path.read_bytes()).hexdigest(),
            "offset_seconds": reading.offset_seconds,
            "max_gap_seconds": reading.max_gap_seconds,
        },
    }
    with folder_lock(folder):
        record = record_of(folder)  # As it stands now: another log may have been imported meanwhile.
        energy = record.get("energy") or {"reason": None, "notes": [], "estimated": None, "estimate_reason": None}
        record["energy"] = energy | {"measured": (energy.get("measured") or {}) | {EXTERNAL_METER: facts}}
        write_record(folder, record)
    return facts


def _phases(record: Mapping[str, Any], folder: Path) -> dict[str, PhaseCost]:
    """Phases of a record, each with the moments when it ran.

    Raises:
        RunFolderError: the record does not say when, or is no record.
    """
    path = folder / "record.json"
    try:
        # Of a newer version it may hold more.
        known = {field.name for field in fields(PhaseCost)}
        phases = {
            name: PhaseCost(**{key: value for key, value in cost.items() if key in known})
            for name, cost in record["cost"]["phases"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunFolderError(f"{path} holds no costs that can be read ({reason(error)}); run it again") from error
    if missing := [name for name, phase in phases.items() if not phase.spans]:
        why = "an older version wrote it; run it again beside the meter"
        raise RunFolderError(f"record '{path}' does not say when its phases ran ({', '.join(missing)}): {why}")
    return phases


def _integrated(log: PowerLog, phases: Sequence[PhaseCost], reading: MeterReading) -> MeteredEnergy:
    """Joules of some phases; coverage is of all their seconds, also of a part that does not say when it ran."""
    spans = [span for phase in phases for span in phase.spans]
    metered = integrate(log, spans, max_gap_seconds=reading.max_gap_seconds)
    seconds = max(metered.span_seconds, sum(phase.wall_seconds for phase in phases))
    return replace(metered, coverage=min(1.0, metered.covered_seconds / seconds) if seconds else 0.0)
