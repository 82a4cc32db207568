"""Results of a grid of runs: at equal ratio and at equal total cost, in full, in brief, and as plain numbers.

Differences of accuracy are formed within a seed, against the reference method (`early_bird`) at the same ratio. The
cost of a run is what it executed in MACs, its search included, its final evaluation left out: every run pays its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.report import quantities
from earlybird.report.comparison import row_of
from earlybird.report.quantities import Cells, Row, RunGroup, Spread, rows_of
from earlybird.report.table import MISSING, Cell, Table, named_columns
from earlybird.runs.record_file import recorded_training_macs

# A run whose cost is this near to the reference's stands in the table of equal cost without another schedule.
EQUAL_COST = 0.03
DENSE = "dense"
# A line of the table at equal cost that is further off is named below it.
OFF_COST = 0.05


@dataclass(frozen=True)
class GridEntry:
    """Run of a grid: `record` is None without a finished run, `error` says why, or is "".

    `label` is the method as it was asked for, `prune_ratio` None for a method without one, `is_equal_cost` tells that
    the schedule was set so that the cost is Early-Bird's, and `budget` what the run might cost, "" for anything.
    """

    label: str
    prune_ratio: float | None
    seed: int
    is_equal_cost: bool
    folder: str
    record: Mapping[str, Any] | None
    error: str = ""
    budget: str = ""


@dataclass(frozen=True)
class GridLine(RunGroup):
    """One method of a grid: a row for each seed that finished, beside the reference; `failed` counts runs that failed.

    `difference` is of accuracy, in points of a percent, from the reference; None for the reference and without pairs.
    `cost_ratio` is the mean of its cost divided by the reference's, within seeds; None without pairs.
    """

    difference: Spread | None
    cost_ratio: float | None
    failed: int


@dataclass(frozen=True)
class RatioResults:
    """All methods of a grid at one ratio: full schedules, dense first; and what costs as much as the reference, first.

    Under a `budget` ("" without one) all have the same cost, and the second is empty.
    `not_equal` is label -> cost ratio of methods that cost something else and were not run at equal cost;
    `accuracy_error` the standard error of one run's accuracy by the size of the test set, in points of a percent.
    """

    prune_ratio: float
    equal_ratio: tuple[GridLine, ...]
    equal_cost: tuple[GridLine, ...]
    not_equal: dict[str, float]
    accuracy_error: float
    budget: str = ""


def grid_rows(entries: Sequence[GridEntry]) -> dict[str, Row]:
    """Row of each finished run by its folder; ratios are to the dense run of the same seed and the full schedule.

    Under a budget without such a run, to the dense one of the same budget.
    """
    dense = {(e.seed, e.budget): e.record for e in entries if e.label == DENSE and e.record and not e.is_equal_cost}
    return {
        e.folder: row_of(e.record, dense.get((e.seed, ""), dense.get((e.seed, e.budget))))
        | {"training_macs": recorded_training_macs(e.record), "seed": e.seed, "step_ratio": _step_ratio(e.record)}
        for e in entries
        if e.record is not None
    }


def results_by_ratio(entries: Sequence[GridEntry], reference: str) -> list[RatioResults]:
    """Results for each ratio, in rising order; one with ratio 0 where no method has a ratio.

    Differences are formed against the method with the label `reference`.
    """
    rows, found = grid_rows(entries), []
    for budget in sorted({e.budget for e in entries}):
        own = [e for e in entries if e.budget == budget]
        ratios = sorted({e.prune_ratio for e in own if e.prune_ratio is not None}) or [0.0]
        found += [_results([e for e in own if e.prune_ratio in (None, p)], rows, p, reference, budget) for p in ratios]
    return found


def _results(
    entries: Sequence[GridEntry], rows: Mapping[str, Row], prune_ratio: float, reference: str, budget: str
) -> RatioResults:
    kinds: dict[tuple[str, bool], list[GridEntry]] = {}
    for entry in entries:
        kinds.setdefault((entry.label, entry.is_equal_cost), []).append(entry)
    base = {e.seed: rows[e.folder] for e in kinds.get((reference, False), ()) if e.folder in rows}
    lines = [(_line(runs, rows, base, reference), is_equal_cost) for (_, is_equal_cost), runs in kinds.items()]
    full = sorted((line for line, is_equal_cost in lines if not is_equal_cost), key=lambda line: line.name != DENSE)
    near = [line for line in full if line.cost_ratio is not None and abs(line.cost_ratio - 1) <= EQUAL_COST]
    near = [] if budget else near  # They all have that cost, in seconds.
    matched = [line for line, is_equal_cost in lines if is_equal_cost]
    equal = sorted([*near, *matched], key=lambda line: line.name != reference)
    names = {line.name for line in equal}
    others = {line.name: line.cost_ratio for line in full if line.cost_ratio is not None and line.name not in names}
    tests = sorted((row["accuracy"], row["test_images"]) for row in rows_of((*full, *matched)))
    error = 100 * quantities.sampling_error(*tests[len(tests) // 2]) if tests else 0.0  # of a typical run
    return RatioResults(prune_ratio, tuple(full), tuple(equal), {} if budget else others, error, budget)


def _step_ratio(record: Mapping[str, Any]) -> float | None:
    """Measured seconds of a training step of the final network, as a share of the dense one's, where a budget asked."""
    found = ((record.get("notes") or {}).get("budget") or {}).get("step_ratio")
    return None if found is None else float(found)


