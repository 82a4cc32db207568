"""A power meter's log, integrated over the phases of a finished run: the paper's own way to measure energy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earlybird.atomic import write_atomically
from earlybird.cost.power_log import MeteredEnergy, PowerLog, idle_watts, integrate, read_power_log
from earlybird.errors import DataError, RunFolderError
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
    spans = _spans(record, folder)
    log = read_power_log(reading.path, time_column=reading.time_column, power_column=reading.power_column)
    phases = {name: _integrated(log, pieces, reading) for name, pieces in spans.items()}
    everything = [span for pieces in spans.values() for span in pieces]
    total = _integrated(log, everything, reading)
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
    energy = record.setdefault("energy", {"measured": {}, "reason": None, "notes": [], "estimated": None})
    energy["measured"][EXTERNAL_METER] = facts
    write_atomically(folder / "record.json", json.dumps(record, indent=1).encode())
    return facts


def _spans(record: Mapping[str, Any], folder: Path) -> dict[str, list[tuple[float, float]]]:
    phases = record["cost"]["phases"]
    spans = {name: [(start, end) for start, end in cost.get("spans") or ()] for name, cost in phases.items()}
    if missing := [name for name, pieces in spans.items() if not pieces]:
        raise RunFolderError(
            f"record '{folder / 'record.json'}' does not say when its phases ran ({', '.join(missing)}): an older "
            "version wrote it; run it again beside the meter"
        )
    return spans


def _integrated(log: PowerLog, spans: list[tuple[float, float]], reading: MeterReading) -> MeteredEnergy:
    return integrate(log, spans, max_gap_seconds=reading.max_gap_seconds, offset_seconds=reading.offset_seconds)


def _no_overlap(reading: MeterReading, log: PowerLog, spans: list[tuple[float, float]]) -> str:
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    begins, ends = float(log.times[0]) + reading.offset_seconds, float(log.times[-1]) + reading.offset_seconds
    return (
        f"{reading.path} covers no moment of the run: it goes from {begins:.0f} to {ends:.0f} (Unix seconds), the run "
        f"from {first:.0f} to {last:.0f}; give the log of that time, or --offset SECONDS where its clock differs"
    )
