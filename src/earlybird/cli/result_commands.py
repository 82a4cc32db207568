"""`earlybird evaluate`, `report`, `export` and `energy import`: what is asked of finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from earlybird.cli.options import JSON, Flags, Parser
from earlybird.errors import ConfigError

_ENERGY = (
    "Integrate an external power meter's log (a CSV of time and watts) over the phases of a finished run, and write "
    "the joules into its record. Gaps in the log are reported as coverage, never filled."
)
_ENERGY_FLAGS: Flags = {
    "--run": (str | None, None, "folder of the finished run"),
    "--device": (str, "the whole machine, at the plug", "what the meter measured, in your words"),
    "--time-column": (str | None, None, "header of the column of times; two columns need no names"),
    "--power-column": (str | None, None, "header of the column of power"),
    "--power-unit": (Literal["W", "kW", "mW"], "W", "unit of the power column"),
    "--offset": (float, 0.0, "seconds to add to the log's times, where its clock differs"),
    "--max-gap": (float | None, None, "samples further apart (seconds) leave a gap"),
    **JSON,
}
_MODEL: Flags = {"--model": (str | None, None, "name the run's model again if it is your code")}
_DATA: Flags = {"--data": (str | None, None, "name the run's data again if it is your code")}
_EXPORT_FLAGS: Flags = {
    "--onnx": ("store_true", False, "ONNX (needs the extra `export`)"),
    "--pt2": ("store_true", False, "torch.export program"),
    "--out": (str | None, None, "folder to write into; default the run folder"),
    **_MODEL,
}


def evaluate_command(argv: Sequence[str]) -> None:
    """Print the test accuracy and loss of a finished run from its files alone, or JSON."""
    flags = {"--device": (str, "auto", "auto, cpu, cuda or cuda:N"), **_MODEL, **_DATA, **JSON}
    parser = Parser("evaluate", "Rebuild the network of a finished run and read its test set.", flags)
    parser.add_argument("run", type=str, help="run folder")
    parsed = parser.parse_args(list(argv))
    from earlybird.runs.run import run_evaluation

    trusted = [name for name in (parsed.model, parsed.data) if name is not None]
    result = run_evaluation(parsed.run, device=parsed.device, trusted=trusted)
    if parsed.json:
        print(json.dumps(asdict(result)))
    else:
        percent = f"{100 * result.accuracy:.2f} %"
        if result.top5_accuracy is not None:
            percent += f", top-5 {100 * result.top5_accuracy:.2f} %"
        print(f"test accuracy {percent} ({result.correct} of {result.samples}), loss {result.loss:.4f}")


def report_command(argv: Sequence[str]) -> None:
    """Print the comparison table, for the terminal or as Markdown."""
    flags = {"--markdown": ("store_true", False, "print Markdown")}
    parser = Parser("report", "Compare finished runs: accuracy, parameters, FLOPs, seconds.", flags)
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders that hold them")
    parsed = parser.parse_args(list(argv))
    from earlybird.report.comparison import comparison_tables, print_comparison
    from earlybird.report.table import to_markdown
    from earlybird.runs.record_file import load_records

    records = load_records(parsed.runs)
    if parsed.markdown:
        print(to_markdown(*comparison_tables(records)))
    else:
        print_comparison(records)


def export_command(argv: Sequence[str]) -> None:
    """Write the network of a finished run as ONNX or .pt2 and say how far it is from its source."""
    description = "Write the network of a finished run as ONNX or .pt2, and compare it with its source."
    parser = Parser("export", description, _EXPORT_FLAGS)
    parser.add_argument("run", type=str, help="run folder")
    parsed = parser.parse_args(list(argv))
    if not (parsed.onnx or parsed.pt2):
        raise ConfigError("no format given; add --onnx, --pt2 or both")
    from earlybird.integrations.export import export_onnx, export_pt2
    from earlybird.runs.folder import load_network

    model, spec = load_network(Path(parsed.run), trusted=[parsed.model] if parsed.model else [])
    folder = Path(parsed.out or parsed.run)
    folder.mkdir(parents=True, exist_ok=True)
    example = spec.example_input().repeat(2, 1, 1, 1)
    for wanted, write, name in ((parsed.onnx, export_onnx, "model.onnx"), (parsed.pt2, export_pt2, "model.pt2")):
        if wanted:
            difference = write(model, example, folder / name)
            print(f"{folder / name}: relative difference to the run's network {difference:.1e}")


def energy_command(argv: Sequence[str]) -> None:
    """Import a power meter's log into a run's record, then print what it gave for each phase."""
    is_help = not argv or argv[0] in ("-h", "--help")
    if not is_help and argv[0] != "import":
        raise ConfigError(f"unknown energy command {argv[0]!r}; give import, as in `earlybird energy import CSV`")
    parser = Parser("energy import", _ENERGY, _ENERGY_FLAGS)
    parser.add_argument("log", type=str, help="CSV with a column of times and a column of power")
    parsed = parser.parse_args(["--help"] if is_help else list(argv[1:]))
    if parsed.run is None:
        raise ConfigError("--run is missing; give the folder of the finished run, e.g. --run runs/x")
    from earlybird.energy.power_log import MeterReading
    from earlybird.runs.energy import import_power_log

    columns = parsed.time_column, parsed.power_column, parsed.power_unit
    reading = MeterReading(Path(parsed.log), parsed.device, *columns, parsed.offset, parsed.max_gap)
    facts = import_power_log(Path(parsed.run), reading)
    print(json.dumps(facts, indent=1) if parsed.json else "\n".join(_energy_lines(facts, parsed.run)))


def _energy_lines(facts: dict[str, Any], run: str) -> list[str]:
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