def _line(runs: Sequence[GridEntry], rows: Mapping[str, Row], base: Mapping[int, Row], reference: str) -> GridLine:
    finished = tuple(rows[e.folder] for e in runs if e.folder in rows)
    pairs = [(row, base[row["seed"]]) for row in finished if row["seed"] in base]
    points = [100 * (row["accuracy"] - partner["accuracy"]) for row, partner in pairs]
    costs = [row["training_macs"] / partner["training_macs"] for row, partner in pairs]
    difference = None if runs[0].label == reference else quantities.spread_of(points)
    cost_ratio = sum(costs) / len(costs) if costs else None
    return GridLine(runs[0].label, finished, difference, cost_ratio, sum(bool(e.error) for e in runs))


def full_tables(results: Sequence[RatioResults], reference: str, topic: str) -> list[Table]:
    """Tables with every quantity: for each ratio one at equal ratio, and one at equal total cost if there is any.

    The titles begin with `topic`: network, data, schedule and recipe.
    """
    sections = _sections(results, reference, topic)
    return [quantities.table_of(cells, lines, title, notes) for title, cells, lines, notes in sections]


def brief_tables(results: Sequence[RatioResults], reference: str, topic: str) -> list[Table]:
    """Tables of `full_tables` with the main quantities, narrow enough for a terminal of 80 letters."""
    brief: Cells = {
        "method": lambda line: line.name,
        "test accuracy %": quantities.accuracy_cell,
        "points": _points,
        "training MACs / dense": lambda line: _share(line, "train_macs"),
        "seconds / dense": lambda line: _share(line, "wall_seconds"),
        "cost ratio": _cost,
        "n": _runs,
    }
    tables = []
    for title, _, lines, notes in _sections(results, reference, topic):
        energy = quantities.energy_notes(rows_of(lines))  # of columns that are not shown here
        notes = [note for note in notes if note not in energy]
        tables.append(quantities.table_of(brief, lines, title, notes))
    return tables


def means_table(results: Sequence[RatioResults]) -> Table:
    """Means and deviations as plain numbers, a row for each method, ratio and kind of comparison."""
    found = [
        (kind, result.prune_ratio, line)
        for result in results
        for kind, lines in (("equal ratio", result.equal_ratio), ("equal cost", result.equal_cost))
        for line in lines
    ]
    joules = quantities.energy_keys(rows_of(line for *_, line in found))
    means = ("train_macs", "train_paper_flops", "wall_seconds", "cpu_seconds", "params", "macs", *joules)
    names = (
        "comparison", "prune_ratio", "method", "n", "failed", "accuracy", "accuracy_std", "points", "points_half_width",
        "points_n", "cost_ratio", *means,
    )  # fmt: skip
    rows = [
        [
            kind, ratio, line.name, len(line.rows), line.failed, *_parts(line.spread("accuracy"), "mean", "std"),
            *_parts(line.difference, "mean", "half_width", "n"), line.cost_ratio,
            *(mean for key in means for mean in _parts(line.spread(key), "mean")),
        ]
        for kind, ratio, line in found
    ]  # fmt: skip
    return Table(named_columns(*names), rows)


