"""Forecasts of a training and of a grid as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from earlybird.report.quantities import percent, si
from earlybird.report.table import MISSING, Column, Table, named_columns, print_lines, to_terminal

if TYPE_CHECKING:
    from earlybird.forecast.grid import GridForecast

KEPT_BY_GLOBAL_RANKING = (
    "Where between the extremes a trained ranking will land is not known before it is trained; at p = 0.5 it has kept "
    "25 % to 65 % of the MACs."
)
# Letters of a method's name before it is folded; the longest of ours has 30.
_NAME_WIDTH = 30


def print_forecast(facts: Mapping[str, Any]) -> None:
    """Print the plan, the networks, and a row for each method."""
    shape, width = "x".join(map(str, facts["image_shape"])), facts["width"]
    plan = (
        f"{facts['model']}{'' if width == 1 else f' (width {width:g})'}, {facts['train_images']:,} images of {shape}, "
        f"{facts['epochs']:g} epochs, batch {facts['batch_size']}, p = {facts['prune_ratio']:g}, {facts['precision']}"
    )
    print_lines([plan], style="bold")
    first, last = facts["ticket_epochs"]
    drawn = f"epoch {first:.4g}" if first == last else f"epoch {first:.4g} at the earliest, {last:.4g} at the latest"
    networks = [f"dense: {_network(facts['dense'])}; ticket drawn at {drawn}"]
    for label, network in facts["slim"].items():
        networks.append(f"slim, {label}: {_network(network)}, {percent(network['macs_ratio'])} of the MACs")
    if len(facts["slim"]) > 1:
        networks.append(KEPT_BY_GLOBAL_RANKING)
    print_lines(networks)
    to_terminal(_costs_table(facts))
    if facts["calibration"] is not None:
        to_terminal(_seconds_table(facts))
    print_lines(_notes(facts), style="dim")


def _network(network: Mapping[str, Any]) -> str:
    ratio = network.get("realised_ratio")
    gone = "" if ratio is None else f", {percent(ratio)} of the units gone"
    return f"{si(network['params'])} parameters, {si(network['macs'])} MACs an image{gone}"


def _costs_table(facts: Mapping[str, Any]) -> Table:
    rows = []
    for name, method in facts["methods"].items():
        cases = list(method["cases"].values())
        macs, flops = _range(cases, "macs", "macs_ratio"), _range(cases, "paper_flops", "paper_ratio")
        rows.append((name, macs, flops, _range(cases, "estimated_joules", "estimated_ratio", unit="J", mark="~")))
    headings = ("training MACs", "FLOPs, paper's count", "energy, estimated")
    return Table(named_columns("method", *headings, fold_after=_NAME_WIDTH), rows)


def _seconds_table(facts: Mapping[str, Any]) -> Table:
    planned = {name: method["cases"]["planned"] for name, method in facts["methods"].items()}
    prices = [Column("price", form=".2f")] if next(iter(planned.values()))["price"] is not None else []
    rows = []
    for name, case in planned.items():
        kwh = "not measured" if case["kwh"] is None else f"{case['kwh']:.3g}"
        hours = [f"{case[key] / 3600:.3g}" for key in ("cpu_seconds", "wall_seconds")]
        rows.append((name, *hours, kwh, *([case["price"]] if prices else [])))
    return Table([*named_columns("method", "CPU hours", "hours", "kWh", fold_after=_NAME_WIDTH), *prices], rows)


def _range(cases: list[Mapping[str, Any]], key: str, ratio: str, *, unit: str = "", mark: str = "") -> str:
    """A quantity with its ratio to dense, or the two ends of what it may be."""
    values = [case[key] for case in cases]
    if any(value is None for value in values):
        return MISSING
    shown = list(dict.fromkeys(f"{mark}{si(value, unit)}" for value in values))
    beside = " " if len(cases) == 1 else "\n"
    ratios = list(dict.fromkeys(f"{case[ratio]:.2f}" for case in cases))
    return f"{' to '.join(shown)}{beside}({' to '.join(ratios)})"


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = ["In brackets: divided by dense. MACs as executed, forward and backward, with one reading of the test set."]
    notes += [f"{name}: {method['note']}." for name, method in facts["methods"].items() if method["note"]]
    notes += [f"Left out: {reason}." for reason in facts["left_out"].values()]
    if equal := facts["equal_cost"]:
        notes.append(
            f"At the cost of early_bird: dense for {equal['dense_shorter']:.1f} epochs, or a network of uniform widths "
            f"and the slim one's MACs for {equal['uniform']:.1f}. At the cost of dense: the slim network for "
            f"{equal['scratch_longer']:.1f}."
        )
    if facts["uncounted"]:
        notes.append(f"Not counted, and it may multiply: {', '.join(facts['uncounted'])}.")
    if facts["traffic_reason"]:
        notes.append(f"energy, not estimated: {facts['traffic_reason']}.")
    notes.append(f"~ marks an estimate: counted products and memory traffic at {facts['energy']['estimate']}.")
    if (calibration := facts["calibration"]) is None:
        return notes
    step = {name: f"{1e3 * seconds['wall']:.1f} ms" for name, seconds in calibration["step"].items()}
    notes.append(
        f"Seconds: from {calibration['measured_steps']} measured steps each ({calibration['device']}): dense "
        f"{step['dense']}, slim {step['slim']} a step. energy: {calibration['energy_method']}."
    )
    if calibration["watts"] is not None:
        notes.append(f"kWh: the {calibration['watts']:g} W given, times the hours; nothing was measured.")
    return notes + ([_checked(facts["check"])] if facts.get("check") else [])


def _checked(check: Mapping[str, Any]) -> str:
    if check["reason"]:
        return f"Not checked against {check['run_id']}: {check['reason']}."
    cpu, wall = check["cpu_seconds"], check["wall_seconds"]
    caution = f" Beware: {check['caution']}." if check["caution"] else ""
    return (
        f"Checked against {check['run_id']} ({check['method']}): CPU seconds {cpu['predicted']:,.0f} predicted, "
        f"{cpu['measured']:,.0f} measured ({100 * cpu['error']:+.1f} %); wall {wall['predicted']:,.0f}, "
        f"{wall['measured']:,.0f} ({100 * wall['error']:+.1f} %).{caution}"
    )


def grid_forecast_table(forecast: GridForecast, workers: int) -> Table:
    """Remaining runs of a grid, method by method, with the hours of so many workers."""
    runs, hours = sum(row[2] for row in forecast.rows), sum(row[4] for row in forecast.rows)
    at_once = f", at best {hours / workers:.1f} with {workers} workers of as many threads" if workers > 1 else ""
    steps = f", {forecast.steps} steps measured of each network" if forecast.steps else ""
    notes = [
        f"{runs} of {forecast.nodes} runs and searches are left, {hours:.2f} hours one after another "
        f"({forecast.device}{steps}){at_once}.",
        f"Taken as: slim networks of uniform widths, tickets not drawn yet at {percent(forecast.ticket_at)} of the "
        "schedule, a method without a plan as one dense training. The evaluation is in the hours, not in the MACs; "
        "searches and dense runs that several start from stand once.",
    ]
    columns = [*named_columns("method", "p", "runs", "training MACs"), Column("hours", form=".2f")]
    rows = [(name, ratio, runs, si(macs), hours) for name, ratio, runs, macs, hours in forecast.rows]
    return Table(columns, rows, notes=notes, total=("all", "", runs, "", hours))
