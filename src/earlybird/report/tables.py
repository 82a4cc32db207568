"""The comparison of methods as a terminal table and as Markdown: mean ± sample standard deviation over seeds, with n.

Each quantity stands beside its ratio to dense; a ticket that saves nothing shows 1.00 or more, and a line says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from earlybird.report.canvas import percent
from earlybird.report.comparison import Row, RunGroup, Spread, comparison_rows, group_rows
from earlybird.report.energy import COVERAGE, ESTIMATED, MEASURED, WHOLE, measured_methods

__all__ = ["comparison_rows", "markdown_comparison", "print_comparison", "si"]

Columns = dict[str, Callable[[RunGroup], str]]

MISSING = "–"
PREFIXES = ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))
HOW_TO_READ = (
    "Mean ± sample standard deviation over n seeds (no ± where all agree). In brackets: divided by the dense run of "
    "the same model, data, epochs and seed; below 1.00 is saved. Training cost counts search, training and evaluation."
)


def print_comparison(records: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print one table per model, data set and schedule.

    Args:
        records: as `load_records` gives them; any mixture.
        console: where to print; the standard output by default.
    """
    console = console or Console()
    for topic, groups in group_rows(comparison_rows(records)).items():
        console.print(_heading(topic), style="bold", markup=False, highlight=False)
        columns = _columns(groups)
        for beside in _that_fit(groups, columns, console.width):
            console.print(_terminal_table(beside, columns))
        for note in _notes(groups):
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()


def _that_fit(groups: Sequence[RunGroup], columns: Columns, width: int) -> list[list[RunGroup]]:
    """Split the groups, in order, into tables of at most `width` letters, yet of at least one group each."""
    labels = max(map(len, columns)) + 4  # three letters around a cell, one more at the left edge
    tables: list[list[RunGroup]] = []
    room = 0
    for group in groups:
        need = max(len(cell(group)) for cell in columns.values()) + 3
        if not tables or need > room:
            tables.append([])
            room = width - labels
        tables[-1].append(group)
        room -= need
    return tables


def _terminal_table(groups: Sequence[RunGroup], columns: Columns) -> Table:
    """Quantities down, methods across: what is compared stands side by side, and a terminal of 80 letters is enough."""
    table = Table()
    across = [list(columns), *([cell(group) for cell in columns.values()] for group in groups)]
    for place, (name, *_) in enumerate(across):
        table.add_column(Text(name), justify="left" if place == 0 else "right", overflow="fold")
    for row in list(zip(*across, strict=True))[1:]:
        table.add_row(*map(Text, row))
    return table


def markdown_comparison(records: Sequence[Mapping[str, Any]]) -> str:
    """The same tables in Markdown, each under a heading of its own; ends with a newline."""
    blocks = []
    for topic, groups in group_rows(comparison_rows(records)).items():
        columns = _columns(groups)
        lines = [f"### {_heading(topic)}", "", markdown_line(list(columns))]
        lines.append("|---|" + "---:|" * (len(columns) - 1))
        lines += [markdown_line([cell(group) for cell in columns.values()]) for group in groups]
        blocks.append("\n".join([*lines, "", *(f"{note}  " for note in _notes(groups))]).rstrip())
    return "\n\n".join(blocks) + "\n"


def _heading(topic: tuple[str, str, int]) -> str:
    model, data, epochs = topic
    return f"{model} on {data}, {epochs} epochs"


def markdown_line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _columns(groups: Sequence[RunGroup]) -> Columns:
    """`COLUMNS`, with the energies that any of the groups has."""
    *others, runs = COLUMNS.items()
    return dict([*others, *energy_columns([row for group in groups for row in group.rows]).items(), runs])


def energy_columns(rows: Sequence[Row]) -> Columns:
    """A column for each counter that measured any of the rows, and one for estimates."""
    energy: Columns = {f"energy, measured by {method}": _measured_cell(method) for method in measured_methods(rows)}
    if any(ESTIMATED in row for row in rows):
        energy["energy, estimated"] = _estimated_cell
    return energy


def ratio_cell(group: RunGroup) -> str:
    """Requested and realised prune ratio."""
    asked, realised = group.spread("prune_ratio"), group.spread("realised_ratio")
    if asked is None:
        return MISSING
    return f"{asked.mean:g} / {_plain(realised, len(group.rows), '.3f')}"


def emergence_cell(group: RunGroup) -> str:
    """When the ticket was drawn, in epochs and as a share of the schedule."""
    epoch, share = group.spread("emergence_epoch"), group.spread("emergence_share")
    vain = sum(row["searched_in_vain"] for row in group.rows)
    none = f"none in {vain} of {len(group.rows)}" if vain else ""
    mark = "†" if any(row["flags"] for row in group.rows) else ""
    if epoch is None or share is None:
        return f"{none or MISSING}{mark}"
    found = f"{_plain(epoch, len(group.rows), '.2f' if epoch.std else '.4g')} ({percent(share.mean)}){mark}"
    return f"{found}; {none}" if none else found