def runs_table(entries: Sequence[GridEntry]) -> Table:
    """Plain numbers of each run, a row for failed ones too."""
    found = grid_rows(entries)
    names = (
        "folder", "method", "prune_ratio", "seed", "equal_cost", "status", "error", "accuracy", "top5_accuracy",
        "uncut_accuracy", "realised_ratio", "emergence_epoch", "epochs", "trained_epochs", "params", "macs",
        "train_macs", "training_macs", "train_paper_flops", "wall_seconds", "cpu_seconds",
        *quantities.energy_keys(found.values()),
    )  # fmt: skip
    rows = []
    for entry in entries:
        status = "finished" if entry.folder in found else "failed" if entry.error else "open"
        own = (entry.folder, entry.label, entry.prune_ratio, entry.seed, entry.is_equal_cost, status, entry.error)
        facts = found.get(entry.folder, {})
        rows.append([*own, *(facts.get(name) for name in names[len(own) :])])
    return Table(named_columns(*names), rows)


def _parts(value: object, *names: str) -> list[Cell]:
    """Attributes of a value; None for each if there is no value."""
    return [getattr(value, name, None) for name in names]


def _sections(
    results: Sequence[RatioResults], reference: str, topic: str
) -> Iterator[tuple[str, Cells, Sequence[GridLine], list[str]]]:
    """Title, columns, lines and notes of each table."""
    for result in results:
        where = f"{topic}, p = {result.prune_ratio:g}" if result.prune_ratio else topic
        lines = result.equal_ratio
        if result.budget:
            yield f"{where}: budget {result.budget}", _budget_cells(lines, reference), lines, _notes(result, reference)
            continue
        yield f"{where}: at equal ratio", _ratio_cells(lines, reference), lines, _notes(result, reference)
        if lines := result.equal_cost:
            title = f"{where}: at the total cost of {reference}"
            yield title, _cost_cells(lines, reference), lines, _equal_notes(result, reference)


def _ratio_cells(lines: Sequence[GridLine], reference: str) -> Cells:
    """Columns at equal ratio: CPU seconds if all was computed on CPUs, and the known energies, after the seconds."""
    rows = rows_of(lines)
    is_cpu = bool(rows) and all(row["device"].startswith("cpu") for row in rows)
    cpu_seconds: Cells = {"CPU seconds": lambda line: quantities.seconds_text(line, "cpu_seconds")}
    return {
        "method": lambda line: line.name,
        "p asked / realised": quantities.prune_ratio_cell,
        "test accuracy %": quantities.accuracy_cell,
        f"points from {reference}": _points,
        "ticket at epoch": quantities.emergence_cell,
        **quantities.COST_CELLS,
        **(cpu_seconds if is_cpu else {}),
        **quantities.energy_columns(rows),
        f"cost / {reference}": _cost,
        "n": _runs,
    }


def _cost_cells(lines: Sequence[GridLine], reference: str) -> Cells:
    """Columns at equal cost: the schedule instead of what is the same at equal ratio."""
    alike = ("p asked / realised", "ticket at epoch", "training FLOPs, paper's count")
    cells = {name: cell for name, cell in _ratio_cells(lines, reference).items() if name not in alike}
    return {
        "method": cells.pop("method"),
        "schedule, epochs": lambda line: _range(line, "epochs"),
        "trained to epoch": lambda line: _range(line, "trained_epochs") + ("†" if line.flags() else ""),
        **cells,
    }


