"""The columns of a grid's tables: what stands beside a method, with its ratio to dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from earlybird.report.comparison import Row, RunGroup
from earlybird.report.grid import GridLine, GridTable
from earlybird.report.intervals import PairedDifference
from earlybird.report.tables import MISSING, accuracy_cell, emergence_cell, energy_columns, quantity_cell, ratio_cell

Cells = dict[str, Callable[[GridLine], str]]


def _of_group(cell: Callable[[RunGroup], str]) -> Callable[[GridLine], str]:
    return lambda line: cell(line.group) if line.group.rows else MISSING


def _runs(line: GridLine) -> str:
    return f"{len(line.group.rows)}" + (f" ({line.failed} failed)" if line.failed else "")


def _cost(line: GridLine) -> str:
    return MISSING if line.cost_ratio is None else f"{line.cost_ratio:.2f}"


def difference_text(difference: PairedDifference | None) -> str:
    """`+0.31 ± 0.52`: points, and half of the 95 % confidence interval where there are several seeds."""
    if difference is None:
        return MISSING
    interval = "" if difference.half_width is None else f" ± {difference.half_width:.2f}"
    return f"{difference.mean:+.2f}{interval}"


EQUAL_RATIO: Cells = {
    "method": lambda line: line.group.name,
    "p asked / realised": _of_group(ratio_cell),
    "test accuracy %": _of_group(accuracy_cell),
    "points from {reference}": lambda line: difference_text(line.difference),
    "ticket at epoch": _of_group(emergence_cell),
    "parameters": _of_group(quantity_cell("params")),
    "MACs per image": _of_group(quantity_cell("macs")),
    "training MACs": _of_group(quantity_cell("train_macs")),
    "training FLOPs, paper's count": _of_group(quantity_cell("train_paper_flops")),
    "seconds": _of_group(quantity_cell("wall_seconds", unit="s")),
    "cost / {reference}": _cost,
    "n": _runs,
}
EQUAL_COST: Cells = {
    "method": lambda line: line.group.name,
    "schedule, epochs": lambda line: _range(line, "epochs"),
    "trained to epoch": lambda line: _range(line, "trained_epochs") + _mark(line),
    "test accuracy %": _of_group(accuracy_cell),
    "points from {reference}": lambda line: difference_text(line.difference),
    "parameters": _of_group(quantity_cell("params")),
    "MACs per image": _of_group(quantity_cell("macs")),
    "training MACs": _of_group(quantity_cell("train_macs")),
    "seconds": _of_group(quantity_cell("wall_seconds", unit="s")),
    "cost / {reference}": _cost,
    "n": _runs,
}


BRIEF: Cells = {
    "method": lambda line: line.group.name,
    "test accuracy %": _of_group(accuracy_cell),
    "points": lambda line: difference_text(line.difference),
    "training MACs / dense": lambda line: _share(line, "train_macs"),
    "seconds / dense": lambda line: _share(line, "wall_seconds"),
    "cost ratio": _cost,
    "n": _runs,
}


def _share(line: GridLine, key: str) -> str:
    spread = line.group.spread(f"{key}_ratio")
    return MISSING if spread is None else f"{spread.mean:.2f}"


def _range(line: GridLine, key: str) -> str:
    found = sorted(row[key] for row in line.group.rows)
    ends = dict.fromkeys(f"{value:.4g}" for value in (found[:1] + found[-1:]))
    return "–".join(ends) or MISSING


def _mark(line: GridLine) -> str:
    return "†" if any(row["flags"] for row in line.group.rows) else ""


def equal_ratio_columns(table: GridTable, reference: str) -> Cells:
    """The columns of the table at equal ratio."""
    return _with_expenses(EQUAL_RATIO, table.equal_ratio, reference)


def equal_cost_columns(table: GridTable, reference: str) -> Cells:
    """The columns of the table at equal total cost."""
    return _with_expenses(EQUAL_COST, table.equal_cost, reference)


def named(columns: Cells, reference: str) -> Cells:
    """Columns under their names, which may say what they refer to."""
    return {name.format(reference=reference): cell for name, cell in columns.items()}


def _with_expenses(columns: Cells, lines: Sequence[GridLine], reference: str) -> Cells:
    """The columns, and after the seconds those of CPUs where all was computed on CPUs, and what energies are known."""
    rows: list[Row] = [row for line in lines for row in line.group.rows]
    cells = {}
    for name, cell in named(columns, reference).items():
        cells[name] = cell
        if name == "seconds":
            if rows and all(row["device"].startswith("cpu") for row in rows):
                cells["CPU seconds"] = _of_group(quantity_cell("cpu_seconds", unit="s"))
            cells |= {name: _of_group(energy) for name, energy in energy_columns(rows).items()}
    return cells