def quantity_cell(key: str, *, unit: str = "") -> Callable[[RunGroup], str]:
    """Column of a quantity and, in brackets, its ratio to dense."""

    def cell(group: RunGroup) -> str:
        value, ratio, runs = group.spread(key), group.spread(f"{key}_ratio"), len(group.rows)
        shown = _seconds(value, runs) if unit == "s" else _si(value, runs)
        return shown if ratio is None else f"{shown} ({_plain(ratio, runs, '.2f')})"

    return cell


def _measured_cell(method: str) -> Callable[[RunGroup], str]:
    """Column of what one counter measured, with its coverage where that is not all of the run."""

    def cell(group: RunGroup) -> str:
        shown, coverage = _joules(group, MEASURED + method), group.spread(COVERAGE + method)
        return shown if coverage is None or coverage.mean > WHOLE else f"{shown} [{percent(coverage.mean)} of the run]"

    return cell


def _estimated_cell(group: RunGroup) -> str:
    shown = _joules(group, ESTIMATED)
    return shown if shown == MISSING else f"~{shown}"


def _joules(group: RunGroup, key: str) -> str:
    value, ratio, runs = group.spread(key), group.spread(f"{key}_ratio"), len(group.rows)
    if value is None:
        return MISSING
    shown = _si(value, runs, unit="J")
    return shown if ratio is None else f"{shown} ({_plain(ratio, runs, '.2f')})"


def accuracy_cell(group: RunGroup) -> str:
    """Test accuracy in percent, with top-5 where there is one."""
    top1, top5 = (_plain(group.spread(key), len(group.rows), ".2f", scale=100) for key in ("accuracy", "top5_accuracy"))
    return top1 if top5 == MISSING else f"{top1}, top-5 {top5}"


COLUMNS: Columns = {
    "method": lambda group: group.name,
    "p asked / realised": ratio_cell,
    "test accuracy %": accuracy_cell,
    "ticket at epoch (of schedule)": emergence_cell,
    "parameters": quantity_cell("params"),
    "MACs per image": quantity_cell("macs"),
    "training MACs": quantity_cell("train_macs"),
    "training FLOPs, paper's count": quantity_cell("train_paper_flops"),
    "seconds": quantity_cell("wall_seconds", unit="s"),
    "n": lambda group: str(len(group.rows)),
}


def _plain(spread: Spread | None, runs: int, form: str, *, scale: float = 1.0, suffix: str = "") -> str:
    """`mean ± std`, the mean alone where all agree, and an n of its own where not all runs have the quantity."""
    if spread is None:
        return MISSING
    text = f"{scale * spread.mean:{form}}"
    if spread.std:
        text += f" ± {scale * spread.std:{form}}"
    return text + suffix + (f" [n={spread.n}]" if spread.n != runs else "")


def si(value: float, unit: str = "") -> str:
    """Three digits, a decimal prefix and a unit: `11.8 M`, `1.20 kJ`."""
    return _si(Spread(value, None, 1), 1, unit=unit)


def _si(spread: Spread | None, runs: int, *, unit: str = "") -> str:
    """Three digits and a decimal prefix, the same one for mean and deviation: `11.8 ± 0.2 M`."""
    if spread is None:
        return MISSING
    size, prefix = next(((s, p) for s, p in PREFIXES if spread.mean >= s), (1.0, ""))
    digits = max(0, 2 - int(math.log10(max(spread.mean / size, 1.0))))
    return _plain(spread, runs, f".{digits}f", scale=1 / size, suffix=(prefix or " ") + unit if unit else prefix)


def _seconds(spread: Spread | None, runs: int) -> str:
    return _plain(spread, runs, ",.0f" if spread and spread.mean >= 100 else ".1f")


def _notes(groups: Sequence[RunGroup]) -> list[str]:
    rows = [row for group in groups for row in group.rows]
    notes = [HOW_TO_READ, "Timed on: " + ", ".join(sorted({row["device"] for row in rows})) + "."]
    notes += energy_notes(rows)
    for group in groups:
        ratio = group.spread("wall_seconds_ratio")
        if ratio is not None and group.rows[0]["method"] != "dense" and ratio.mean >= 0.995:
            notes.append(f"{group.name} saves no time here: {ratio.mean:.2f} of the dense seconds.")
        if flags := sorted({flag for row in group.rows for flag in row["flags"]}):
            notes.append(f"† {group.name}: {'; '.join(flags)}.")
    if len({row["dense_run_id"] for row in rows} - {None}) == 0:
        notes.append(
            "No dense run of this model, data, schedule and seed is among the records: no training-cost ratios."
        )
    return notes


def energy_notes(rows: Sequence[Row]) -> list[str]:
    """Why energy was not measured or not estimated, and what an estimate is."""
    reasons = {row["energy_reason"] for row in rows} - {None}
    # A power meter's log may have been imported all the same: the reason is the run's own.
    own = "energy, by the run's own counter" if measured_methods(rows) else "energy"
    notes = [f"{own}: {reason}." for reason in sorted(reasons)]
    notes += [f"energy, not estimated: {why}." for why in sorted({row["estimate_reason"] for row in rows} - {None})]
    tables = sorted({row["estimate_source"] for row in rows} - {None})
    notes += [
        f"~ marks an estimate: counted products and memory traffic at the unit energies of {table}. It compares runs; "
        "it is no measurement."
        for table in tables
    ]
    return notes
