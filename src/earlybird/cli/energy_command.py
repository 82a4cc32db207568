"""`earlybird energy import`: a power meter's log into a run's record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from earlybird.cli.options import Parser
from earlybird.errors import ConfigError

_DESCRIPTION = (
    "Integrate an external power meter's log (a CSV of time and watts) over the phases of a finished run, and write "
    "the joules into its record. Gaps in the log are reported as coverage, never filled."
)


def command(argv: Sequence[str]) -> int:
    """Import a log, then print what it gave for each phase."""
    arguments = list(argv)
    is_help = not arguments or arguments[0] in ("-h", "--help")
    if not is_help and arguments[0] != "import":
        raise ConfigError(f"unknown energy command {arguments[0]!r}; give import, as in `earlybird energy import CSV`")
    parser = Parser("energy import", _DESCRIPTION)
    parser.add_argument("log", type=str, help="CSV with a column of times and a column of power")
    parser.add_setting("--run", str | None, None, "folder of the finished run")
    parser.add_setting("--device", str, "the whole machine, at the plug", "what the meter measured, in your words")
    parser.add_setting("--time-column", str | None, None, "header of the column of times; two columns need no names")
    parser.add_setting("--power-column", str | None, None, "header of the column of power")
    parser.add_setting("--power-unit", Literal["W", "kW", "mW"], "W", "unit of the power column")
    parser.add_setting("--offset", float, 0.0, "seconds to add to the log's times, where its clock differs")
    parser.add_setting("--max-gap", float | None, None, "samples further apart (seconds) leave a gap")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(["--help"] if is_help else arguments[1:])
    if parsed.run is None:
        raise ConfigError("--run is missing; give the folder of the finished run, e.g. --run runs/x")
    from earlybird.runs.energy import MeterReading, import_power_log

    reading = MeterReading(
        path=Path(parsed.log),
        device=parsed.device,
        time_column=parsed.time_column,
        power_column=parsed.power_column,
        power_unit=parsed.power_unit,
        offset_seconds=parsed.offset,
        max_gap_seconds=parsed.max_gap,
    )
    facts = import_power_log(Path(parsed.run), reading)
    print(json.dumps(facts, indent=1) if parsed.json else "\n".join(_lines(facts, parsed.run)))
    return 0


def _lines(facts: dict[str, Any], run: str) -> list[str]:
    lines = [f"{run}: {_shown(facts)} measured by {facts['method']} ({facts['device']})"]
    lines.append(f"  {facts['log']['file']}: {facts['log']['columns']}")
    for name, phase in facts["phases"].items():
        lines.append(f"  {name}: {'not covered by the log' if phase['joules'] is None else _shown(phase)}")
    if facts["gaps"]:
        seconds = sum(end - start for start, end in facts["gaps"])
        lines.append(f"  {len(facts['gaps'])} gaps of {seconds:.1f} s in all are in no figure")
    if facts["idle_watts"] is not None:
        lines.append(f"  {facts['idle_watts']:.1f} W before and after the run; it is not taken off")
    return lines


def _shown(figure: dict[str, Any]) -> str:
    return f"{figure['joules']:,.1f} J over {100 * figure['coverage']:.1f} % of the seconds"
