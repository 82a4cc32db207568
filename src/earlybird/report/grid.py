"""Results of a grid of runs: at equal ratio, and at equal total cost, with paired differences over seeds.

Differences of accuracy are formed within a seed, against the reference method (`early_bird`) at the same ratio. The
cost of a run is what it executed in MACs, its search included, its final evaluation left out: every run pays its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earlybird.report.comparison import row_of
from earlybird.report.spread import PairedDifference, Row, RunGroup, paired_difference, rows_of, sampling_error
from earlybird.runs.record_file import recorded_training_macs

# A run whose cost is this near to the reference's stands in the table of equal cost without another schedule.
EQUAL_COST = 0.03
DENSE = "dense"


@dataclass(frozen=True)
class GridEntry:
    """Run of a grid: its record, or the reason why there is none.

    Attributes:
        label: the method as it was asked for.
        prune_ratio: p, or None for a method without one.
        seed: of the run.
        is_equal_cost: its schedule was set so that its cost is Early-Bird's.
        folder: name of its folder.
        record: of the finished run, or None.
        error: why it failed, or "".
    """

    label: str
    prune_ratio: float | None
    seed: int
    is_equal_cost: bool
    folder: str
    record: Mapping[str, Any] | None
    error: str = ""


@dataclass(frozen=True)
class GridLine(RunGroup):
    """One method of a grid: a row for each seed that finished, beside the reference.

    Attributes:
        difference: of accuracy, in points of a percent, from the reference; None for the reference and without pairs.
        cost_ratio: mean of its cost divided by the reference's, within seeds; None without pairs.
        failed: runs that failed.
    """

    difference: PairedDifference | None
    cost_ratio: float | None
    failed: int


@dataclass(frozen=True)
class RatioResults:
    """All methods of a grid at one ratio.

    Attributes:
        prune_ratio: p.
        equal_ratio: lines of full schedules, dense first.
        equal_cost: lines whose cost is the reference's, the reference first.
        not_equal: label -> cost ratio of methods that cost something else and were not run at equal cost.
        accuracy_error: standard error of one run's accuracy by the size of the test set, in points of a percent.
    """

    prune_ratio: float
    equal_ratio: tuple[GridLine, ...]
    equal_cost: tuple[GridLine, ...]
    not_equal: dict[str, float]
    accuracy_error: float


def grid_rows(entries: Sequence[GridEntry]) -> dict[str, Row]:
    """Row of each finished run by its folder; ratios are to the dense run of the same seed and the full schedule."""
    dense = {e.seed: e.record for e in entries if e.label == DENSE and e.record and not e.is_equal_cost}
    return {
        e.folder: row_of(e.record, dense.get(e.seed))
        | {
            "training_macs": recorded_training_macs(e.record),
            "seed": e.seed,
            "test_images": e.record["test"]["samples"],
        }
        for e in entries
        if e.record is not None
    }


def results_by_ratio(entries: Sequence[GridEntry], reference: str) -> list[RatioResults]:
    """Results for each ratio, in rising order; one with ratio 0 where no method has a ratio.

    Differences are formed against the method with the label `reference`.
    """
    rows = grid_rows(entries)
    ratios = sorted({e.prune_ratio for e in entries if e.prune_ratio is not None}) or [0.0]
    return [_results([e for e in entries if e.prune_ratio in (None, p)], rows, p, reference) for p in ratios]


def _results(entries: Sequence[GridEntry], rows: Mapping[str, Row], prune_ratio: float, reference: str) -> RatioResults:
    kinds: dict[tuple[str, bool], list[GridEntry]] = {}
    for entry in entries:
        kinds.setdefault((entry.label, entry.is_equal_cost), []).append(entry)
    finished = {kind: [rows[e.folder] for e in runs if e.folder in rows] for kind, runs in kinds.items()}
    base = {row["seed"]: row for row in finished.get((reference, False), ())}
    full: list[GridLine] = []
    matched: list[GridLine] = []
    for (label, is_equal_cost), runs in kinds.items():
        failed = sum(bool(e.error) for e in runs)
        line = _line(label, finished[label, is_equal_cost], base, reference, failed)
        (matched if is_equal_cost else full).append(line)
    full.sort(key=lambda line: line.name != DENSE)
    near = [line for line in full if line.cost_ratio is not None and abs(line.cost_ratio - 1) <= EQUAL_COST]
    equal = sorted([*near, *matched], key=lambda line: line.name != reference)
    names = {line.name for line in equal}
    others = {line.name: line.cost_ratio for line in full if line.cost_ratio is not None and line.name not in names}
    tests = sorted((row["accuracy"], row["test_images"]) for row in rows_of((*full, *matched)))
    error = 100 * sampling_error(*tests[len(tests) // 2]) if tests else 0.0  # of a typical run
    return RatioResults(prune_ratio, tuple(full), tuple(equal), others, error)


def _line(label: str, rows: Sequence[Row], base: Mapping[int, Row], reference: str, failed: int) -> GridLine:
    pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
    points = [100 * (row["accuracy"] - partner["accuracy"]) for row, partner in pairs]
    costs = [row["training_macs"] / partner["training_macs"] for row, partner in pairs]
    difference = None if label == reference else paired_difference(points)
    return GridLine(label, tuple(rows), difference, sum(costs) / len(costs) if costs else None, failed)