def _budget_cells(lines: Sequence[GridLine], reference: str) -> Cells:
    """Columns under a budget: what a step of the final network takes, and how long it was trained."""
    cells = dict(_cost_cells(lines, reference))
    step: dict[str, Callable[[Any], str]] = {
        "step / dense": lambda line: quantities.mean_text(line, "step_ratio", ".2f")
    }
    names = ("method", "trained to epoch", "test accuracy %", f"points from {reference}")
    return {name: cells.pop(name) for name in names} | step | cells


def _points(line: GridLine) -> str:
    """`+0.31 ± 0.52`: points, and half of the 95 % confidence interval where there are several seeds."""
    if (found := line.difference) is None:
        return MISSING
    return f"{found.mean:+.2f}" + ("" if found.half_width is None else f" ± {found.half_width:.2f}")


def _runs(line: GridLine) -> str:
    return f"{len(line.rows)}" + (f" ({line.failed} failed)" if line.failed else "")


def _cost(line: GridLine) -> str:
    return MISSING if line.cost_ratio is None else f"{line.cost_ratio:.2f}"


def _share(line: GridLine, key: str) -> str:
    spread = line.spread(f"{key}_ratio")
    return MISSING if spread is None else f"{spread.mean:.2f}"


def _range(line: GridLine, key: str) -> str:
    found = sorted(row[key] for row in line.rows)
    return "–".join(dict.fromkeys(f"{value:.4g}" for value in (found[:1] + found[-1:]))) or MISSING


def _notes(result: RatioResults, reference: str) -> list[str]:
    notes = [
        *_budget_notes(result.budget),
        "Mean ± sample standard deviation over n seeds. In brackets: divided by the dense run of the same seed. "
        "Training cost counts search, training and evaluation; what runs share is charged to each in full. Points: "
        f"mean difference from {reference} within seeds, ± half of its 95 % confidence interval (Student).",
        f"One run's accuracy has a standard error of {result.accuracy_error:.2f} points by the size of the test set "
        "alone: differences of one seed below about three times that say little.",
        *quantities.energy_notes(rows_of(result.equal_ratio)),
        *_timing_notes(result.equal_ratio),
    ]
    for line in result.equal_ratio:
        before = line.spread("uncut_accuracy")
        if before is not None:
            notes.append(f"{line.name}: {100 * before.mean:.2f} % before its channels went.")
        notes += quantities.flag_notes(line)
    return notes


def _budget_notes(budget: str) -> list[str]:
    if not budget:
        return []
    told = "of the dense training" if budget.startswith(("time", "macs")) else "seconds"
    return [
        f"Budget {budget}: every method may take this {told}, its search included. Steps are counted at their measured "
        "seconds; step / dense is a step of the final network against one of the dense network, in turns."
    ]


def _equal_notes(result: RatioResults, reference: str) -> list[str]:
    notes = [
        f"Every method at the training MACs of {reference} with the same seed: as it is, or with a last training as "
        "long as what its search leaves of them buys. A search as long as the schedule is shortened with it first.",
        *(note for line in result.equal_cost for note in quantities.flag_notes(line)),
        *_timing_notes(result.equal_cost),
    ]
    costs = {line.name: line.cost_ratio for line in result.equal_cost if line.cost_ratio is not None}
    if off := {name: ratio for name, ratio in costs.items() if abs(ratio - 1) > OFF_COST}:
        notes.append(f"Not at that cost after all, and not to be compared with the others: {_listed(off)}.")
    if result.not_equal:
        notes.append(f"Cost another share of {reference}'s and were not run at its cost: {_listed(result.not_equal)}.")
    return notes


def _listed(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({ratio:.2f})" for name, ratio in ratios.items())


def _timing_notes(lines: Sequence[GridLine]) -> list[str]:
    unlike = [line.name for line in lines if any(row["is_timed_alike"] is False for row in line.rows)]
    return [
        "Timed on another device or with another number of threads than the dense run of their seed, so that their "
        f"seconds are not to be compared with its: {', '.join(unlike)}."
    ] if unlike else []  # fmt: skip
