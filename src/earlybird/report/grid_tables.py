"""A grid's tables for the terminal, as Markdown, as LaTeX and as CSV; all from the same columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from earlybird.report.energy import energy_keys
from earlybird.report.grid import GridEntry, GridLine, GridTable, grid_rows
from earlybird.report.grid_columns import BRIEF, Cells, equal_cost_columns, equal_ratio_columns, named
from earlybird.report.tables import energy_notes, markdown_line

# A line of the table at equal cost that is further off is named below it.
OFF_COST = 0.05
# Letters of a method's name in a terminal before it is folded.
_NAME_WIDTH = 18


def print_grid(tables: Sequence[GridTable], reference: str, topic: str, console: Console | None = None) -> None:
    """Print what decides, narrow enough for a terminal: quantities across, methods down."""
    console = console or Console()
    for heading, _, lines, notes in _sections(tables, reference, topic):
        columns = named(BRIEF, reference)
        console.print(heading, style="bold", markup=False, highlight=False)
        table = Table()
        width = max((len(line.group.name) for line in lines), default=0)
        # A width of its own, or rich takes the room for the numbers from the names.
        table.add_column(Text(next(iter(columns))), overflow="fold", width=min(_NAME_WIDTH, width))
        for name in list(columns)[1:]:
            table.add_column(Text(name), justify="right", overflow="fold")
        for line in lines:
            table.add_row(*(Text(cell(line)) for cell in columns.values()))
        console.print(table)
        energy = energy_notes([row for line in lines for row in line.group.rows])  # of columns that are not shown here
        for note in [note for note in notes if note not in energy]:
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()


def markdown_grid(tables: Sequence[GridTable], reference: str, topic: str) -> str:
    """The same in Markdown, each table under a heading of its own; ends with a newline."""
    blocks = []
    for heading, columns, lines, notes in _sections(tables, reference, topic):
        text = [f"### {heading}", "", markdown_line(list(columns)), "|---|" + "---:|" * (len(columns) - 1)]
        text += [markdown_line([cell(line) for cell in columns.values()]) for line in lines]
        blocks.append("\n".join([*text, "", *(f"{note}  " for note in notes)]).rstrip())
    return "\n\n".join(blocks) + "\n"


def latex_grid(tables: Sequence[GridTable], reference: str, topic: str) -> str:
    """The same as LaTeX tables for the package booktabs."""
    blocks = []
    for heading, columns, lines, notes in _sections(tables, reference, topic):
        rows = [" & ".join(_latex(cell(line)) for cell in columns.values()) + r" \\" for line in lines]
        blocks.append(
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{_latex(heading)}. {_latex(' '.join(notes))}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
                    r"\toprule",
                    " & ".join(map(_latex, columns)) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def table_csv(tables: Sequence[GridTable]) -> str:
    """A line for each method, ratio and kind of comparison: means and deviations as plain numbers."""
    found = [
        (kind, table, line)
        for table in tables
        for kind, lines in (("equal ratio", table.equal_ratio), ("equal cost", table.equal_cost))
        for line in lines
    ]
    joules = energy_keys(row for _, _, line in found for row in line.group.rows)
    means = ("train_macs", "train_paper_flops", "wall_seconds", "cpu_seconds", "params", "macs", *joules)
    names = (
        "comparison", "prune_ratio", "method", "n", "failed", "accuracy", "accuracy_std", "points", "points_half_width",
        "points_n", "cost_ratio", *means,
    )  # fmt: skip
    lines: list[dict[str, object]] = []
    for kind, table, line in found:
        accuracy, points = line.group.spread("accuracy"), line.difference
        facts: dict[str, object] = {
            "comparison": kind,
            "prune_ratio": table.prune_ratio,
            "method": line.group.name,
            "n": len(line.group.rows),
            "failed": line.failed,
            "accuracy": accuracy.mean if accuracy else None,
            "accuracy_std": accuracy.std if accuracy else None,
            "points": points.mean if points else None,
            "points_half_width": points.half_width if points else None,
            "points_n": points.n if points else None,
            "cost_ratio": line.cost_ratio,
        }
        lines.append(facts | {key: spread.mean if (spread := line.group.spread(key)) else None for key in means})
    return _csv(names, lines)


def runs_csv(entries: Sequence[GridEntry]) -> str:
    """A line for each run, failed ones too."""
    rows = {entry.folder: row for entry, row in grid_rows(entries)}
    names = (
        "folder", "method", "prune_ratio", "seed", "equal_cost", "status", "error", "accuracy", "top5_accuracy",
        "uncut_accuracy", "realised_ratio", "emergence_epoch", "epochs", "trained_epochs", "params", "macs",
        "train_macs", "training_macs", "train_paper_flops", "wall_seconds", "cpu_seconds", *energy_keys(rows.values()),
    )  # fmt: skip
    lines: list[dict[str, object]] = []
    for entry in entries:
        row = rows.get(entry.folder, {})
        status = "finished" if row else "failed" if entry.error else "open"
        lines.append(
            {name: row.get(name) for name in names}
            | {"folder": entry.folder, "method": entry.label, "prune_ratio": entry.prune_ratio, "seed": entry.seed}
            | {"equal_cost": entry.is_equal_cost, "status": status, "error": entry.error}
        )
    return _csv(names, lines)


def _sections(
    tables: Sequence[GridTable], reference: str, topic: str
) -> list[tuple[str, Cells, tuple[GridLine, ...], list[str]]]:
    found = []
    for table in tables:
        where = f"{topic}, p = {table.prune_ratio:g}" if table.prune_ratio else topic
        columns = equal_ratio_columns(table, reference)
        found.append((f"{where}: at equal ratio", columns, table.equal_ratio, _notes(table, reference)))
        if table.equal_cost:
            notes = _equal_notes(table, reference)
            heading = f"{where}: at the total cost of {reference}"
            found.append((heading, equal_cost_columns(table, reference), table.equal_cost, notes))
    return found


def _notes(table: GridTable, reference: str) -> list[str]:
    notes = [
        "Mean ± sample standard deviation over n seeds. In brackets: divided by the dense run of the same seed. "
        "Training cost counts search, training and evaluation; what runs share is charged to each in full. Points: "
        f"mean difference from {reference} within seeds, ± half of its 95 % confidence interval (Student).",
        f"One run's accuracy has a standard error of {table.accuracy_error:.2f} points by the size of the test set "
        "alone: differences of one seed below about three times that say little.",
    ]
    notes += energy_notes([row for line in table.equal_ratio for row in line.group.rows])
    notes += _timing_notes(table.equal_ratio)
    for line in table.equal_ratio:
        before = line.group.spread("uncut_accuracy")
        if before is not None:
            notes.append(f"{line.group.name}: {100 * before.mean:.2f} % before its channels went.")
        notes += _flag_notes(line)
    return notes


def _flag_notes(line: GridLine) -> list[str]:
    flags = sorted({flag for row in line.group.rows for flag in row["flags"]})
    return [f"† {line.group.name}: {'; '.join(flags)}."] if flags else []


def _timing_notes(lines: Sequence[GridLine]) -> list[str]:
    unlike = [line.group.name for line in lines if any(row["is_timed_alike"] is False for row in line.group.rows)]
    return [
        "Timed on another device or with another number of threads than the dense run of their seed, so that their "
        f"seconds are not to be compared with its: {', '.join(unlike)}."
    ] if unlike else []  # fmt: skip


def _equal_notes(table: GridTable, reference: str) -> list[str]:
    notes = [
        f"Every method at the training MACs of {reference} with the same seed: as it is, or with a last training as "
        "long as what its search leaves of them buys. A search as long as the schedule is shortened with it first."
    ]
    for line in table.equal_cost:
        notes += _flag_notes(line)
    notes += _timing_notes(table.equal_cost)
    off = {line.group.name: line.cost_ratio for line in table.equal_cost if line.cost_ratio is not None}
    off = {name: ratio for name, ratio in off.items() if abs(ratio - 1) > OFF_COST}
    if off:
        listed = ", ".join(f"{name} ({ratio:.2f})" for name, ratio in off.items())
        notes.append(f"Not at that cost after all, and not to be compared with the others: {listed}.")
    if table.not_equal:
        listed = ", ".join(f"{name} ({ratio:.2f})" for name, ratio in table.not_equal.items())
        notes.append(f"Cost another share of {reference}'s and were not run at its cost: {listed}.")
    return notes


def _latex(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    for sign, code in (("±", r"$\pm$"), ("–", "--"), ("~", r"$\sim$"), ("^", r"\textasciicircum{}"), ("†", r"\dag{}")):
        text = text.replace(sign, code)
    return text


def _csv(names: Sequence[str], lines: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
