"""Results of a grid of runs: at equal ratio, at equal total cost, and under budgets (`grid_tables` shows them).

Differences of accuracy are formed within a seed, against the reference method (`early_bird`) at the same ratio. The
cost of a run is what it executed in MACs, its search included, its final evaluation left out: every run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from earlybird.report import quantities
from earlybird.report.comparison import method_label, row_of, scheduled_epochs
from earlybird.report.quantities import Row, RunGroup, Spread, rows_of
from earlybird.runs.record_file import recorded_training_macs
from earlybird.settings.budget import parse_budget

# A run whose cost is this near to the reference's stands in the table of equal cost without another schedule.
EQUAL_COST = 0.03
DENSE = "dense"


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

    Under a `budget` ("" without one) all have the same cost, and the second is empty; `whole` is the dense training
    of T epochs, where the grid has it.
    `not_equal` is label -> cost ratio of methods that cost something else and were not run at equal cost;
    `accuracy_error` the standard error of one run's accuracy by the size of the test set, in points of a percent.
    """

    prune_ratio: float
    equal_ratio: tuple[GridLine, ...]
    equal_cost: tuple[GridLine, ...]
    not_equal: dict[str, float]
    accuracy_error: float
    budget: str = ""
    whole: GridLine | None = None


def grid_rows(entries: Sequence[GridEntry]) -> dict[str, Row]:
    """Row of each finished run by its folder; ratios are to the dense run of the same seed and the full schedule.

    Under a budget without such a run, to the dense one of the same budget.
    """
    dense = {(e.seed, e.budget): e.record for e in entries if e.label == DENSE and e.record and not e.is_equal_cost}
    return {
        e.folder: row_of(e.record, dense.get((e.seed, ""), dense.get((e.seed, e.budget))))
        | {"training_macs": recorded_training_macs(e.record), "seed": e.seed}
        | budget_facts(e.record)
        | {f"training_{key}": _of_training(e.record, key) for key in ("cpu_seconds", "wall_seconds")}
        for e in entries
        if e.record is not None
    }


def budget_facts(record: Mapping[str, Any]) -> Row:
    """Share of the dense training of T epochs that a run took, where a budget asked or where it is that training.

    Each is None where it is not known. `step_ratio`: a training step of the final network, divided by one of the dense
    network: measured seconds, or MACs under a budget in MACs. `budget_share` (`budget_asked`): what the whole run took
    (might take), its search included, in that measure. `time_share` is `budget_share` where the measure is seconds.
    """
    told = (record.get("notes") or {}).get("budget") or {}
    if not told:
        is_whole = method_label(record) == DENSE and not record["config"]["training"].get("budget_macs")
        whole = 1.0 if is_whole else None
        return {"step_ratio": None, "budget_asked": None, "budget_share": whole, "time_share": whole}
    steps = record["resolved"]["steps_per_epoch"] * scheduled_epochs(record)
    ratio = told.get("step_ratio")  # None where nothing was trained after the search
    last = 0.0 if ratio is None else told["steps"] * ratio
    share, budget = (told["spent"] * told["dense_steps"] + last) / steps, parse_budget(told["asked"])
    return {
        "step_ratio": ratio,
        "budget_asked": told["dense_steps"] / steps,
        "budget_share": share,
        "time_share": None if budget is None or budget.kind == "macs" else share,
    }


def _of_training(record: Mapping[str, Any], key: str) -> float:
    """Seconds of the search and of what was trained, without the cut, where step times are measured, and evaluation."""
    phases = record["cost"]["phases"]
    return sum(float(phase.get(key) or 0.0) for name, phase in phases.items() if name not in ("slim", "evaluate"))


def results_by_ratio(entries: Sequence[GridEntry], reference: str) -> list[RatioResults]:
    """Results for each budget and ratio, in rising order; one with ratio 0 where no method has a ratio.

    Differences are formed against the method with the label `reference`.
    """
    rows, found = grid_rows(entries), []
    whole = [e for e in entries if e.label == DENSE and not e.budget and not e.is_equal_cost and e.folder in rows]
    for budget in sorted({e.budget for e in entries}, key=_order):
        own = [e for e in entries if e.budget == budget]
        ratios = sorted({e.prune_ratio for e in own if e.prune_ratio is not None}) or [0.0]
        for p in ratios:
            chosen = [e for e in own if e.prune_ratio in (None, p)]
            found.append(_results(chosen, rows, p, reference, whole if budget else ()))
    return found


def _order(budget: str) -> tuple[str, float]:
    found = parse_budget(budget)
    return ("", 0.0) if found is None else (found.kind, found.amount)


def _results(
    entries: Sequence[GridEntry],
    rows: Mapping[str, Row],
    prune_ratio: float,
    reference: str,
    whole: Sequence[GridEntry],
) -> RatioResults:
    budget = entries[0].budget
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
    whole_line = replace(_line(whole, rows, base, ""), name=f"{DENSE}, full schedule") if whole else None
    return RatioResults(prune_ratio, tuple(full), tuple(equal), {} if budget else others, error, budget, whole_line)


def _line(runs: Sequence[GridEntry], rows: Mapping[str, Row], base: Mapping[int, Row], reference: str) -> GridLine:
    finished = tuple(rows[e.folder] for e in runs if e.folder in rows)
    pairs = [(row, base[row["seed"]]) for row in finished if row["seed"] in base]
    points = [100 * (row["accuracy"] - partner["accuracy"]) for row, partner in pairs]
    costs = [row["training_macs"] / partner["training_macs"] for row, partner in pairs]
    difference = None if runs[0].label == reference else quantities.spread_of(points)
    cost_ratio = sum(costs) / len(costs) if costs else None
    return GridLine(runs[0].label, finished, difference, cost_ratio, sum(bool(e.error) for e in runs))
