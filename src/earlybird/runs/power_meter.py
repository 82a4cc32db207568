"""A power meter's log, integrated over the phases of a finished run: the paper's own way to measure energy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from earlybird.atomic import write_atomically
from earlybird.cost import PhaseCost
from earlybird.energy.power_log import MeteredEnergy, PowerLog, idle_watts, integrate, read_power_log
from earlybird.errors import ConfigError, DataError, RunFolderError
from earlybird.runs.folder import read_record

EXTERNAL_METER = "external_meter"


@dataclass(frozen=True)
class MeterReading:
    """How to read a power meter's log.

    Attributes:
        path: the CSV.
        device: what the meter stood before, in the user's words.
        time_column: name of the column of times; found by its header where None.
        power_column: the same for watts.
        offset_seconds: added to the log's times, where its clock is not the run's.
        max_gap_seconds: samples further apart leave a gap; by default 5 times the usual interval.
    """

    path: Path
    device: str = "the whole machine, at the plug"
    time_column: str | None = None
    power_column: str | None = None
    offset_seconds: float = 0.0
    max_gap_seconds: float | None = None


def import_power_log(folder: Path, reading: MeterReading) -> dict[str, Any]:
    """Integrate a power meter's log over the phases of a finished run and write the joules into its record.

    What other counters measured stays; a log imported before is replaced.

    Args:
        folder: the run folder.
        reading: the log, and how to read it.

    Returns:
        What stands in the record under `energy.measured.external_meter`.

    Raises:
        RunFolderError: the folder holds no finished run, or one whose record does not say when its phases ran.
        DataError: the log cannot be read, or covers no moment of the run.
    """
    record = read_record(folder)
    if record is None:
        raise RunFolderError(f"no finished run in '{folder}'; give the folder of a run that has a record.json")
    phases_of_run = _phases(record, folder)
    log = read_power_log(reading.path, time_column=reading.time_column, power_column=reading.power_column)
    phases = {name: _integrated(log, [phase], reading) for name, phase in phases_of_run.items()}
    total = _integrated(log, list(phases_of_run.values()), reading)
    everything = [span for phase in phases_of_run.values() for span in phase.spans]
    if total.joules is None:
        raise DataError(_no_overlap(reading, log, everything))
    facts = {
        "joules": total.joules,
        "method": EXTERNAL_METER,
        "device": reading.device,
        "coverage": total.coverage,
        "idle_watts": idle_watts(log, everything, offset_seconds=reading.offset_seconds),
        "phases": {name: {"joules": part.joules, "coverage": part.coverage} for name, part in phases.items()},
        "gaps": [list(gap) for gap in total.gaps],
        "log": {
            "file": reading.path.name,
            "sha256": hashlib.sha256(reading.path.read_bytes()).hexdigest(),
            "offset_seconds": reading.offset_seconds,
            "max_gap_seconds": reading.max_gap_seconds,
        },
    }
    energy = record.get("energy") or {"reason": None, "notes": [], "estimated": None, "estimate_reason": None}
    record["energy"] = energy | {"measured": (energy.get("measured") or {}) | {EXTERNAL_METER: facts}}
    write_atomically(folder / "record.json", json.dumps(record, indent=1).encode())
    return facts


def _phases(record: Mapping[str, Any], folder: Path) -> dict[str, PhaseCost]:
    """The phases of a record, each with the moments when it ran.

    Raises:
        RunFolderError: the record does not say when, or is no record.
    """
    path = folder / "record.json"
    try:
        phases = {name: PhaseCost(**cost) for name, cost in record["cost"]["phases"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunFolderError(f"{path} holds no costs that can be read ({error}); run it again") from error
    if missing := [name for name, phase in phases.items() if not phase.spans]:
        raise RunFolderError(
            f"record '{path}' does not say when its phases ran ({', '.join(missing)}): an older version wrote it; run "
            "it again beside the meter"
        )
    return phases


def _integrated(log: PowerLog, phases: Sequence[PhaseCost], reading: MeterReading) -> MeteredEnergy:
    """Joules of some phases; coverage is of all their seconds, also of a part that does not say when it ran."""
    spans = [span for phase in phases for span in phase.spans]
    metered = integrate(log, spans, max_gap_seconds=reading.max_gap_seconds, offset_seconds=reading.offset_seconds)
    seconds = max(metered.span_seconds, sum(phase.wall_seconds for phase in phases))
    return replace(metered, coverage=min(1.0, metered.covered_seconds / seconds) if seconds else 0.0)


def _no_overlap(reading: MeterReading, log: PowerLog, spans: list[tuple[float, float]]) -> str:
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    begins, ends = float(log.times[0]) + reading.offset_seconds, float(log.times[-1]) + reading.offset_seconds
    return (
        f"{reading.path} covers no moment of the run: it goes from {begins:.0f} to {ends:.0f} (Unix seconds), the run "
        f"from {first:.0f} to {last:.0f}; give the log of that time, or --offset SECONDS where its clock differs"
    )
